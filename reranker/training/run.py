"""A whole training run: shop's index and judgments in, a measured reranker bundle out.

Queries are split three ways by query, never by pair: the model learns from `train`, the last mile is fitted on
`dev`, and what is reported comes from `test`. With `refit` the bundle that ships is then trained on all queries but
those of a shop's own test split, with the blend and the figures of its measured twin, and its card says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from indexer.errors import InputError
from indexer.settings import Models
from reranker.blend import as_weights
from reranker.bundle import Bundle, Description, Kind, Layout, fingerprint, layout_of, write_description
from reranker.cache import Cache
from reranker.evaluation.compare import Gain
from reranker.retrieval import bounded
from reranker.scoring import CrossEncoder, pair
from reranker.search import Searcher
from reranker.text import Recipe, product_ids, query_ids
from reranker.training import checkpoint, data, export, finetune, lastmile, taught
from reranker.training.made import made_groups
from reranker.training.recipes import LANGUAGES, OF_RERANKERS
from reranker.training.shops import KEPT_SCORES, Shop, window_of, words_window_of

BLENDS = tuple(round(step / 20, 2) for step in range(21))
_PARITY_PAIRS, _PARITY_BATCH = 1_000, 32
# The largest difference of a logit from the trained model's: a part of their range, and what matters to no blend.
_PARITY = 0.05
_PARITY_FLOOR = 0.01


class Plan(msgspec.Struct, frozen=True):
    """Everything that decides a run's result."""

    name: str
    base: str
    base_licence: str
    gain: Gain
    data: data.Options
    finetune: finetune.Options
    refit: bool
    window: int = 50
    teachers: tuple[Bundle, ...] = ()  # whose scores are learned, in the place of gains
    kind: Kind = "reranker"
    before: Bundle | None = None  # the bundle that training goes on from, where it does not start from a base model

    @property
    def recipe(self) -> Recipe:
        """What of a product the model reads."""
        return self.before.description.recipe if self.before else OF_RERANKERS[self.kind]


class LastMile(msgspec.Struct, frozen=True):
    """How scores become the final order, and what came of it."""

    blend: float
    weights: dict[str, float]
    vector_weights: dict[str, float]
    report: dict[str, Any]


Progress = Callable[[str, int, int, float], None]
"""Name of the phase, step, steps, loss."""


def train(shops: Sequence[Shop], base: Path, plan: Plan, out: Path, progress: Progress) -> Bundle:
    """Train, export, measure on held-out queries, and refit on all when the plan says so."""
    measured = fit(shops, base, plan, out / "measured", False, progress)
    last = measure(shops, measured, plan)
    quality = last.report
    bundle = measured
    if plan.refit:
        bundle = fit(shops, base, plan, out / "refit", True, progress)
        quality["note"] = "measured on a twin that was trained without the dev and test queries"
    # The dev queries chose the blend, so they count as seen even where the weights never met them.
    seen = [query.text for shop in shops for query in shop.source.within((*shop.source.learned(plan.refit), "dev"))]
    before = plan.before.description.seen if plan.before else ()
    description = msgspec.structs.replace(
        bundle.description,
        blend=last.blend,
        weights=last.weights,
        vector_weights=last.vector_weights,
        quality={**bundle.description.quality, **quality},
        trained_on=tuple(sorted({*map(fingerprint, seen), *before})),
    )
    made = write_description(bundle.folder, description)
    for phase in ("measured", "refit"):
        checkpoint.remove(out / phase)
    return made


def fit(shops: Sequence[Shop], base: Path, plan: Plan, folder: Path, refit: bool, progress: Progress) -> Bundle:
    """Train on the shops' training queries (all that may be learned from for `refit`) and export; measures nothing."""
    began = time.monotonic()
    phase = folder.name
    groups = [group for shop in shops for group in _judged(shop, plan, refit)] + _made(shops, plan, refit)
    groups += [group for shop in shops for group in _unjudged(shop, plan)]
    lists = finetune.draw_lists(groups, plan.finetune)
    products = {key: product for shop in shops for key, product in _keyed(shop).items()}
    pairing = Pairing(base, products, plan.recipe)
    if plan.teachers:
        lists = taught.taught(
            lists,
            [CrossEncoder(each, Models()) for each in plan.teachers],
            products,
            folder / "taught.npz",
            lambda done, of: progress("teachers", done, of, 0.0),
        )
    model = finetune.load_base(base, plan.finetune.layers, plan.finetune.seed, plan.finetune.spread)
    curve: list[float] = []

    def on_step(step: int, steps: int, loss: float) -> None:
        curve.append(loss)
        progress(phase, step, steps, loss)

    finetune.finetune(model, lists, pairing, pairing.layout, plan.finetune, on_step, folder)
    finetune.save(model, folder / "model", base)
    about = {
        "data": msgspec.to_builtins(plan.data),
        "finetune": msgspec.to_builtins(plan.finetune),
        "judged_queries": sum(group.judged > 1 for group in groups),
        "made_queries": sum(group.judged == 1 for group in groups),
        "lists": len(lists),
        **({"teachers": {each.id: each.description.training for each in plan.teachers}} if plan.teachers else {}),
        **({"unjudged_queries": sum(group.judged == 0 for group in groups)} if plan.teachers else {}),
        **({"before": {"bundle": plan.before.id, **plan.before.description.training}} if plan.before else {}),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "loss_by_tenth": [round(float(part.mean()), 4) for part in np.array_split(np.array(curve), 10) if len(part)],
    }
    description = Description(
        format=1,
        kind=plan.kind,
        name=plan.name,
        base_model=plan.base,
        base_licence=plan.base_licence,
        licence="Apache-2.0",
        languages=LANGUAGES[plan.kind],
        recipe=plan.recipe,
        layout=pairing.layout,
        files={},
        gains={str(grade): plan.gain(grade) for grade in _grades(shops)},
        training=about,
    )
    bundle = export.export(folder / "model", folder / "bundle", description)
    drift, spread = parity(model, bundle, pairing, lists)
    if not drift <= max(_PARITY * spread, _PARITY_FLOOR):
        raise InputError(
            f"The exported model differs from the trained one by {drift:.3f} logits, of a range of {spread:.1f}; "
            f"{_PARITY:.0%} is allowed. The trained model is in {folder / 'model'}."
        )
    quality = {"torch_parity_logits": round(drift, 4), "logit_range": round(spread, 2)}
    return write_description(bundle.folder, msgspec.structs.replace(bundle.description, quality=quality))


def _grades(shops: Sequence[Shop]) -> list[int]:
    return sorted({grade for shop in shops for grades in shop.source.qrels.values() for grade in grades.values()})


def _judged(shop: Shop, plan: Plan, refit: bool) -> list[data.Group]:
    source = shop.source
    chosen = source.within(source.learned(refit))
    queries = {query.id: query.text for query in chosen}
    gains = {query.id: source.gains(query, plan.gain) for query in chosen}
    return _of(shop, data.judged_groups(queries, gains, list(shop.products), shop.first_stage, plan.data))


def _unjudged(shop: Shop, plan: Plan) -> list[data.Group]:
    """Queries without judgments, but for those that are held out."""
    held_out = {query.text for query in shop.source.within(("dev", "test"))}
    queries = [query for query in shop.unjudged if query not in held_out]
    size, seed = plan.finetune.list_size, plan.data.seed
    return _of(shop, taught.unjudged_groups(queries, list(shop.products), shop.first_stage, size, seed))


def _made(shops: Sequence[Shop], plan: Plan, refit: bool) -> list[data.Group]:
    """Made queries of each catalogue, once even where several sources judge it; none is a query that is held out."""
    learned = [shop.source.within(shop.source.learned(refit)) for shop in shops]
    held_out = {query.text for shop in shops for query in shop.source.queries}
    held_out -= {query.text for queries in learned for query in queries}
    catalogues = {shop.source.index: shop for shop in shops}.values()
    return [
        group
        for shop in catalogues
        for group in _of(shop, made_groups(shop.products, shop.nearest, plan.data, held_out))
    ]


def _of(shop: Shop, groups: Sequence[data.Group]) -> list[data.Group]:
    """The groups with their products named by index too, as several shops train one model."""
    return [
        msgspec.structs.replace(group, products=tuple(f"{shop.source.index}/{product}" for product in group.products))
        for group in groups
    ]


def _keyed(shop: Shop) -> dict[str, dict[str, Any]]:
    return {f"{shop.source.index}/{key}": product for key, product in shop.products.items()}


class Pairing:
    """Pairs made as serving makes them, from the base's tokenizer; products are tokenised once."""

    def __init__(self, base: Path, products: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.layout: Layout = layout_of(tokenizer, export.pad_id(base))
        self._max_tokens = recipe.max_tokens
        self._products = {key: product_ids(product, recipe, tokenizer) for key, product in products.items()}
        self._query = lru_cache(100_000)(lambda query: query_ids(bounded(query), recipe, tokenizer))

    def __call__(self, query: str, product: str) -> finetune.Pair:
        return finetune.Pair(*pair(self._query(query), self._products[product], self.layout, self._max_tokens))


def parity(
    model: Any, bundle: Bundle, pairing: Pairing, lists: Sequence[Sequence[tuple[str, str, float]]]
) -> tuple[float, float]:
    """Largest difference of a logit between the trained model and the stored bundle on some pairs, and the range."""
    import torch

    pairs = [pairing(query, product) for part in lists for query, product, _ in part][:_PARITY_PAIRS]
    session = CrossEncoder(bundle, Models()).session
    model.to("cpu").eval()
    expected, found = [], []
    for part in (pairs[at : at + _PARITY_BATCH] for at in range(0, len(pairs), _PARITY_BATCH)):
        with torch.no_grad():
            batch = finetune.collate(part, pairing.layout.pad, torch.device("cpu"))
            expected += model(**batch).logits[:, 0].tolist()
        rows = session.run([item.ids for item in part], [item.types for item in part], pairing.layout.pad)
        found += rows[:, 0].tolist()
    differences = np.abs(np.subtract(expected, found))
    return float(differences.max()), float(np.ptp(expected))


def measure(shops: Sequence[Shop], bundle: Bundle, plan: Plan) -> LastMile:
    """Choose blend and weights on dev by mean nDCG@10 over all shops' queries; report them and the first stage on test.

    The weights are kept only where, fitted without the query that they order, they beat the best blend. Training that
    goes on from a bundle goes on from its weights too, and keeps them where there is no dev query.
    """
    reranker = CrossEncoder(bundle, Models())
    reranker.cache = Cache(KEPT_SCORES)
    found: dict[str, list[tuple[str, lastmile.Window]]] = {"dev": [], "test": []}
    words: list[lastmile.Window] = []
    for shop in shops:
        searcher = Searcher(shop.searcher.retriever, reranker, shop.searcher.settings)
        for split, rows in found.items():
            for query in shop.source.within((split,)):
                rows.append((shop.source.index, window_of(shop.source, searcher, query, plan.gain, plan.window)))
                if split == "dev":
                    words += words_window_of(shop.source, searcher, query, plan.gain, plan.window)
    dev = [window for _, window in found["dev"]]
    card = plan.before.description if plan.before else None
    blend, weights, vector_weights = (card.blend, card.weights, card.vector_weights) if card else (0.0, {}, {})
    near = lastmile.know_cosines(dev)
    fitted = lastmile.fitter(card, near)
    report: dict[str, Any] = {"blend_chosen_on": f"{len(dev)} dev queries"}
    if dev:
        means = [lastmile.values(dev, as_weights(each)).mean() for each in BLENDS]
        blend = BLENDS[int(np.argmax(means))]
        held_out = lastmile.held_out_values(dev, fitted=fitted)
        report["dev"] = {
            "ndcg@10 first stage": _rounded(means[0]),
            "ndcg@10 blended": _rounded(max(means)),
            "ndcg@10 weights, held out": _rounded(held_out.mean()),
        }
        if card or held_out.mean() > max(means):
            weights, vector_weights = lastmile.fitter(card, cosines=False)([*dev, *words]), fitted(dev) if near else {}
    for index in sorted({name for name, _ in found["test"]}):
        test = [window for name, window in found["test"] if name == index]
        report[index] = {
            "test_queries": len(test),
            "ndcg@10 first stage": _rounded(lastmile.values(test, as_weights(0.0)).mean()),
            "ndcg@10 blended": _rounded(lastmile.values(test, as_weights(blend)).mean()),
            "ndcg@10 reranker alone": _rounded(lastmile.values(test, as_weights(1.0)).mean()),
            **({"ndcg@10 final": _rounded(lastmile.values(test, vector_weights or weights).mean())} if weights else {}),
        }
    return LastMile(blend, weights, vector_weights, report)


def _rounded(value: Any) -> float:
    return round(float(value), 4)
