"""What a pass over a catalogue file holds in memory for each product, by the growth of the process.

    python benchmarks/catalogue_memory.py --products products.jsonl --size 50000

Products are real ones and synthetic ones between them (`synthetic.py`; vectors are left out, as none is held).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from synthetic import Catalogue, real_products
from watching import memory_mb

from ingest.duplicates import NearDuplicates


def grown(products: Any, keep: Callable[[dict[str, Any]], Any]) -> float:
    """Bytes a product by which the process grows when `keep` has seen all."""
    gc.collect()
    before, count = memory_mb("self", "RssAnon"), 0
    for product in products():
        keep(product)
        count += 1
    gc.collect()
    return (memory_mb("self", "RssAnon") - before) * 2**20 / count


@click.command(help=__doc__.replace("\n\n    python", "\n\n\b\n    python"))
@click.option("--products", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--mapping", default="esci", show_default=True)
@click.option("--size", type=click.IntRange(1000), default=50_000, show_default=True)
def main(file: Path, mapping: str, size: int) -> None:
    real = real_products(file, mapping)
    # Texts need neighbours, whichever: two dimensions at random make some.
    vectors = np.random.default_rng(7).standard_normal((size, 2)).astype(np.float32)
    catalogue = Catalogue(real, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def products() -> Any:
        return (product for each, _ in catalogue.blocks() for product in each)

    for _ in products():  # whatever making them takes is taken before
        pass
    ids, rows, near = set[str](), dict[str, int](), NearDuplicates()
    told = {
        "ids of a job (a set)": grown(products, lambda product: ids.add(product["id"])),
        "rows by id": grown(products, lambda product: rows.update({product["id"]: len(rows)})),
        "near-duplicates": grown(products, near.first_like),
    }
    print(f"{size:,} products, {len(real):,} of them real\n\n| held | bytes a product |\n|---|---|")
    for name, each in told.items():
        print(f"| {name} | {each:,.0f} |")


if __name__ == "__main__":
    main()
