# The two catalogues that the models are made and measured on. Sourced with $root and $run set, by make_bundles.sh here
# and benchmarks/relevance.sh; not run by itself.
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
