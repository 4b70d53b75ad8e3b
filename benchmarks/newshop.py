"""How the final order does on a shop that its weights have never seen: each shop is left out once.

    python benchmarks/newshop.py --shop esci models-esci queries.tsv qrels.tsv \
        --shop sample models-sample queries.tsv qrels.tsv --language en

For each shop in turn the weights of the last mile are fitted on the windows of all others, each shop counting alike,
and measured on this one: all parts, and all without the cross-encoder. Beside them stand the first stage, BM25, vectors
and the cross-encoder alone, and the weights of the bundle in use. nDCG@10, window 50; differences with 95 % intervals
over queries (paired bootstrap). Queries of the other language are left out, as another model may read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lastmile import told
from numpy.typing import NDArray

from indexer import settings as config
from indexer.han import has_han
from reranker.blend import COLUMNS, FIRST_STAGE, LOGIT, RERANK
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import Query, read_qrels, read_queries
from reranker.evaluation.metrics import ndcg
from reranker.search import Searcher
from reranker.training import lastmile, shops
from reranker.training.lastmile import Window

CHEAP = tuple(name for name in COLUMNS if name not in (RERANK, LOGIT))
GAIN = parse_gains(ESCI_GAINS)


class Shop:
    """A shop's judged queries of one language, with their windows and what the first stages alone make of them."""

    def __init__(self, given: Sequence[str], language: str, searcher: Searcher) -> None:
        self.name, index, queries, qrels = given
        judged = read_qrels(Path(qrels))
        self._source = shops.Source(index, read_queries(Path(queries)), judged, {})
        self.asked = [query for query in self._source.queries if self._is_measured(query, language)]
        self.windows = [shops.window_of(self._source, searcher, query, GAIN, 50) for query in self.asked]
        self.alone = {mode: self._ordered(searcher, mode) for mode in ("bm25", "vector")}

    def _is_measured(self, query: Query, language: str) -> bool:
        return has_han(query.text) == (language == "zh") and max(self._gains(query).values(), default=0) > 0

    def _gains(self, query: Query) -> dict[str, float]:
        return dict(self._source.gains(query, GAIN)) if query.id in self._source.qrels else {}

    def _ordered(self, searcher: Searcher, mode: str) -> NDArray[np.float64]:
        found = []
        for query in self.asked:
            page = searcher.search(self._source.index, query.text, mode=mode, size=10, rerank=False, fields=["id"])
            found.append(ndcg([hit.id for hit in page.hits], self._gains(query), 10))
        return np.array(found)


def like_numbers(parts: Sequence[Sequence[Window]], seed: int = 13) -> list[Window]:
    """As many windows of each shop as of the largest: those of smaller ones again."""
    most = max(map(len, parts))
    rng = np.random.default_rng(seed)
    return [part[int(at)] for part in parts for at in np.resize(rng.permutation(len(part)), most)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shop", nargs=4, action="append", required=True, metavar=("NAME", "INDEX", "QUERIES", "QRELS")
    )
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    options = parser.parse_args()
    searcher = Searcher.connect(config.load())
    assert searcher.reranker is not None
    reader = searcher.reranker.english if options.language == "en" and searcher.reranker.english else searcher.reranker
    own = reader.bundle.description.last_mile(True)
    found = [Shop(each, options.language, searcher) for each in options.shop]
    found = [shop for shop in found if shop.asked]
    heads = [
        "shop",
        "queries",
        "BM25",
        "vectors",
        "first stage",
        "cross-encoder alone",
        "bundle's weights",
        "all parts",
    ]
    heads += ["all but the cross-encoder", "what it adds (95 %)", "all parts minus the best first stage (95 %)"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for shop in found:
        others = like_numbers([each.windows for each in found if each is not shop])
        whole = lastmile.values(shop.windows, lastmile.fit(others))
        cheap = lastmile.values(shop.windows, lastmile.fit(others, columns=CHEAP))
        first = lastmile.values(shop.windows, {FIRST_STAGE: 1.0})
        best = max((*shop.alone.values(), first), key=lambda values: float(values.mean()))
        means = [*shop.alone.values(), first, lastmile.values(shop.windows, {RERANK: 1.0})]
        means += [lastmile.values(shop.windows, own), whole, cheap]
        cells = " | ".join(f"{values.mean():.3f}" for values in means)
        print(f"| {shop.name} | {len(shop.asked)} | {cells} | {told(whole, cheap)} | {told(whole, best)} |")


if __name__ == "__main__":
    main()
