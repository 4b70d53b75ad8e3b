#!/bin/sh
# What each source of supervision teaches, how far it carries, and whether trees earn their place in the last mile: some
# 70 minutes on two cores. A stopped run goes on.
#
# Needs $SHELFRANK_DATA/esci, the `train` extra and lightgbm (see benchmarks/trees.py). Everything is done on indexes of
# the untrained encoder, so that nothing has read a query that it is measured on; of the reranker that ships, which has
# read ESCI's, only the features of other queries are used. RUN_FOLDER takes the models and tables.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
run=${RUN_FOLDER:-$root/runs/supervision}
. "$root/deploy/models/catalogues.sh"
graded=$root/deploy/models/graded

untrained fill relevance-untrained
export SHELFRANK_SEARCH_WINDOW=25
untrained python "$root/benchmarks/supervision.py" --work "$run" --lists 480 --layers 3 \
    --shop relevance-untrained-esci "$graded/esci.queries.tsv" "$graded/esci.qrels.tsv" \
    --shop relevance-untrained-sample "$graded/sample.queries.tsv" "$graded/sample.qrels.tsv" \
    --shop relevance-untrained-sample "$shop/queries.tsv" "$shop/qrels.tsv" \
    --people relevance-untrained-esci "$esci/queries.tsv" "$esci/qrels.tsv" > "$run/supervision.txt"
python "$root/benchmarks/trees.py" --windows "$run/windows.json" \
    --leave-out relevance-untrained-esci "$esci/queries.tsv" > "$run/trees.txt"
cat "$run/supervision.txt" "$run/trees.txt"
