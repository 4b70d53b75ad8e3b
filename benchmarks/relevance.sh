#!/bin/sh
# The relevance figures of the README, from nothing but the data: some 45 minutes on two cores.
#
# Needs $SHELFRANK_DATA/esci and the `train` extra. The untrained encoder makes an index of its own, on which BM25 and
# fusion are tuned inside the folds; what ships makes another and is compared with those runs. A second run finds both
# indexes in place. RUN_FOLDER takes the runs, tables (JSON) and pages (HTML).
set -eu
: "${SHELFRANK_DATA:?set SHELFRANK_DATA to the folder that holds esci/}"
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
esci=$SHELFRANK_DATA/esci
shop=$root/ingest/sample_shop
run=${RUN_FOLDER:-$root/runs/relevance}
mkdir -p "$run"

[ -f "$run/untrained/bundle.json" ] || shelfrank train encoder --base multilingual-e5-small \
    --texts "$esci/products.jsonl" --texts "$shop/catalog.csv" --work "$run/base" --out "$run/untrained"

untrained() { SHELFRANK_MODELS_ENCODER="$run/untrained" shelfrank "$@"; }

fill() {
    "$1" ingest "$esci/products.jsonl" --mapping esci --index "$2-esci" --dead-letter "$run/$2-esci.rejected.jsonl"
    "$1" ingest "$shop/catalog.csv" --mapping "$shop/catalog.toml" --index "$2-sample" \
        --dead-letter "$run/$2-sample.rejected.jsonl"
}
fill untrained relevance-untrained
fill shelfrank relevance

# NAME INDEX QUERIES FLAGS...: baselines on the untrained index, then what ships beside them.
measure() {
    name=$1 index=$2 judged=$3
    shift 3
    untrained evaluate --index "relevance-untrained-$index" --queries "$judged/queries.tsv" \
        --qrels "$judged/qrels.tsv" --systems bm25,vector,hybrid --folds 5 --run-dir "$run/$name-untrained" \
        --json "$@" > "$run/$name-untrained.json"
    shelfrank evaluate --index "relevance-$index" --queries "$judged/queries.tsv" --qrels "$judged/qrels.tsv" \
        --systems vector,hybrid,rerank --folds 5 --also-gains 3:1,2:0.01,1:0.1,0:0 \
        --run "untrained-vector=$run/$name-untrained/vector.run" \
        --run "untrained-hybrid=$run/$name-untrained/hybrid.run" \
        --run "untrained-fusion-tuned=$run/$name-untrained/fusion-tuned.run" --baseline untrained-fusion-tuned \
        --run-dir "$run/$name" --html "$run/$name.html" "$@" | tee "$run/$name.txt"
}
measure esci esci "$esci"
measure esci-judged esci "$esci" --protocol judged
measure sample-test sample "$shop" --split test --by language
