"""What each part of the last mile is worth: weights fitted on some shops' dev queries, measured on others' queries.

    python benchmarks/lastmile.py --fit models-esci graded.queries.tsv graded.qrels.tsv \
        --test models-esci queries.tsv qrels.tsv

Most rows fit the weights anew, without the part they name. Two have those of the current bundle, and the last one is
fitted on four fifths of the tested queries too and measured on the fifth. SHELFRANK_SEARCH_MODE=bm25 does all of it on
BM25's windows. Differences are nDCG@10 of the row minus that of the first stage, or of all parts, with 95 %
intervals over queries (paired bootstrap).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer import settings as config
from reranker import signals
from reranker.blend import COLUMNS, FIRST_STAGE, RERANK, VECTOR
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.evaluation.metrics import bootstrap_interval
from reranker.search import Searcher
from reranker.training import lastmile, shops
from reranker.training.lastmile import Window


def windows(shop: Sequence[str], split: str, window: int, searcher: Searcher) -> list[Window]:
    """Windows of a shop's queries of one split (all of them where its file has no splits)."""
    index, queries_file, qrels_file = shop
    queries, qrels = read_queries(Path(queries_file)), read_qrels(Path(qrels_file))
    source = shops.Source(index, [query for query in queries if query.id in qrels], qrels, {})
    gain = parse_gains(ESCI_GAINS)
    chosen = [query for query in source.queries if query.columns.get("split", split) == split]
    return [shops.window_of(source, searcher, query, gain, window) for query in chosen]


def told(values: NDArray[np.float64], baseline: NDArray[np.float64]) -> str:
    found = bootstrap_interval(values - baseline, np.random.default_rng(0))
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", nargs=3, action="append", required=True, metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--test", nargs=3, action="append", required=True, metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--window", type=int, default=50)
    options = parser.parse_args()
    searcher = Searcher.connect(config.load())
    assert searcher.reranker is not None
    card = searcher.reranker.bundle.description
    fitted = [each for shop in options.fit for each in windows(shop, "dev", options.window, searcher)]
    rows = {
        "all parts": COLUMNS,
        "first stage and reranker": (FIRST_STAGE, RERANK),
        "first stage, reranker and cosines": (FIRST_STAGE, RERANK, VECTOR),
        "first stage and signals": (FIRST_STAGE, *signals.NAMES),
        "first stage, cosines and signals": (FIRST_STAGE, *signals.NAMES, VECTOR),
        "reranker and signals": (RERANK, *signals.NAMES),
        **{f"all without {name}": tuple(other for other in COLUMNS if other != name) for name in COLUMNS},
    }
    weights = {name: lastmile.fit(fitted, columns=columns) for name, columns in rows.items()}
    print("weights of all parts: " + ", ".join(f"{name} {value:.2f}" for name, value in weights["all parts"].items()))
    for shop in options.test:
        test = windows(shop, "test", options.window, searcher)
        first = lastmile.values(test, {FIRST_STAGE: 1.0})
        whole = lastmile.values(test, weights["all parts"])
        name = Path(shop[1]).parent.name
        print(f"\n{name}: {len(test)} queries, fitted on {len(fitted)} others, window {options.window}")
        print("| parts | nDCG@10 | minus first stage (95 %) | minus all parts (95 %) |\n|---|---|---|---|")
        print(f"| first stage | {first.mean():.4f} | | {told(first, whole)} |")
        for row, column in (("reranker alone", RERANK), ("cosines alone", VECTOR)):
            alone = lastmile.values(test, {column: 1.0})
            print(f"| {row} | {alone.mean():.4f} | {told(alone, first)} | {told(alone, whole)} |")
        current = {"the bundle's own weights": card.last_mile(True), "those that know no cosine": card.last_mile(False)}
        for row, chosen in {**weights, **current}.items():
            found = lastmile.values(test, chosen)
            print(f"| {row} | {found.mean():.4f} | {told(found, first)} | {told(found, whole)} |")
        found = lastmile.held_out_values(test, fitted=lambda some: lastmile.fit([*fitted, *some]))
        print(f"| all parts, other folds too | {found.mean():.4f} | {told(found, first)} | {told(found, whole)} |")


if __name__ == "__main__":
    main()
