# The two catalogues that the models are made and measured on, and the queries that they learn from. Sourced with $root
# and $run set, by make_bundles.sh here and benchmarks/relevance.sh; not run by itself.
: "${SHELFRANK_DATA:?set SHELFRANK_DATA to the folder that holds esci/}"
esci=$SHELFRANK_DATA/esci
shop=$root/ingest/sample_shop
mkdir -p "$run"

# FLAGS...: an encoder bundle whose vocabulary keeps the words of both.
encoder() {
    shelfrank train encoder --texts "$esci/products.jsonl" --texts "$shop/catalog.csv" --work "$run/base" "$@"
}

# COMMAND...: with the untrained base as encoder, which is made once.
untrained() {
    [ -f "$run/untrained/bundle.json" ] || encoder --out "$run/untrained"
    (
        export SHELFRANK_MODELS_ENCODER="$run/untrained"
        "$@"
    )
}

# PREFIX: both catalogues into the indexes PREFIX-esci and PREFIX-sample.
fill() {
    shelfrank ingest "$esci/products.jsonl" --mapping esci --index "$1-esci" \
        --dead-letter "$run/$1-esci.rejected.jsonl"
    shelfrank ingest "$shop/catalog.csv" --mapping "$shop/catalog.toml" --index "$1-sample" \
        --dead-letter "$run/$1-sample.rejected.jsonl"
}

# PREFIX COMMAND...: a training command on all graded queries; each takes the splits that it learns from.
graded() {
    prefix=$1 graded=$root/deploy/models/graded
    shift
    "$@" --index "$prefix-esci" --queries "$graded/esci.queries.tsv" --qrels "$graded/esci.qrels.tsv" \
        --index "$prefix-sample" --queries "$graded/sample.queries.tsv" --qrels "$graded/sample.qrels.tsv" \
        --index "$prefix-sample" --queries "$shop/queries.tsv" --qrels "$shop/qrels.tsv"
}
