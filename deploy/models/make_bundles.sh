#!/bin/sh
# Make the two bundles that ship: `make models`. Takes some two hours on two cores; a stopped run goes on.
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

shelfrank train encoder --base multilingual-e5-small --texts "$esci/products.jsonl" --texts "$shop/catalog.csv" \
    --work "$run/base" --out "$run/encoder"
export SHELFRANK_MODELS_ENCODER="$run/encoder"

shelfrank ingest "$esci/products.jsonl" --mapping esci --index models-esci --dead-letter "$run/esci.rejected.jsonl"
shelfrank ingest "$shop/catalog.csv" --mapping "$shop/catalog.toml" --index models-sample \
    --dead-letter "$run/sample.rejected.jsonl"

reranker() {
    shelfrank train reranker --name shelf-enzh "$@" --work "$run/base" \
        --index models-esci --queries "$here/graded/esci.queries.tsv" --qrels "$here/graded/esci.qrels.tsv" \
        --index models-sample --queries "$here/graded/sample.queries.tsv" --qrels "$here/graded/sample.qrels.tsv" \
        --index models-sample --queries "$shop/queries.tsv" --qrels "$shop/qrels.tsv"
}
reranker --base multilingual-e5-small --options "$here/reranker.toml" --out "$run/reranker-first"
reranker --base "$run/reranker-first/measured/model" --options "$here/reranker-again.toml" --seed 14 \
    --out "$run/reranker"

for kind in encoder reranker; do
    from=$run/encoder
    [ "$kind" = encoder ] || from=$run/reranker/measured/bundle
    mkdir -p "$root/reranker/bundles/$kind"
    cp "$from"/bundle.json "$from"/model.onnx "$from"/tokenizer.json "$root/reranker/bundles/$kind/"
done
echo "The bundles in reranker/bundles are new. Run the tests, then commit them."
