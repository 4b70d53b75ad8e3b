"""What a smaller reranker costs in relevance and saves in time: bundles side by side, as a table and a picture.

    python benchmarks/ladder.py --bundle "12 layers" runs/english/measured/bundle \
        --bundle "6 layers" runs/english-small/measured/bundle --shop models-esci queries.tsv qrels.tsv --svg ladder.svg

Each bundle orders every query's judged products by its scores alone: nDCG@10, with the difference to the first bundle
and its 95 % interval over queries (paired bootstrap). Then it scores the first hundred hybrid hits of some queries:
each round takes every bundle in turn, and the table has the median over queries and rounds. Tokens of products are
made before, as where the index stores them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from lastmile import told
from numpy.typing import NDArray

from indexer import settings as config
from indexer.settings import Models
from reranker.bundle import verify
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import Query, read_qrels, read_queries
from reranker.evaluation.metrics import ndcg
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training import shops

WINDOW = 100
WIDTH, HEIGHT, LEFT, ROOM = 640, 320, 70, 40


class Rung(msgspec.Struct):
    """One bundle, and what was found."""

    name: str
    megabytes: float
    milliseconds: float
    values: NDArray[np.float64]


def alone(
    model: CrossEncoder,
    queries: Sequence[Query],
    gains: Mapping[str, Mapping[str, float]],
    tokens: Mapping[str, list[int]],
) -> NDArray[np.float64]:
    """nDCG@10 of each query's judged products, ordered by the model's scores."""
    found = []
    for query in queries:
        names = sorted(name for name in gains[query.id] if name in tokens)
        scores = model.score(query.text, [tokens[name] for name in names]).values
        found.append(ndcg([names[at] for at in np.argsort(-scores, kind="stable")], gains[query.id], 10))
    return np.array(found)


def timed(
    models: Sequence[CrossEncoder],
    tokens: Sequence[Mapping[str, list[int]]],
    windows: Sequence[tuple[str, list[str]]],
    rounds: int,
) -> list[float]:
    """Median milliseconds of each model for a window."""
    taken: list[list[float]] = [[] for _ in models]
    for turn in range(rounds + 1):  # the first one warms up
        for query, names in windows:
            for at, model in enumerate(models):
                began = time.perf_counter()
                model.score(query, [tokens[at][name] for name in names])
                if turn:
                    taken[at].append((time.perf_counter() - began) * 1000)
    return [float(np.median(each)) for each in taken]


def svg(rungs: Sequence[Rung]) -> str:
    """nDCG against milliseconds, a point a bundle."""
    most = max(rung.milliseconds for rung in rungs) * 1.15
    means = [float(rung.values.mean()) for rung in rungs]
    low, high = min(means) - 0.01, max(means) + 0.01
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = ROOM + (HEIGHT - 2 * ROOM) * (1 - share)
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ccc"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{low + share * (high - low):.3f}</text>')
        x = LEFT + share * (WIDTH - LEFT - ROOM)
        drawn.append(f'<text x="{x:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{most * share:.0f} ms</text>')
    for rung, mean in zip(rungs, means, strict=True):
        x = LEFT + rung.milliseconds / most * (WIDTH - LEFT - ROOM)
        y = ROOM + (HEIGHT - 2 * ROOM) * (1 - (mean - low) / (high - low))
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#1f6feb"/>')
        drawn.append(f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{rung.name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    title = f'<text x="{LEFT}" y="18">nDCG@10 of the judged pool, alone, against milliseconds for {WINDOW} hits</text>'
    return "\n".join(
        [f'{head} font-size="12">', '<rect width="100%" height="100%" fill="white"/>', title, *drawn, "</svg>\n"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", nargs=2, action="append", required=True, metavar=("NAME", "FOLDER"))
    parser.add_argument("--shop", nargs=3, required=True, metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    index, queries_file, qrels_file = options.shop
    gain, qrels = parse_gains(ESCI_GAINS), read_qrels(Path(qrels_file))
    queries = [query for query in read_queries(Path(queries_file)) if query.id in qrels]
    gains = {key: {name: gain(grade) for name, grade in judged.items()} for key, judged in qrels.items()}
    searcher = Searcher.connect(config.load(), reranker=False)
    models = [CrossEncoder(verify(Path(folder), "reranker"), Models()) for _, folder in options.bundle]
    fields = sorted({name for model in models for name in model.fields})
    products = shops.read_products(searcher.retriever.client, index, fields)
    tokens = [{name: model.product_tokens(each) for name, each in products.items()} for model in models]
    windows = [
        (query.text, [hit.id for hit in searcher.search(index, query.text, size=WINDOW, fields=["id"]).hits])
        for query in queries[:: max(1, len(queries) // options.windows)][: options.windows]
    ]
    taken = timed(models, tokens, windows, options.rounds)
    rungs = [
        Rung(
            name,
            sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6,
            milliseconds,
            alone(model, queries, gains, known),
        )
        for (name, folder), model, known, milliseconds in zip(options.bundle, models, tokens, taken, strict=True)
    ]
    print(f"{len(queries)} queries; {len(windows)} windows of {WINDOW} × {options.rounds}\n")
    print(
        "| bundle | nDCG@10 of the pool, alone | minus the first (95 %) | ms for 100 hits | MB |\n|---|---|---|---|---|"
    )
    for rung in rungs:
        minus = "" if rung is rungs[0] else told(rung.values, rungs[0].values)
        print(f"| {rung.name} | {rung.values.mean():.3f} | {minus} | {rung.milliseconds:.0f} | {rung.megabytes:.1f} |")
    if options.svg:
        options.svg.write_text(svg(rungs), "utf-8")


if __name__ == "__main__":
    main()
