"""The gate: what a bundle must show before it may be promoted. Every check is measured and says its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.errors import BundleError, ShelfrankError
from indexer.settings import Models
from reranker import bundle as bundles
from reranker.bundle import Bundle, Kind
from reranker.encoder import Encoder
from reranker.registry.probes import EDGES, ORDERED, PROBES, QUERIES, TEXTS
from reranker.scoring import CrossEncoder

FATAL = ("files", "loads")  # a bundle that fails one of these cannot serve, whatever the reason to want it
# Scores are rounded to 5 decimals; a value on the edge may still fall to either side. Vectors: 1 - cosine.
_BATCH = {"reranker": 1.5e-5, "reranker-en": 1.5e-5, "encoder": 1e-5}
# The part of the logits' range by which a stored model may differ from the trained one, and what matters to no blend.
_PARITY, _PARITY_FLOOR = 0.05, 0.01
_ORDERED = 0.75
_SEED = 7

Values = NDArray[np.float64]
Model = Encoder | CrossEncoder


class Check(msgspec.Struct, frozen=True):
    """One thing that was measured. `measured` and `limit` are None where there is nothing to count."""

    name: str
    passed: bool
    measured: float | None
    limit: float | None
    detail: str


class Report(msgspec.Struct, frozen=True):
    """What the gate found of one bundle."""

    bundle: str
    kind: Kind
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        return not self.failed


def examine(folder: Path, kind: Kind, settings: Models) -> Report:
    """Every check that needs no index, under the provider that the settings name. Never raises for a bad bundle."""
    try:
        bundle = bundles.verify(folder, kind)
    except BundleError as error:
        return Report(str(folder), kind, (Check("files", False, None, None, str(error)),))
    count = len(bundle.description.files)
    checks = [Check("files", True, None, None, f"the checksums of {count} files are right")]
    try:
        model, again = _load(bundle, settings), _load(bundle, settings)
    except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is the finding
        checks.append(Check("loads", False, None, None, _reason(error)))
        return Report(bundle.id, kind, tuple(checks))
    fallback = f": {model.session.fallback_reason}" if model.session.fallback_reason else ""
    checks.append(Check("loads", True, None, None, f"on {model.session.provider}{fallback}"))
    asked = Asked(model)
    looks: list[tuple[str, Callable[[], Check]]] = [
        ("finite", lambda: finite(asked)),
        ("permutation", lambda: permutation(asked)),
        ("batch", lambda: batch(asked)),
        ("reload", lambda: reload(asked, Asked(again))),
        ("languages", lambda: languages(model)),
        ("edges", lambda: edges(model)),
        ("parity", lambda: parity(bundle)),
    ]
    checks += [_guarded(name, look) for name, look in looks]
    return Report(bundle.id, kind, tuple(checks), tuple(_warnings(model)))


class Asked:
    """A model, and what it makes of the fixed texts together, which several checks look at."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._found: dict[str, Values] = {}

    def together(self, query: str) -> Values:
        if query not in self._found:
            self._found[query] = _values(self.model, query, TEXTS)
        return self._found[query]


def finite(asked: Asked) -> Check:
    """Every value is a number, and there are as many as the card says."""
    values = np.vstack([asked.together(query) for query in _queries(asked.model)])
    bad = int((~np.isfinite(values)).sum())
    return Check("finite", not bad, bad, 0, f"{bad} of {values.size} values are not finite numbers")


def permutation(asked: Asked) -> Check:
    """The order in which texts arrive changes nothing, not even the last bit."""
    model, rng = asked.model, np.random.default_rng(_SEED)
    changes = []
    for query in _queries(model):
        straight = asked.together(query)
        for _ in range(2):
            order = rng.permutation(len(TEXTS))
            shuffled = np.empty_like(straight)
            shuffled[order] = _values(model, query, [TEXTS[at] for at in order])
            changes.append(np.abs(straight - shuffled).max())
    return _within("permutation", changes, 0.0, "largest change of a value in shuffled order")


def batch(asked: Asked) -> Check:
    """A text gets alone what it gets among others: dynamic quantisation of activations fails here."""
    model, changes = asked.model, []
    for query in _queries(model):
        together = asked.together(query)
        alone = np.vstack([_values(model, query, [text]) for text in TEXTS])
        changes.append(_apart(model, together, alone))
    return _within("batch", changes, _BATCH[_kind(model)], f"largest {_measure(model)} between alone and together")


def reload(asked: Asked, again: Asked) -> Check:
    """The model loaded once more gives the same."""
    pairs = [(asked.together(query), again.together(query)) for query in _queries(asked.model)]
    changes = [float(np.abs(ours - theirs).max()) for ours, theirs in pairs]
    return _within("reload", changes, 0.0, "largest change of a value after loading again")


def languages(model: Model) -> Check:
    """Texts of every language that the card names are told apart, and so is Chinese from English."""
    blind = []
    for language in _named(model):
        texts = [text for _, right, wrong in PROBES[language] for text in (right, wrong)]
        values = _values(model, PROBES[language][0][0], texts)
        if len(np.unique(np.round(values, 4), axis=0)) < len(set(texts)) / 2:
            blind.append(language)
    detail = f"takes texts in {', '.join(blind)} for one another" if blind else "texts are told apart"
    return Check("languages", not blind, len(blind), 0, f"{detail} (looked at {', '.join(_named(model)) or 'none'})")


def edges(model: Model) -> Check:
    """Empty, white, odd and 10,000-character queries and products give finite values."""
    bad = []
    for name, text in EDGES.items():
        found = [_values(model, text, ["steel cup", "保温杯"]), _values(model, "steel cup 保温杯", [text])]
        if not all(np.isfinite(values).all() for values in found):
            bad.append(name)
    detail = f"no finite value for {', '.join(bad)}" if bad else f"finite for {', '.join(EDGES)}"
    return Check("edges", not bad, len(bad), 0, detail)


def parity(bundle: Bundle) -> Check:
    """The stored model gives the logits of the trained one, as far as training recorded it."""
    quality = bundle.description.quality
    drift, spread = quality.get("torch_parity_logits"), quality.get("logit_range")
    if not isinstance(drift, (int, float)) or not isinstance(spread, (int, float)):
        return Check("parity", True, None, None, "the card records no comparison with the trained model")
    limit = max(_PARITY * spread, _PARITY_FLOOR)
    return _within(
        "parity", [float(drift)], round(limit, 4), f"logits from the trained model, of a range of {spread:g}"
    )


def ordered(model: Model, language: str) -> float:
    """The share of a language's probes whose fitting product comes before the other."""
    right = 0
    for query, good, other in PROBES[language]:
        values = _values(model, query, [good, other])
        if isinstance(model, Encoder):
            asked = model.embed_queries([query])[0].astype(np.float64)
            values = values[:, : len(asked)] @ asked[:, None]
        right += bool(values[0, 0] > values[1, 0])
    return right / len(PROBES[language])


def _warnings(model: Model) -> list[str]:
    told = []
    for language in _named(model):
        try:
            share = ordered(model, language)
        except Exception:  # noqa: BLE001, S112 - the checks have told why it cannot run
            continue
        if share < _ORDERED:
            told.append(f"{ORDERED} in {share:.0%} of the probes in {language}; {_ORDERED:.0%} is expected.")
    if _kind(model) != "encoder" and "torch_parity_logits" not in model.bundle.description.quality:
        told.append("The card records no comparison with the trained model (quality.torch_parity_logits).")
    return told


def _load(bundle: Bundle, settings: Models) -> Model:
    return Encoder(bundle, settings) if bundle.description.kind == "encoder" else CrossEncoder(bundle, settings)


def _values(model: Model, query: str, texts: Sequence[str]) -> Values:
    """What a model makes of texts beside a query: float64 [texts, 1] logits, or [texts, 2 x dimension] vectors.

    An encoder sees each text as a product and, behind the query, as a query. Raises BundleError for another shape.
    """
    if isinstance(model, CrossEncoder):
        return model.score(query, [model.text_tokens(text) for text in texts]).values[:, None]
    if model.dimension < 1:
        raise BundleError(f"{model.bundle.folder} is an encoder whose card says dimension {model.dimension}.")
    field = model.bundle.description.recipe.fields[0].name
    products = model.embed_products([{field: text} for text in texts])
    queries = model.embed_queries([f"{query} {text}".strip() for text in texts])
    return np.hstack([products, queries]).astype(np.float64)


def _apart(model: Model, ours: Values, theirs: Values) -> float:
    """The largest difference of logits, or 1 - the smallest cosine of vectors (of products and of queries)."""
    if isinstance(model, CrossEncoder):
        return float(np.abs(ours - theirs).max())
    half = model.dimension
    cosines = [(ours[:, part] * theirs[:, part]).sum(axis=1) for part in (slice(0, half), slice(half, None))]
    return float(np.maximum(0.0, 1 - np.min(cosines)))


def _queries(model: Model) -> tuple[str, ...]:
    """An encoder sees each text by itself, so one query is as good as two."""
    return QUERIES[:1] if isinstance(model, Encoder) else QUERIES


def _within(name: str, changes: Sequence[float], limit: float, what: str) -> Check:
    measured = float(np.max(changes))  # of NaN and a number this is NaN (Python's max may drop it), within no limit
    return Check(name, bool(measured <= limit), measured, limit, f"{what}: {measured:.2g} (limit {limit:.2g})")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - a model that fails on an input fails the check, not the command
        return Check(name, False, None, None, _reason(error))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ShelfrankError) else f"{type(error).__name__}: {error}"


def _kind(model: Model) -> Kind:
    return model.bundle.description.kind


def _measure(model: Model) -> str:
    return "distance (1 - cosine)" if isinstance(model, Encoder) else "difference of a score"


def _named(model: Model) -> list[str]:
    return [language for language in PROBES if language in model.bundle.description.languages]
