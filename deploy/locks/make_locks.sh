#!/bin/sh
# Write the lock files: exact versions and sha256 sums for `make demo`, `make test` and the image. Needs uv (pip install uv).
set -eu
cd "$(dirname "$0")/../.."
lock() {
    out=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        --no-annotate --output-file "deploy/locks/$out" "$@"
}
# Left out is what torch asks for and opens on no processor (1.2 GB): the compiler of GPU kernels, headers, and libraries
# that are loaded at their first use. With a GPU, `pip install torch` in the environment brings them.
lock dev.txt --extra embedded --extra train --extra distributed --extra serve --extra otel --group dev \
    --no-emit-package triton --no-emit-package nvidia-cuda-cccl --no-emit-package nvidia-cusolver \
    --no-emit-package nvidia-nvtx --no-emit-package cuda-bindings pyproject.toml
# The same versions as the tests', so that what was tested is what runs.
lock demo.txt --extra embedded --extra serve --constraint deploy/locks/dev.txt pyproject.toml
# What builds the package for an image: pyproject.toml's build system.
echo 'hatchling>=1.27' | lock build.txt -
lock serve.txt --extra serve --extra otel --constraint deploy/locks/dev.txt pyproject.toml
