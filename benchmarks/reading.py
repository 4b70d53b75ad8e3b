"""How fast is what is stored read for a reindex? Documents a second by shards, in one stream and by a slice a shard.

    python benchmarks/reading.py --products products.jsonl --mapping esci --limit 6000

Real products with token ids and random vectors (as in `bulk.py`), read whole as `shelfrank reindex start` does, from
the node that the settings name. Both ways take turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from bulk import NAME, made, write
from opensearchpy import OpenSearch

from indexer import changes
from indexer import client as clusters
from indexer import settings as config
from indexer.patience import Patience
from indexer.settings import Index


def read(client: OpenSearch, slices: int) -> float:
    """Documents a second of one reading by at most so many slices."""
    changes.SLICES = slices
    started = time.perf_counter()
    count = sum(len(hits) for hits in changes.everything(client, NAME, Patience()))
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--mapping", default="esci")
    parser.add_argument("--limit", type=int, default=6000)
    parser.add_argument("--shards", default="1,2,4")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    most = changes.SLICES
    client = clusters.connect(config.load())
    documents = made(options.products, options.mapping, options.limit)
    print(f"{len(documents):,} documents\n")
    print("| shards | slices | documents/s, median | lowest | highest |\n|---|---|---|---|---|")
    try:
        for shards in map(int, options.shards.split(",")):
            write(client, documents, Index(shards=shards), 2, 500, 0.0)
            rates: dict[int, list[float]] = {slices: [] for slices in sorted({1, min(shards, most)})}
            read(client, 1)  # the node warms up
            for _ in range(options.repeats):
                for slices, found in rates.items():
                    found.append(read(client, slices))
            for slices, found in rates.items():
                print(
                    f"| {shards} | {slices} | {median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f} |",
                    flush=True,
                )
    finally:
        client.indices.delete(index=NAME, params={"ignore_unavailable": "true"})


if __name__ == "__main__":
    main()
