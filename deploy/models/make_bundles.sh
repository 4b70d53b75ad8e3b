#!/bin/sh
# Make the two bundles that ship: `make models`. Takes some four hours on two cores; a stopped run goes on.
#
# Needs the products of the ESCI sample as $SHELFRANK_DATA/esci/products.jsonl (part of Amazon's Shopping Queries data
# set, Apache-2.0) and the `train` extra; the queries are those of deploy/models/graded and the sample shop. ESCI's own
# judged queries are not read: they measure. Works on the embedded node, or on OPENSEARCH_URL.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
run=${RUN_FOLDER:-$root/runs}
. "$here/catalogues.sh"

# PREFIX COMMAND...: a training command on all graded queries; each takes the splits that it learns from.
graded() {
    prefix=$1
    shift
    "$@" --index "$prefix-esci" --queries "$here/graded/esci.queries.tsv" --qrels "$here/graded/esci.qrels.tsv" \
        --index "$prefix-sample" --queries "$here/graded/sample.queries.tsv" --qrels "$here/graded/sample.qrels.tsv" \
        --index "$prefix-sample" --queries "$shop/queries.tsv" --qrels "$shop/qrels.tsv"
}

# The encoder, from indexes of the untrained one; then indexes of its own.
if [ ! -f "$run/encoder/bundle.json" ]; then
    untrained fill models-untrained
    graded models-untrained encoder --name shelf-encoder-enzh --options "$here/encoder.toml" --out "$run/encoder"
fi
export SHELFRANK_MODELS_ENCODER="$run/encoder"
fill models

# The reranker in two passes, and the weights of its last mile.
reranker() { graded models shelfrank train reranker --name shelf-enzh --work "$run/base" "$@"; }
reranker --options "$here/reranker.toml" --out "$run/reranker-first"
reranker --options "$here/reranker-again.toml" --out "$run/reranker" --base "$run/reranker-first/measured/model" \
    --seed 14
rm -rf "$run/weighed"
export SHELFRANK_MODELS_RERANKER="$run/reranker/measured/bundle"
graded models shelfrank train weights --anew --split dev --out "$run/weighed"

for kind in encoder reranker; do
    from=$run/encoder
    [ "$kind" = encoder ] || from=$run/weighed
    mkdir -p "$root/reranker/bundles/$kind"
    cp "$from"/bundle.json "$from"/model.onnx "$from"/tokenizer.json "$root/reranker/bundles/$kind/"
done
echo "The bundles in reranker/bundles are new. Run the tests, then commit them."
