"""Whether explanations name what the reranker's score rests on: take out, or keep, what they name first.

    SHELFRANK_DATA=data python benchmarks/faithfulness.py

`SHELFRANK_DATA` holds the folder `esci` that `benchmarks/esci.py` describes. No cluster is needed: of each query's
judged products the ones with the highest rerank score are explained, as the top of a page would be.

- take out: how far the score falls without the k words named first, beside k words drawn at random (mean of several
  seeds) and beside the first k words that the query has too. For k = 1 the explanation wins by construction, as
  it is the largest single fall; for more it need not, because words are measured one by one.
- keep: the score of those k words with all else left out, beside as many random ones. Nothing is by construction.
- field: the field named first, beside another at random; by construction, like k = 1.

`--chinese-words` needs no judgments: of the sample shop's Chinese titles, how many of the words that explanations name
begin and end where words of the segmenter jieba (extra `train`) do.

Differences are means over hits, with 95 % intervals over queries (a query's hits are averaged first).
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from indexer.errors import InputError
from indexer.settings import load
from indexer.terminal import emit_json, out, progress
from ingest.clean import Cleaned, clean
from ingest.schema import load_mapping
from ingest.sources import Row, open_catalogue
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.evaluation.metrics import bootstrap_interval
from reranker.explaining.reading import Prepared, prepare, read, without
from reranker.explaining.words import words
from reranker.retrieval import bounded
from reranker.scoring import CrossEncoder

SHOP = Path(__file__).parent.parent / "ingest" / "sample_shop"
TAKEN_OUT, KEPT = (1, 3, 5), (3, 5)
LIMITS_MS = (25, 50, 100, 200)

Product = Mapping[str, Any]
Fall = tuple[float, float]  # named first, at random


@click.command()
@click.option("--data", envvar="SHELFRANK_DATA", type=click.Path(file_okay=False, path_type=Path), default=Path("data"))
@click.option("--queries", "count", type=click.IntRange(1), help="Only the first so many queries.")
@click.option("--minutes", type=float, default=float("inf"), help="Stop after so long with what was measured by then.")
@click.option("--hits", default=1, show_default=True, help="Products explained a query.")
@click.option("--seeds", default=5, show_default=True, help="Random draws that each figure is compared with.")
@click.option("--timing", is_flag=True, help="Measure how long the best hit's explanation takes, and nothing else.")
@click.option("--chinese-words", is_flag=True, help="Measure where Chinese words are cut, and nothing else.")
@click.option("--json", "as_json", is_flag=True)
def main(
    data: Path,
    count: int | None,
    minutes: float,
    hits: int,
    seeds: int,
    timing: bool,
    chinese_words: bool,
    as_json: bool,
) -> None:
    """Measure how faithful explanations are, and how long they take."""
    if chinese_words:
        out.print(_cut_as_jieba(CrossEncoder.load(load().models)))
        return
    folder = data / "esci"
    if not (folder / "products.jsonl").is_file():
        raise click.ClickException(
            str(InputError(f"{folder} holds no products.jsonl; --help says what belongs there."))
        )
    reranker = CrossEncoder.load(load().models)
    products, qrels = _products(folder / "products.jsonl", "esci"), read_qrels(folder / "qrels.tsv")
    asked = [query for query in read_queries(folder / "queries.tsv") if query.id in qrels][:count]
    falls: dict[str, list[list[Fall]]] = defaultdict(list)
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    until, done = time.monotonic() + minutes * 60, 0
    with progress() as bar:
        for query in bar.track(asked, description="explaining"):
            if time.monotonic() > until:
                break
            done += 1
            pool = [products[key] for key in qrels[query.id] if key in products]
            text = bounded(query.text)
            best = _best(text, pool, reranker)[:hits]
            if timing:
                _time(times, text, best[0], reranker)
            else:
                _collect(falls, [_falls(text, product, reranker, seeds) for product in best])
    found = {name: _summary(rows) for name, rows in falls.items()}
    taken = {name: _taken(rows) for name, rows in times.items()}
    if as_json:
        emit_json({"queries": done, "hits": hits, "seeds": seeds, "differences": found, "time": taken})
        return
    title = f"{done} of {len(asked)} queries, {hits} hits each, {seeds} random draws"
    out.print(_time_table(taken) if timing else _table(found, title))


def _products(path: Path, name: str) -> dict[str, Product]:
    mapping = load_mapping(name)
    rows = (clean(row, mapping) for row in open_catalogue(path, mapping).rows() if isinstance(row, Row))
    return {row.product["id"]: row.product for row in rows if isinstance(row, Cleaned)}


def _best(query: str, products: Sequence[Product], reranker: CrossEncoder) -> list[Product]:
    scores = reranker.score(query, [reranker.product_tokens(product) for product in products])
    return [products[at] for at in np.argsort(-scores.values, kind="stable")]


def _falls(query: str, product: Product, reranker: CrossEncoder, seeds: int) -> dict[str, Fall]:
    """By test: how far the score falls for what is named first, and for its rival. Of a kept part, its score."""
    prepared = prepare(query, product, reranker)
    reading = read(query, [product], reranker).readings[0]
    by_text = {effect.text.casefold(): gone for effect, gone in prepared.words}
    by_field = {effect.name: gone for effect, gone in prepared.fields}
    # The strongest that spoke for the product come first, whatever spoke against it.
    named = [by_text[word.text.casefold()] for word in sorted(reading.words, key=lambda word: -(word.effect or 0.0))]
    fields = [by_field[field.name] for field in sorted(reading.fields, key=lambda field: -(field.effect or 0.0))]
    rng = np.random.default_rng(seeds)
    products: dict[tuple[str, str], list[list[int]]] = {}
    for k in TAKEN_OUT:
        if len(named) > k:
            draws = [_drawn(named, k, rng) for _ in range(seeds)]
            products[f"take out {k}", "named"] = [without(prepared.product, set().union(*named[:k]))]
            products[f"take out {k}", "rival"] = [without(prepared.product, draw) for draw in draws]
            if k > 1:
                promised = [gone for _, gone in prepared.words[:k]]
                products[f"take out {k}, beside the query's words", "rival"] = [
                    without(prepared.product, set().union(*promised))
                ]
                products[f"take out {k}, beside the query's words", "named"] = products[f"take out {k}", "named"]
    for k in KEPT:
        if len(named) > k:
            draws = [_drawn(named, k, rng) for _ in range(seeds)]
            products[f"keep {k}", "named"] = [_only(prepared, set().union(*named[:k]))]
            products[f"keep {k}", "rival"] = [_only(prepared, draw) for draw in draws]
    if len(fields) > 1:
        products["take out a field", "named"] = [without(prepared.product, fields[0])]
        others = rng.integers(1, len(fields), seeds)
        products["take out a field", "rival"] = [without(prepared.product, fields[at]) for at in others]
    every = [ids for rows in products.values() for ids in rows]
    values = iter(reranker.score_pairs([(prepared.query, ids) for ids in every]).values)
    means = {key: float(np.mean([next(values) for _ in rows])) for key, rows in products.items()}
    whole = reading.score or 0.0
    falls = {}
    for test in dict.fromkeys(test for test, _ in products):
        one, other = means[test, "named"], means[test, "rival"]
        falls[test] = (one, other) if test.startswith("keep") else (whole - one, whole - other)
    return falls


def _drawn(named: Sequence[set[int]], k: int, rng: np.random.Generator) -> set[int]:
    return set().union(*(named[at] for at in rng.choice(len(named), k, replace=False)))


def _only(prepared: Prepared, kept: set[int]) -> list[int]:
    return without(prepared.product, set(range(len(prepared.product))) - kept)


def _collect(falls: dict[str, list[list[Fall]]], of_hits: Sequence[Mapping[str, Fall]]) -> None:
    for test in dict.fromkeys(test for hit in of_hits for test in hit):
        falls[test].append([hit[test] for hit in of_hits if test in hit])


def _summary(rows: Sequence[Sequence[Fall]]) -> dict[str, float]:
    differences = np.array([np.mean([one - other for one, other in hits]) for hits in rows])
    interval = bootstrap_interval(differences, np.random.default_rng(0))
    pairs = [pair for hits in rows for pair in hits]
    return {
        "named": float(np.mean([one for one, _ in pairs])),
        "rival": float(np.mean([other for _, other in pairs])),
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "holds": float(np.mean([one > other for one, other in pairs])),
        "equal": float(np.mean([one == other for one, other in pairs])),
        "hits": len(pairs),
        "queries": len(rows),
    }


def _time(times: dict[str, list[tuple[float, float]]], query: str, product: Product, reranker: CrossEncoder) -> None:
    """Milliseconds of one explanation and the share of its pairs that were scored, without a limit and with some."""
    for limit in (None, *LIMITS_MS):
        began = time.monotonic()
        found = read(query, [product], reranker, float("inf") if limit is None else began + limit / 1000)
        name = "no limit" if limit is None else f"{limit} ms"
        times[name].append(((time.monotonic() - began) * 1000, found.scored / found.pairs))


def _taken(rows: Sequence[tuple[float, float]]) -> dict[str, float]:
    milliseconds, shares = np.array(rows).T
    return {
        "median_ms": float(np.median(milliseconds)),
        "p95_ms": float(np.percentile(milliseconds, 95)),
        "measured": float(np.mean(shares)),
    }


def _cut_as_jieba(reranker: CrossEncoder) -> str:
    import jieba

    whole = count = characters = 0
    for product in _products(SHOP / "catalog.csv", str(SHOP / "catalog.toml")).values():
        for part in reranker.read("", {"title": product["title"]})[1]:
            ends = {0, *itertools.accumulate(len(word) for word in jieba.cut(part.text))}
            for word in words(part, ""):
                if all("㐀" <= character <= "鿿" for character in part.text[word.start : word.end]):
                    count += 1
                    characters += word.end - word.start
                    whole += word.start in ends and word.end in ends
    return (
        f"{count} Chinese words of {characters / count:.1f} characters; {whole / count:.1%} begin and end as jieba's do"
    )


def _table(found: Mapping[str, Mapping[str, float]], title: str) -> Table:
    table = Table("test", "named first", "rival", "difference (95 %)", "holds", "equal", "hits", "queries", title=title)
    for test, row in found.items():
        interval = f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        shares = (f"{row['holds']:.0%}", f"{row['equal']:.0%}", str(row["hits"]), str(row["queries"]))
        table.add_row(test, f"{row['named']:.2f}", f"{row['rival']:.2f}", interval, *shares)
    return table


def _time_table(taken: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("time limit", "median ms", "95th percentile", "measured")
    for name, row in taken.items():
        table.add_row(name, f"{row['median_ms']:.0f}", f"{row['p95_ms']:.0f}", f"{row['measured']:.0%}")
    return table


if __name__ == "__main__":
    main()
