"""What queries made from the catalogue teach the reranker in use, kind by kind.

    python benchmarks/supervision.py --work runs/supervision \
        --shop models-esci graded.queries.tsv graded.qrels.tsv --shop models-sample queries.tsv qrels.tsv

Each row goes on from the current reranker and reads as many lists as the others, all of queries made from the shops'
catalogues. What is measured are queries of the splits dev and test: the first stage's window ordered by the reranker
alone, and by first stage, reranker, signals and cosines with weights fitted on the other folds' queries. Differences
are nDCG@10 with 95 % intervals over queries (paired bootstrap). A stopped run goes on with the row that it was at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from lastmile import told
from numpy.typing import NDArray

from indexer import settings as config
from indexer.han import has_han
from indexer.settings import Models
from reranker.blend import COLUMNS, FIRST_STAGE, RERANK, unit
from reranker.bundle import Bundle, load
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import Query, read_qrels, read_queries
from reranker.retrieval import bounded
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training import data, finetune, lastmile, run
from reranker.training.lastmile import Window
from reranker.training.shops import Shop, Source, open_shop, window_of
from reranker.training.workbench import CURRENT, open_base

MADE = ("attribute_queries", "exclusion_queries", "price_queries", "accessory_queries")
UNTRAINED = "as it is"


def opened(index: str, queries_file: str, qrels_file: str) -> Shop:
    """A shop none of whose queries is learned from."""
    qrels = read_qrels(Path(qrels_file))
    queries = [query for query in read_queries(Path(queries_file)) if query.id in qrels]
    splits = {query.id: query.columns.get("split", "test").replace("train", "not read here") for query in queries}
    return open_shop(Source(index, queries, qrels, splits), config.load())


def asked_of(shops: Sequence[Shop]) -> list[tuple[Shop, Query]]:
    """What is measured, in order."""
    return [(shop, query) for shop in shops for query in shop.source.within(("dev", "test"))]


def searched(shops: Sequence[Shop], file: Path) -> list[Window]:
    """The windows of what is measured as the current reranker scores them, kept in a file."""
    if not file.is_file():
        settings, gain = config.load(), parse_gains(ESCI_GAINS)
        model = CrossEncoder.load(settings.models)
        searchers = {id(shop): Searcher(shop.searcher.retriever, model, settings) for shop in shops}
        found = [
            window_of(shop.source, searchers[id(shop)], query, gain, settings.search.window)
            for shop, query in asked_of(shops)
        ]
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
    """The windows as another cross-encoder scores them."""
    model = CrossEncoder(bundle, Models())
    found = []
    for (shop, query), window in zip(asked_of(shops), windows, strict=True):
        rows = window.features.copy()
        if window.ids:
            tokens = [model.product_tokens(shop.products[key]) for key in window.ids]
            rows[:, COLUMNS.index(RERANK)] = unit(model.score(bounded(query.text), tokens).values)
        found.append(msgspec.structs.replace(window, features=rows))
    return found


def trained(name: str, made: Mapping[str, int], shops: Sequence[Shop], work: Path, rate: float) -> Bundle:
    """The current reranker after reading the made queries; one that is there already is not made again."""
    folder = work / re.sub(r"\W+", "-", name)
    if (folder / "bundle" / "bundle.json").is_file():
        return load(folder / "bundle", "reranker")
    base, licence, before = open_base(CURRENT, work / "base", "reranker", ())
    assert before is not None
    plan = run.Plan(
        name="supervision",
        base=before.description.base_model,
        base_licence=licence,
        gain=parse_gains(ESCI_GAINS),
        data=msgspec.convert({"title_queries": 0, **made}, data.Options),
        finetune=finetune.Options(learning_rate=rate),
        refit=False,
        before=before,
    )

    def progress(phase: str, step: int, steps: int, loss: float) -> None:
        if step % 20 == 0:
            print(f"{name}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

    return run.fit(shops, base, plan, folder, False, progress)


def rows_of(lists: int) -> dict[str, dict[str, int]]:
    """Made queries of each catalogue, row by row."""
    titles = {"title_queries": lists // 2}
    alone = {f"titles and {name.removesuffix('_queries')}": titles | {name: lists // 2} for name in MADE}
    return {
        "titles": {"title_queries": lists},
        **alone,
        "titles and all four": titles | dict.fromkeys(MADE, lists // 8),
    }


def values_of(windows: Sequence[Window]) -> dict[str, NDArray[np.float64]]:
    return {"alone": lastmile.values(windows, {RERANK: 1.0}), "final": lastmile.held_out_values(windows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shop", nargs=3, action="append", required=True, metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lists", type=int, default=480, help="of each row, over all catalogues")
    parser.add_argument("--rate", type=float, default=3e-5, help="learning rate")
    given = parser.parse_args()
    shops = [opened(*each) for each in given.shop]
    asked = asked_of(shops)
    bare = searched(shops, given.work / "windows.json")
    found = {UNTRAINED: values_of(bare)}
    catalogues = len({shop.source.index for shop in shops})
    for name, made in rows_of(given.lists // catalogues).items():
        bundle = trained(name, made, shops, given.work, given.rate)
        found[name] = values_of(scored(bundle, shops, bare))
        training = bundle.description.training
        print(f"{name}: {training['made_queries']} queries, {training['lists']} lists", file=sys.stderr, flush=True)

    chinese = np.array([has_han(query.text) for _, query in asked])
    first = np.array([shop.source.index == shops[0].source.index for shop, _ in asked])
    excluding = np.array([bool(window.features[:, COLUMNS.index("excluded")].any()) for window in bare])
    sets = {
        "first shop": first,
        "other shops, English": ~first & ~chinese,
        "other shops, Chinese": ~first & chinese,
        "all, queries that exclude something": excluding,
        "all": np.full(len(asked), True),
    }
    stage = lastmile.values(bare, {FIRST_STAGE: 1.0})
    print(f"{given.lists} lists a row, learning rate {given.rate}, window {config.load().search.window}")
    for title, chosen in sets.items():
        if not chosen.any():
            continue
        print(f"\n{title}: {int(chosen.sum())} queries, first stage {stage[chosen].mean():.3f}")
        print("| read | alone | minus as it is (95 %) | in the final order | minus as it is (95 %) |")
        print("|---|---|---|---|---|")
        for name, values in found.items():
            cells = [
                f"{values[way][chosen].mean():.3f} | {told(values[way][chosen], found[UNTRAINED][way][chosen])}"
                for way in ("alone", "final")
            ]
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
