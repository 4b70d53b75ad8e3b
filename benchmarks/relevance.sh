#!/bin/sh
# The relevance figures of the README: some 50 minutes on two cores.
#
# Needs $SHELFRANK_DATA/esci, the `train` extra, and what `make models` left in runs/unseen (or $UNSEEN_FOLDER): the
# bundles that ship as they were before their last pass, which reads ESCI's queries. The untrained encoder makes an index
# of its own, on which BM25 and fusion are tuned inside the folds; the bundles make another and are compared with those
# runs. A second run finds both indexes in place. RUN_FOLDER takes the runs, tables (text, JSON) and pages (HTML).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
run=${RUN_FOLDER:-$root/runs/relevance}
export COLUMNS=160 # of the tables
. "$root/deploy/models/catalogues.sh"

unseen=${UNSEEN_FOLDER:-$root/runs/unseen}
for kind in encoder reranker; do
    [ -f "$unseen/$kind/bundle.json" ] || { echo "There is no bundle in $unseen/$kind: run \`make models\`." >&2; exit 1; }
done
untrained fill relevance-untrained
export SHELFRANK_MODELS_ENCODER="$unseen/encoder" SHELFRANK_MODELS_RERANKER="$unseen/reranker"
fill relevance

# NAME INDEX QUERIES FLAGS...: baselines on the untrained index, then what ships beside them.
measure() {
    name=$1 index=$2 judged=$3
    shift 3
    untrained shelfrank evaluate --index "relevance-untrained-$index" --queries "$judged/queries.tsv" \
        --qrels "$judged/qrels.tsv" --systems bm25,vector,hybrid --folds 5 --run-dir "$run/$name-untrained" \
        --json "$@" > "$run/$name-untrained.json"
    shelfrank evaluate --index "relevance-$index" --queries "$judged/queries.tsv" --qrels "$judged/qrels.tsv" \
        --systems bm25,vector,hybrid,rerank:bm25,rerank --folds 5 --also-gains 3:1,2:0.01,1:0.1,0:0 \
        --run "untrained-vector=$run/$name-untrained/vector.run" \
        --run "untrained-hybrid=$run/$name-untrained/hybrid.run" \
        --run "untrained-fusion-tuned=$run/$name-untrained/fusion-tuned.run" --baseline untrained-fusion-tuned \
        --run-dir "$run/$name" --html "$run/$name.html" "$@" > "$run/$name.txt"
    shelfrank evaluate --systems "" --queries "$judged/queries.tsv" --qrels "$judged/qrels.tsv" --baseline bm25 \
        --run "bm25=$run/$name/bm25.run" --run "bm25-reranked=$run/$name/rerank-bm25.run" "$@" > "$run/$name-bm25.txt"
    cat "$run/$name.txt" "$run/$name-bm25.txt"
}
measure esci esci "$esci"
measure esci-judged esci "$esci" --protocol judged
measure sample-test sample "$shop" --split test --by language

# What each part of the last mile is worth, on the default first stage and on BM25's.
for mode in hybrid bm25; do
    SHELFRANK_SEARCH_MODE=$mode python "$root/benchmarks/lastmile.py" \
        --fit relevance-esci "$root/deploy/models/graded/esci.queries.tsv" "$root/deploy/models/graded/esci.qrels.tsv" \
        --fit relevance-sample "$root/deploy/models/graded/sample.queries.tsv" \
        "$root/deploy/models/graded/sample.qrels.tsv" \
        --fit relevance-sample "$shop/queries.tsv" "$shop/qrels.tsv" \
        --test relevance-esci "$esci/queries.tsv" "$esci/qrels.tsv" \
        --test relevance-sample "$shop/queries.tsv" "$shop/qrels.tsv" > "$run/lastmile-$mode.txt"
done
cat "$run"/lastmile-*.txt
