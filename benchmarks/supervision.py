"""What each source of supervision teaches a reranker, and how far it carries to what it never read.

    python benchmarks/supervision.py --work runs/supervision \
        --shop models-untrained-esci deploy/models/graded/esci.queries.tsv deploy/models/graded/esci.qrels.tsv \
        --people models-untrained-esci queries.tsv qrels.tsv

Each row is a cross-encoder of the base model's first layers that read as many lists as the others, of queries made
from the catalogues or of judged queries' train split. All are measured alike: the window of the hybrid first stage
ordered by the row alone, and by first stage, row, signals and cosines with weights fitted on the other folds' queries.
With indexes of the untrained encoder nothing here has read a query that it is measured on. `--shop` is read (split
train) and measured (splits dev and test), `--people` is measured alone. Domains are the top categories of the queries'
best products, put together into three of some size; a row without one is measured on that one. Differences are nDCG@10
with 95 % intervals over queries (paired bootstrap). A stopped run goes on with the row that it was at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from lastmile import told
from numpy.typing import NDArray

from indexer import settings as config
from indexer.settings import Models
from reranker.blend import COLUMNS, FIRST_STAGE, RERANK, unit
from reranker.bundle import Bundle, load
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import Query, read_qrels, read_queries
from reranker.retrieval import bounded
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training import data, finetune, lastmile, run
from reranker.training.base import PACKAGED
from reranker.training.lastmile import Window
from reranker.training.shops import Shop, Source, open_shop, window_of
from reranker.training.workbench import open_base

MADE = ("attribute_queries", "exclusion_queries", "price_queries", "accessory_queries")
DOMAINS = 3
_HAN = re.compile(r"[一-鿿]")
_EXCLUDED = COLUMNS.index("excluded")
Values = dict[str, NDArray[np.float64]]
"""How windows are ordered -> nDCG@10 of each, in the order of all measured queries."""


class Row(msgspec.Struct, frozen=True):
    """What a model reads: made queries of each catalogue, and judged queries that `reads` allows."""

    name: str
    made: Mapping[str, int] = {}
    lists: int = 0  # of judged queries
    reads: Callable[[Shop, Query], bool] = lambda shop, query: False


def domain_of(shop: Shop, query: Query, gain: Callable[[int], float]) -> str:
    """The top category of a query's best products."""
    gains = {key: value for key, value in shop.source.gains(query, gain).items() if key in shop.products}
    best = [key for key, value in gains.items() if value == max(gains.values())]
    tops = Counter(str((shop.products[key].get("category") or ["none"])[0]) for key in best)
    return tops.most_common(1)[0][0] if tops else "none"


def grouped(counts: Mapping[str, int], groups: int) -> dict[str, int]:
    """The group of each name, the largest first into the smallest group."""
    sizes, found = [0] * groups, {}
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        found[name] = int(np.argmin(sizes))
        sizes[found[name]] += count
    return found


def rows(lists: int, shops: Sequence[Shop], domains: Mapping[tuple[str, str], int]) -> list[Row]:
    """All rows, each of `lists` lists."""
    first = shops[0].source.index
    each = lists // len({shop.source.index for shop in shops})
    titles = {"title_queries": each // 2}
    found = [Row("titles", {"title_queries": each})]
    found += [Row(f"titles and {name.removesuffix('_queries')}", titles | {name: each // 2}) for name in MADE]
    found += [
        Row("judged", lists=lists, reads=lambda shop, query: True),
        Row("judged, first shop", lists=lists, reads=lambda shop, query: shop.source.index == first),
        Row("judged, other shop", lists=lists, reads=lambda shop, query: shop.source.index != first),
    ]
    for number in range(DOMAINS):

        def without(shop: Shop, query: Query, number: int = number) -> bool:
            return shop.source.index == first and domains[shop.source.index, query.id] != number

        found.append(Row(f"judged, first shop without domain {number + 1}", lists=lists, reads=without))
    all_kinds = titles | dict.fromkeys(MADE, each // 8)
    halves = {name: count // 2 for name, count in all_kinds.items()}
    found += [
        Row("titles and all four", all_kinds),
        Row("judged, titles and all four", halves, lists // 2, lambda shop, query: True),
    ]
    return found


def reading(row: Row, shops: Sequence[Shop]) -> tuple[list[Shop], int]:
    """The shops with the row's queries as their train split, drawn evenly, and the lists of each query."""
    train = [(at, query) for at, shop in enumerate(shops) for query in shop.source.within(("train",))]
    train = [(at, query) for at, query in train if row.reads(shops[at], query)]
    order = np.random.default_rng(13).permutation(len(train))[: row.lists]
    kept = {(train[place][0], train[place][1].id) for place in order}
    found = []
    for at, shop in enumerate(shops):
        splits = {query.id: "train" if (at, query.id) in kept else "held out" for query in shop.source.queries}
        found.append(msgspec.structs.replace(shop, source=msgspec.structs.replace(shop.source, splits=splits)))
    return found, max(1, round(row.lists / max(1, len(kept))))


class Kept(msgspec.Struct):
    """What is kept of a row: what it read, which measured queries exclude something, and all values."""

    read: dict[str, int]
    excluding: list[bool]
    values: dict[str, list[float]]


def trained(row: Row, shops: Sequence[Shop], base: Path, licence: str, layers: int, folder: Path) -> Bundle:
    """The row's cross-encoder; one that is there already is not made again."""
    if (folder / "bundle" / "bundle.json").is_file():
        return load(folder / "bundle", "reranker")
    read, rounds = reading(row, shops)
    reads = {"title_queries": 0, "first_stage_negatives": 0, **row.made}
    plan = run.Plan(
        name="supervision",
        base=PACKAGED,
        base_licence=licence,
        gain=parse_gains(ESCI_GAINS),
        data=msgspec.convert(reads, data.Options),
        finetune=finetune.Options(layers, rounds, judged_share=0.85, learning_rate=8e-5),
        refit=False,
    )

    def progress(phase: str, step: int, steps: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"{row.name}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

    return run.fit(read, base, plan, folder, False, progress)


def asked_of(shops: Sequence[Shop]) -> list[tuple[Shop, Query]]:
    """What is measured, in order."""
    return [(shop, query) for shop in shops for query in shop.source.within(("dev", "test"))]


def searched(shops: Sequence[Shop], window: int, file: Path) -> list[Window]:
    """The windows of what is measured, kept in a file: only the cross-encoder's column differs between rows."""
    if not file.is_file():
        gain, any_model = parse_gains(ESCI_GAINS), CrossEncoder.load(Models())
        searchers = [Searcher(shop.searcher.retriever, any_model, shop.searcher.settings) for shop in shops]
        of = {id(shop): searcher for shop, searcher in zip(shops, searchers, strict=True)}
        found = [window_of(shop.source, of[id(shop)], query, gain, window) for shop, query in asked_of(shops)]
        rows = [(each.ids, each.features.tolist(), each.gains, each.query) for each in found]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(rows))
    return read_windows(file)


def read_windows(file: Path) -> list[Window]:
    kept = msgspec.json.decode(
        file.read_bytes(), type=list[tuple[tuple[str, ...], list[list[float]], dict[str, float], str]]
    )
    return [
        Window(ids, np.array(rows, float).reshape(len(ids), len(COLUMNS)), gains, query)
        for ids, rows, gains, query in kept
    ]


def scored(bundle: Bundle, shops: Sequence[Shop], windows: Sequence[Window]) -> list[Window]:
    """The windows as this cross-encoder scores them."""
    model = CrossEncoder(bundle, Models())
    catalogues = {shop.source.index: shop.products for shop in shops}
    tokens = {
        (index, key): model.product_tokens(product)
        for index, products in catalogues.items()
        for key, product in products.items()
    }
    found = []
    for (shop, query), window in zip(asked_of(shops), windows, strict=True):
        rows = window.features.copy()
        if window.ids:
            scores = model.score(bounded(query.text), [tokens[shop.source.index, key] for key in window.ids]).values
            rows[:, COLUMNS.index(RERANK)] = unit(scores)
        found.append(msgspec.structs.replace(window, features=rows))
    return found


def values_of(windows: Sequence[Window]) -> dict[str, list[float]]:
    return {
        "first": lastmile.values(windows, {FIRST_STAGE: 1.0}).tolist(),
        "alone": lastmile.values(windows, {RERANK: 1.0}).tolist(),
        "final": lastmile.held_out_values(windows).tolist(),
    }


def table(title: str, found: Mapping[str, Values], at: NDArray[np.int64], against: str, names: Iterable[str]) -> None:
    print(f"\n{title}: {len(at)} queries")
    print(f"| read | alone | minus {against} (95 %) | in the final order | minus {against} (95 %) |")
    print("|---|---|---|---|---|")
    for name in names:
        cells = [
            f"{found[name][way][at].mean():.3f} | {told(found[name][way][at], found[against][way][at])}"
            for way in ("alone", "final")
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shop", nargs=3, action="append", required=True, metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--people", nargs=3, action="append", default=[], metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lists", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rows", type=int, default=None, help="only the first so many rows")
    given = parser.parse_args()
    settings, gain = config.load(), parse_gains(ESCI_GAINS)

    def opened(given: Sequence[str], split: str) -> Shop:
        index, queries_file, qrels_file = given
        qrels = read_qrels(Path(qrels_file))
        queries = [query for query in read_queries(Path(queries_file)) if query.id in qrels]
        splits = {query.id: query.columns.get("split", split) for query in queries}
        return open_shop(Source(index, queries, qrels, splits), settings)

    shops = [opened(each, "train") for each in given.shop]
    people = [opened(each, "test") for each in given.people]
    texts = (" ".join(map(str, product.values())) for shop in shops for product in shop.products.values())
    base, licence, _ = open_base(PACKAGED, given.work / "base", "reranker", texts)

    tops = {
        (shop.source.index, query.id): domain_of(shop, query, gain)
        for shop in [*shops, *people]
        for query in shop.source.queries
    }
    first = shops[0].source.index
    number = grouped(Counter(top for (index, _), top in tops.items() if index == first), DOMAINS)
    domains = {key: number.get(top, -1) for key, top in tops.items()}

    measured = [*shops, *people]
    bare = searched(measured, settings.search.window, given.work / "windows.json")
    print(f"{given.layers} layers, {given.lists} lists a row, window {settings.search.window}\n")
    found: dict[str, Values] = {}
    for row in rows(given.lists, shops, domains)[: given.rows]:
        file = given.work / re.sub(r"\W+", "-", row.name) / "values.json"
        if not file.is_file():
            bundle = trained(row, shops, base, licence, given.layers, file.parent)
            windows = scored(bundle, measured, bare)
            excluding = [bool(window.features[:, _EXCLUDED].any()) for window in windows]
            read = {name: bundle.description.training[name] for name in ("judged_queries", "made_queries", "lists")}
            file.write_bytes(msgspec.json.encode(Kept(read, excluding, values_of(windows))))
        kept = msgspec.json.decode(file.read_bytes(), type=Kept)
        found[row.name] = {way: np.array(each) for way, each in kept.values.items()}
        print(f"- {row.name}: {kept.read}", flush=True)

    asked = asked_of(measured)
    own = np.array([shop.source.index == first for shop, _ in asked])
    by_people = np.array([any(shop is each for each in people) for shop, _ in asked])
    chinese = np.array([bool(_HAN.search(query.text)) for _, query in asked])
    domain = np.array([domains[shop.source.index, query.id] for shop, query in asked])
    sets = {
        "first shop, judged by people": own & by_people,
        "first shop, graded by a language model": own & ~by_people,
        "other shop, English": ~own & ~chinese,
        "other shop, Chinese": ~own & chinese,
        "both, queries that exclude something": np.array(kept.excluding),
    }
    whole = [name for name in found if "shop" not in name]
    for title, chosen in sets.items():
        table(title, found, np.flatnonzero(chosen), "titles", whole)
    carried = [name for name in ("judged", "judged, first shop", "judged, other shop") if name in found]
    for title, chosen in list(sets.items())[:4] if carried else []:
        table(title, found, np.flatnonzero(chosen), "judged", carried)
    for at in range(DOMAINS):
        names = ["judged, first shop", f"judged, first shop without domain {at + 1}"]
        if names[1] in found:
            inside = ", ".join(top for top, where in number.items() if where == at)
            table(f"domain {at + 1} ({inside})", found, np.flatnonzero(own & (domain == at)), names[0], names)


if __name__ == "__main__":
    main()
