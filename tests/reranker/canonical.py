"""Canonical scores: what the models make of fixed pairs of query and product, beside a snapshot of it.

The pairs are for a reader's eye: each product's name says why it is there. A snapshot has one row per query and per
pair, of everything that leads to the order: token ids as number and hash, the first components of the vectors, cosine,
logit, features, final score. Whatever changes a score on purpose or by accident changes a row.

`python -m tests.reranker.canonical` compares the models that the settings name with the snapshot.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from indexer.errors import InputError, ShelfrankError, UsageError
from indexer.mappings import VECTOR, made_by
from indexer.settings import load as load_settings
from reranker.blend import COLUMNS, features
from reranker.bundle import NONE
from reranker.encoder import Encoder, QueryVectors
from reranker.rescore import Candidate, rescore
from reranker.scoring import CrossEncoder, pair
from reranker.text import product_ids, query_ids
from tests.reranker.canonical_pairs import QUERIES, Product, Query

SNAPSHOT = Path(__file__).with_name("canonical_scores.json")
TOLERANCE = 1e-3  # float32 differs between CPUs, by far less than this; a rank is far more
RENEW = "python -m tests.reranker.canonical --write"
_COMPONENTS = 4  # of each vector: enough to see that it turned where the cosine does not show it
_FEATURE = "feature "
_DECIMALS = 6  # in the file

Value = float | str | list[str]
Row = dict[str, Any]  # values, and dictionaries or lists of them
Snapshot = dict[str, Row]


class Change(msgspec.Struct, frozen=True):
    """One value that differs between two snapshots: in which row, what, and both; None where one has no such row."""

    row: str
    what: str
    before: Value | None
    after: Value | None

    @property
    def difference(self) -> float | None:
        """After less before, None for what is no number."""
        if isinstance(self.before, float) and isinstance(self.after, float):
            return self.after - self.before
        return None


class Measurer:
    """Measures what an encoder and a reranker make of queries and their products, by the path that a search takes; and
    what the reranker for English makes of the English ones, where there is one."""

    def __init__(self, encoder: Encoder, reranker: CrossEncoder, english: CrossEncoder | None = None) -> None:
        self._encoder, self._reranker, self._english = encoder, reranker, english
        self._recipe, self._tokenizer = encoder.bundle.description.recipe, encoder.bundle.tokenizer()

    def snapshot(self, queries: Sequence[Query] = QUERIES) -> Snapshot:
        """The rows of all queries, and of the models. Raises ShelfrankError when a window could not be rescored."""
        models: Row = {
            "encoder": self._encoder.bundle_id,
            "reranker": self._reranker.bundle_id,
            "columns": list(COLUMNS),
        }
        snapshot: Snapshot = {"models": models}
        for query in queries:
            snapshot |= self.rows(query)
        if self._english is not None:
            models["reranker-en"] = self._english.bundle_id
            reader = Measurer(self._encoder, self._english)
            for query in in_english(queries):
                snapshot |= reader.rows(query)
        return snapshot

    def rows(self, query: Query) -> Snapshot:
        """The rows of one query and of its pairs. Raises ShelfrankError as `snapshot` does."""
        vectors = QueryVectors(query.text, [self._encoder])
        products = [product.fields for product in query.products]
        embedded = self._encoder.embed_products(products)
        window = [self._hit(product, vector) for product, vector in zip(query.products, embedded, strict=True)]
        outcome = rescore(query.text, window, self._reranker, vectors=vectors)
        if outcome.status != "applied":
            raise ShelfrankError(f"The query {query.name!r} was not rescored: {outcome.status}, {outcome.reason}.")
        first, logits = np.array([hit.first_stage for hit in window]), np.array(outcome.rerank, np.float64)
        columns = features(query.text, products, first, logits, outcome.known_cosines())
        rows: Snapshot = {
            query.name: {
                "text": query.text,
                "tokens": self._query_tokens(query),
                "vector": vectors.by(self._encoder.bundle_id)[:_COMPONENTS].tolist(),
                "order": [query.products[at].name for at in outcome.order],
            }
        }
        for at, product in enumerate(query.products):
            rows[pair_name(query, product)] = {
                "tokens": self._pair_tokens(query, product),
                "vector": embedded[at, :_COMPONENTS].tolist(),
                "cosine": outcome.cosines[at],
                "logit": float(logits[at]),
                "features": dict(zip(COLUMNS, columns[at].tolist(), strict=True)),
                "final": outcome.final[at],
            }
        return rows

    def _hit(self, product: Product, vector: NDArray[np.float32]) -> Candidate:
        stored = {VECTOR: vector.tolist(), made_by(VECTOR): self._encoder.bundle_id}
        return Candidate(product.name, product.first_stage, product.fields | stored)

    def _query_tokens(self, query: Query) -> list[str]:
        """Number and hash of the token ids that encoder and reranker read."""
        return [
            _hashed(query_ids(query.text, self._recipe, self._tokenizer)),
            _hashed(self._reranker.read(query.text, {})[0].ids),
        ]

    def _pair_tokens(self, query: Query, product: Product) -> list[str]:
        """The same of the product alone, as the encoder reads it, and of the whole pair, with its token types."""
        description = self._reranker.bundle.description
        asked, read = pair_ids(query, product, self._reranker)
        return [
            _hashed(product_ids(product.fields, self._recipe, self._tokenizer)),
            _hashed(*pair(asked, read, description.layout, description.recipe.max_tokens)),
        ]


def in_english(queries: Sequence[Query] = QUERIES) -> list[Query]:
    """The English queries, by the names of their rows of the reranker for English."""
    return [
        msgspec.structs.replace(query, name=f"{query.name}, read as English")
        for query in queries
        if query.language == "en"
    ]


def pair_name(query: Query, product: Product) -> str:
    return f"{query.name} / {product.name}"


def pair_ids(query: Query, product: Product, reranker: CrossEncoder) -> tuple[list[int], list[int]]:
    """The query's and the product's token ids, as `CrossEncoder.score_pairs` takes them."""
    return reranker.read(query.text, {})[0].ids, reranker.product_tokens(product.fields)


def _hashed(*ids: Sequence[int]) -> str:
    return f"{len(ids[0])}:{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:8]}"


def compare(before: Snapshot, after: Snapshot, tolerance: float = TOLERANCE) -> list[Change]:
    """What differs: numbers by more than `tolerance`, orders by more than a near tie, all else by anything."""
    changes: list[Change] = []
    for name in {**before, **after}:
        if name not in before or name not in after:
            there = ["there" if name in each else None for each in (before, after)]
            changes.append(Change(name, "row", *there))
            continue
        old, new = _values(before[name]), _values(after[name])
        for what in sorted({*old, *new}):
            change = Change(
                name, what, *(each.get(what, 0.0 if what.startswith(_FEATURE) else None) for each in (old, new))
            )
            if not (_near_tie(name, change, before, tolerance) if what == "order" else _alike(change, tolerance)):
                changes.append(change)
    return changes


def largest(before: Snapshot, after: Snapshot) -> dict[str, tuple[float, str]]:
    """The largest difference of each kind of number that differs in the decimals of the file, and its row."""
    found: dict[str, tuple[float, str]] = {}
    for change in compare(before, after, tolerance=10**-_DECIMALS):
        if change.difference is not None:
            kind = change.what.split("[")[0]
            found[kind] = max(found.get(kind, (0.0, "")), (abs(change.difference), change.row))
    return found


def _values(row: Row) -> dict[str, Value]:
    """A row's values by name, those of vector, tokens and features each by its own."""
    found: dict[str, Value] = {}
    for what, value in row.items():
        if isinstance(value, dict):
            found |= {f"{_FEATURE}{name}": number for name, number in value.items()}
        elif isinstance(value, list) and what in ("vector", "tokens"):
            names = ("encoder", "reranker") if what == "tokens" else map(str, range(len(value)))
            found |= {f"{what}[{name}]": each for name, each in zip(names, value, strict=True)}
        else:
            found[what] = value
    return found


def _alike(change: Change, tolerance: float) -> bool:
    difference = change.difference
    return change.before == change.after if difference is None else abs(difference) <= tolerance


def _near_tie(query: str, change: Change, before: Snapshot, tolerance: float) -> bool:
    """Whether an order is the same but for products whose final scores were nearly equal in the snapshot."""
    old, new = change.before, change.after
    if old == new or not (isinstance(old, list) and isinstance(new, list) and sorted(old) == sorted(new)):
        return old == new
    finals = [before.get(f"{query} / {name}", {}).get("final") for name in new]
    known = [final for final in finals if isinstance(final, float)]
    falls = all(higher >= lower - tolerance for higher, lower in itertools.combinations(known, 2))
    return falls and len(known) == len(new)


def encode(snapshot: Snapshot) -> str:
    """A snapshot as JSON with one row to a line, so that a diff shows which pairs changed.

    Features that are 0 are left out: `columns` of the models names them all.
    """
    lines = [
        f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(_written(row), ensure_ascii=False, sort_keys=True)}"
        for name, row in snapshot.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _written(each) for name, each in value.items() if each != 0 or name not in COLUMNS}
    if isinstance(value, list):
        return [_written(each) for each in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value


def read(path: Path = SNAPSHOT) -> Snapshot:
    """Raises InputError for a file that is no snapshot."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is no snapshot of scores: {error}. `{RENEW}` writes one.") from error


def report(changes: Sequence[Change]) -> str:
    """The changes as a table: row, what, before, after, difference."""
    rows = [("row", "what", "before", "after", "difference")]
    for change in changes:
        by = "" if change.difference is None else f"{change.difference:+.6f}"
        rows.append((change.row, change.what, _shown(change.before), _shown(change.after), by))
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _shown(value: Value | None) -> str:
    if isinstance(value, list):
        return " > ".join(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    return "-" if value is None else value


@click.command(epilog="Example: SHELFRANK_MODELS_RERANKER=runs/mine python -m tests.reranker.canonical")
@click.option("--tolerance", default=TOLERANCE, show_default=True, help="What a number may differ by.")
@click.option("--snapshot", type=click.Path(path_type=Path, dir_okay=False), default=SNAPSHOT, help="Another file.")
@click.option("--write", is_flag=True, help="Write the snapshot anew, after models or features changed on purpose.")
def main(tolerance: float, snapshot: Path, write: bool) -> None:
    """Compare the models that the settings name with the snapshot of their canonical scores.

    Prints what changed and exits with 1 when anything did, by more than the tolerance.
    """
    models = load_settings().models
    encoder, reranker = Encoder.load(models), CrossEncoder.load(msgspec.structs.replace(models, reranker_en=NONE))
    english = CrossEncoder.load(models).english
    found = Measurer(encoder, reranker, english).snapshot()
    if write:
        if snapshot == SNAPSHOT:
            _check_shipped(*filter(None, (encoder, reranker, english)))
        snapshot.write_text(encode(found), "utf-8")
        click.echo(f"Wrote {len(found)} rows to {snapshot}.")
        return
    known = read(snapshot)
    changes = compare(known, found, tolerance)
    if changes:
        click.echo(report(changes))
    for kind, (difference, row) in sorted(largest(known, found).items()):
        click.echo(f"Largest difference of {kind}: {difference:.6f} ({row})")
    rows = len({change.row for change in changes})
    click.echo(f"{len(changes)} values in {rows} of {len(found)} rows differ by more than {tolerance:g}.")
    if changes:
        click.echo(f"On purpose? `{RENEW}` writes the snapshot anew.")
    raise SystemExit(1 if changes else 0)


def _check_shipped(*models: Encoder | CrossEncoder) -> None:
    for bundle in (model.bundle for model in models):
        if bundle.origin != "shipped":
            raise UsageError(
                f"{SNAPSHOT.name} is of the models that ship; {bundle.folder} comes from a {bundle.origin}. "
                "Name another file with --snapshot."
            )


if __name__ == "__main__":
    try:
        main()
    except ShelfrankError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
