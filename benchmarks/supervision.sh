#!/bin/sh
# What queries made from the catalogue teach, how far fine-tuning carries from one shop or category to others, and
# whether trees earn their place in the last mile: some 90 minutes on two cores. A stopped run goes on.
#
# Needs $SHELFRANK_DATA/esci, the `train` extra and lightgbm (see benchmarks/trees.py). The first stage and what is
# fine-tuned further are the untrained encoder, which has read no query; the reranker that ships has read ESCI's judged
# queries, so it is not measured on them. RUN_FOLDER takes the models and tables.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
run=${RUN_FOLDER:-$root/runs/supervision}
. "$root/deploy/models/catalogues.sh"
graded=$root/deploy/models/graded
export SHELFRANK_SEARCH_WINDOW=25

untrained fill relevance-untrained
set -- --shop relevance-untrained-esci "$graded/esci.queries.tsv" "$graded/esci.qrels.tsv" \
    --shop relevance-untrained-sample "$graded/sample.queries.tsv" "$graded/sample.qrels.tsv" \
    --shop relevance-untrained-sample "$shop/queries.tsv" "$shop/qrels.tsv"
untrained python "$root/benchmarks/supervision.py" --work "$run/made" "$@" > "$run/made.txt"
python "$root/benchmarks/trees.py" --windows "$run/made/windows.json" > "$run/trees.txt"
untrained python "$root/benchmarks/transfer.py" --work "$run/transfer" --options "$root/deploy/models/encoder.toml" "$@" \
    --people relevance-untrained-esci "$esci/queries.tsv" "$esci/qrels.tsv" > "$run/transfer.txt"
cat "$run"/*.txt
