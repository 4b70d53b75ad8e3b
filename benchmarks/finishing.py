"""What a shop's own judged queries teach the models in use: trained further on some folds, measured on the other.

    python benchmarks/finishing.py --index models-esci --queries queries.tsv --qrels qrels.tsv \
        --options deploy/models/finish.toml --work runs/finishing

For each fold, training goes on from the current reranker on the other folds' queries; the fold's windows are then
scored by the old and by the new one. Weights are the current ones, or refitted on the other folds' windows, each as the
same model scored it when it had not read its query. With `--kind encoder` it is the encoder that goes on, and what is
measured is exact search over the whole catalogue. Differences are nDCG@10 with 95 % intervals over queries (paired
bootstrap).
A stopped run goes on with the fold that it was at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from lastmile import told
from numpy.typing import NDArray

from indexer import settings as config
from indexer.settings import Models
from reranker.blend import FIRST_STAGE, RERANK
from reranker.bundle import Bundle, load
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training import contrastive, data, encoders, export, finetune, lastmile, nearest, recipes, run
from reranker.training.lastmile import Window
from reranker.training.shops import Source, open_shop, window_of
from reranker.training.workbench import CURRENT, open_base


def drawn(queries: int, folds: int) -> NDArray[np.int64]:
    """The fold of each query: int64 [queries]. Seeded."""
    return np.random.default_rng(13).permutation(queries) % folds


def refitted(windows: Sequence[Window], folds: NDArray[np.int64], start: dict[str, float]) -> NDArray[np.float64]:
    """nDCG@10 of each window under weights refitted on the other folds' windows."""
    found = np.zeros(len(windows))
    for fold in range(folds.max() + 1):
        weights = lastmile.refit([windows[at] for at in np.flatnonzero(folds != fold)], start)
        part = np.flatnonzero(folds == fold)
        found[part] = lastmile.values([windows[at] for at in part], weights)
    return found


def finish_encoder(given: argparse.Namespace) -> None:
    base, _, before = open_base(CURRENT, given.work / "base", "encoder", ())
    assert before is not None
    products = encoders.read_catalogue([given.index])
    judged, _ = encoders.read_judged([(given.index, given.queries, given.qrels)], products, ESCI_GAINS)
    folds = drawn(len(judged), given.folds)
    options = msgspec.convert(given.chosen.get("encoder", {}), contrastive.Options)
    then = nearest.values(before, judged, products)
    now = np.zeros(len(judged))
    for fold in range(given.folds):
        part = np.flatnonzero(folds == fold)
        others = [judged[at] for at in np.flatnonzero(folds != fold)]
        to = given.work / f"encoder-fold-{fold}"
        model = contrastive.finetune_encoder(base, others, products, recipes.ENCODER, to / "model", options)
        bundle = export.export(model, to / "bundle", before.description)
        now[part] = nearest.values(bundle, [judged[at] for at in part], products)
        print(f"fold {fold}: {now[part].mean():.4f}, in use {then[part].mean():.4f}", file=sys.stderr, flush=True)
    print(f"{len(judged)} queries, {given.folds} folds, {len(products)} products\n")
    print("| encoder | nDCG@10 | minus what is in use (95 %) |\n|---|---|---|")
    print(f"| the one in use | {then.mean():.4f} | |\n| trained further | {now.mean():.4f} | {told(now, then)} |")


def finish_reranker(given: argparse.Namespace) -> None:
    settings, gain, chosen = config.load(), parse_gains(ESCI_GAINS), given.chosen
    qrels = read_qrels(given.qrels)
    queries = [query for query in read_queries(given.queries) if query.id in qrels]
    folds = drawn(len(queries), given.folds)
    base, licence, before = open_base(CURRENT, given.work / "base", "reranker", ())
    assert before is not None
    plan = run.Plan(
        name="finished",
        base=before.description.base_model,
        base_licence=licence,
        gain=gain,
        data=msgspec.convert(chosen.get("data", {}), data.Options),
        finetune=msgspec.convert(chosen.get("finetune", {}), finetune.Options),
        refit=False,
        before=before,
    )

    def windows(bundle: Bundle, part: NDArray[np.int64]) -> list[Window]:
        found = Searcher(shop.searcher.retriever, CrossEncoder(bundle, Models()), settings)
        return [window_of(source, found, queries[at], gain, settings.search.window) for at in part]

    old: dict[int, Window] = {}
    new: dict[int, Window] = {}
    for fold in range(given.folds):
        splits = {query.id: "test" if folds[at] == fold else "train" for at, query in enumerate(queries)}
        source = Source(given.index, queries, qrels, splits)
        shop = open_shop(source, settings)
        folder = given.work / f"fold-{fold}"
        if not (folder / "bundle" / "bundle.json").is_file():

            def progress(phase: str, step: int, steps: int, loss: float) -> None:
                print(f"{phase}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

            run.fit([shop], base, plan, folder, False, progress)
        part = np.flatnonzero(folds == fold)
        old |= zip(part, windows(before, part), strict=True)
        new |= zip(part, windows(load(folder / "bundle", "reranker"), part), strict=True)

    start = before.description.last_mile(cosines=True)
    both = {"the reranker in use": [old[at] for at in sorted(old)], "trained further": [new[at] for at in sorted(new)]}
    first = lastmile.values(both["trained further"], {FIRST_STAGE: 1.0})
    whole = lastmile.values(both["the reranker in use"], start)
    print(f"{len(queries)} queries, {given.folds} folds, window {settings.search.window}\n")
    print("| order | nDCG@10 | minus first stage (95 %) | minus what is in use (95 %) |\n|---|---|---|---|")
    print(f"| first stage | {first.mean():.4f} | | {told(first, whole)} |")
    for name, rows in both.items():
        orders = {
            "alone": lastmile.values(rows, {RERANK: 1.0}),
            "with the weights in use": lastmile.values(rows, start),
            "with weights refitted on the other folds": refitted(rows, folds, start),
        }
        for order, values in orders.items():
            print(f"| {name}, {order} | {values.mean():.4f} | {told(values, first)} | {told(values, whole)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("reranker", "encoder"), default="reranker")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--index", required=True)
    for name in ("queries", "qrels", "options", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    given.chosen = msgspec.toml.decode(given.options.read_bytes(), type=dict[str, dict[str, object]])
    (finish_encoder if given.kind == "encoder" else finish_reranker)(given)


if __name__ == "__main__":
    main()
