#!/bin/sh
# Make the two bundles that ship: `make models`. Takes some four hours on two cores; a stopped run goes on.
#
# Needs the ESCI sample in $SHELFRANK_DATA/esci (part of Amazon's Shopping Queries data set, Apache-2.0) and the `train`
# extra. Both models read the queries of deploy/models/graded and the sample shop alone: ESCI's own judged queries have a
# say in the weights of the last mile, and benchmarks/relevance.sh measures on them with weights that have not seen them.
# Works on the embedded node, or on OPENSEARCH_URL.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
run=${RUN_FOLDER:-$root/runs}
. "$here/catalogues.sh"

# The encoder, from indexes of the untrained one; then indexes of its own.
if [ ! -f "$run/encoder/bundle.json" ]; then
    untrained fill models-untrained
    graded models-untrained encoder --name shelf-encoder-enzh --options "$here/encoder.toml" --out "$run/encoder"
fi
export SHELFRANK_MODELS_ENCODER="$run/encoder"
fill models

# The reranker in two passes, and the weights of its last mile, with a say for every query that is judged by people.
reranker() { graded models shelfrank train reranker --name shelf-enzh --work "$run/base" "$@"; }
reranker --options "$here/reranker.toml" --out "$run/reranker-first"
reranker --options "$here/reranker-again.toml" --out "$run/reranker" --base "$run/reranker-first/measured/model" \
    --seed 14
rm -rf "$run/weighed"
awk -v OFS='\t' 'NR == 1 { print $0, "split"; next } { print $0, "dev" }' "$esci/queries.tsv" > "$run/esci.queries.tsv"
export SHELFRANK_MODELS_RERANKER="$run/reranker/measured/bundle"
graded models shelfrank train weights --anew --split dev --out "$run/weighed" \
    --index models-esci --queries "$run/esci.queries.tsv" --qrels "$esci/qrels.tsv"

for kind in encoder reranker; do
    from=$run/encoder
    [ "$kind" = encoder ] || from=$run/weighed
    mkdir -p "$root/reranker/bundles/$kind"
    cp "$from"/bundle.json "$from"/model.onnx "$from"/tokenizer.json "$root/reranker/bundles/$kind/"
done
echo "The bundles in reranker/bundles are new. Run the tests, then commit them."
