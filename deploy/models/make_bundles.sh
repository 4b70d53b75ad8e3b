#!/bin/sh
# Make the two bundles that ship: `make models`. Takes some four hours on two cores; a stopped run goes on.
#
# Needs the products of the ESCI sample as $SHELFRANK_DATA/esci/products.jsonl (part of Amazon's Shopping Queries data
# set, Apache-2.0) and the `train` extra; the queries are those of deploy/models/graded and the sample shop. ESCI's own
# judged queries are not read: they measure. Works on the embedded node, or on OPENSEARCH_URL.
set -eu
: "${SHELFRANK_DATA:?set SHELFRANK_DATA to the folder that holds esci/}"
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
esci=$SHELFRANK_DATA/esci
shop=$root/ingest/sample_shop
run=${RUN_FOLDER:-$root/runs}

fill() {
    shelfrank ingest "$esci/products.jsonl" --mapping esci --index models-esci --dead-letter "$run/esci.rejected.jsonl"
    shelfrank ingest "$shop/catalog.csv" --mapping "$shop/catalog.toml" --index models-sample \
        --dead-letter "$run/sample.rejected.jsonl"
}

# COMMAND FLAGS...: a training command on all graded queries; each takes the splits that it learns from.
learn() {
    command=$1
    shift
    shelfrank train "$command" "$@" \
        --index models-esci --queries "$here/graded/esci.queries.tsv" --qrels "$here/graded/esci.qrels.tsv" \
        --index models-sample --queries "$here/graded/sample.queries.tsv" --qrels "$here/graded/sample.qrels.tsv" \
        --index models-sample --queries "$shop/queries.tsv" --qrels "$shop/qrels.tsv"
}

# The encoder, from the untrained one's index; then an index of its own.
words="--texts $esci/products.jsonl --texts $shop/catalog.csv --work $run/base"
[ -f "$run/untrained/bundle.json" ] || shelfrank train encoder --out "$run/untrained" $words
if [ ! -f "$run/encoder/bundle.json" ]; then
    SHELFRANK_MODELS_ENCODER="$run/untrained" fill
    learn encoder --name shelf-encoder-enzh --options "$here/encoder.toml" --out "$run/encoder" $words
fi
export SHELFRANK_MODELS_ENCODER="$run/encoder"
fill

# The reranker in two passes, and the weights of its last mile.
learn reranker --name shelf-enzh --options "$here/reranker.toml" --out "$run/reranker-first" --work "$run/base"
learn reranker --name shelf-enzh --options "$here/reranker-again.toml" --out "$run/reranker" --work "$run/base" \
    --base "$run/reranker-first/measured/model" --seed 14
rm -rf "$run/weighed"
SHELFRANK_MODELS_RERANKER="$run/reranker/measured/bundle" learn weights --anew --split dev --out "$run/weighed"

for kind in encoder reranker; do
    from=$run/encoder
    [ "$kind" = encoder ] || from=$run/weighed
    mkdir -p "$root/reranker/bundles/$kind"
    cp "$from"/bundle.json "$from"/model.onnx "$from"/tokenizer.json "$root/reranker/bundles/$kind/"
done
echo "The bundles in reranker/bundles are new. Run the tests, then commit them."
