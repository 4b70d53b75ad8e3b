"""A bundle: one folder with everything a model needs to serve, described by `bundle.json` and verified by sha256.

Nothing in a bundle is pickled and nothing in it runs code: an ONNX graph, a tokenizer and a description.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec
from tokenizers import Tokenizer

from indexer.errors import BundleError
from indexer.settings import Models
from reranker.blend import COLUMNS, as_weights
from reranker.registry import current
from reranker.text import Recipe

FORMAT = 1
DESCRIPTION = "bundle.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
SHIPPED = Path(__file__).parent / "bundles"

Kind = Literal["encoder", "reranker", "reranker-en"]
"""`reranker-en` reads English queries in the place of a `reranker`, which reads all others."""
Origin = Literal["setting", "registry", "shipped"]
ENGLISH: Kind = "reranker-en"
NONE = "none"
_ORIGINS = ("shipped", "registry", "setting")  # the later, the more it was chosen on purpose


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Special token ids around a text or a pair: begin, query, between, product, end."""

    begin: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    typed: bool  # whether the second text has token type 1


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `bundle.json` holds."""

    format: int
    kind: Kind
    name: str
    base_model: str
    base_licence: str
    licence: str
    languages: tuple[str, ...]
    recipe: Recipe
    layout: Layout
    files: dict[str, str]  # file name -> sha256
    dimension: int = 0  # encoders: length of a vector
    blend: float = 1.0  # rerankers: weight of the rerank score that was chosen on the dev split
    weights: dict[str, float] = {}  # rerankers: weight of each score and signal in the final score; empty: the blend
    vector_weights: dict[str, float] = {}  # the same where the cosine of every hit is known; empty: `weights`
    gains: dict[str, float] = {}  # rerankers: grade -> gain it was trained with
    quality: dict[str, Any] = {}
    training: dict[str, Any] = {}
    trained_on: tuple[str, ...] = ()  # fingerprints of the judged queries that the model was made with
    weighed_on: tuple[str, ...] = ()  # rerankers: of those that the weights were fitted to afterwards

    @property
    def seen(self) -> tuple[str, ...]:
        """Fingerprints of all judged queries on which figures flatter it, in order."""
        return tuple(sorted({*self.trained_on, *self.weighed_on}))

    def last_mile(self, cosines: bool) -> dict[str, float]:
        """The weights that decide the final order where cosines are known or not: its own, or its blend as weights."""
        return (self.vector_weights if cosines else {}) or self.weights or as_weights(self.blend)


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle on disk; `origin` says what chose it."""

    folder: Path
    description: Description
    origin: Origin = "setting"

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL

    @property
    def id(self) -> str:
        """Changes with the model, the tokenizer, the recipe or the last mile's weights: with what changes a score."""
        files = self.description.files
        parts = [files[MODEL], files[TOKENIZER], self._recipe()]
        last_mile = filter(None, (self.description.weights, self.description.vector_weights))
        parts += [msgspec.json.encode(weights, order="sorted").decode() for weights in last_mile]
        return f"{self.description.name}-{_digest(*parts)[:12]}"

    @property
    def tokens_id(self) -> str:
        """Changes only with the tokenizer or the recipe: stored token ids stay good across retrained weights."""
        return _digest(self.description.files[TOKENIZER], self._recipe())[:16]

    def _recipe(self) -> str:
        return msgspec.json.encode(self.description.recipe).decode()

    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, without truncation or padding of its own."""
        tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def load(folder: str | Path, kind: Kind, home: str | Path = "") -> Bundle:
    """Read and verify a bundle; an empty `folder` means the registry's current one, else the one that ships.

    `home` is the registry's folder, empty for the user's own. Raises BundleError when a file is missing or differs
    from its checksum, or the bundle is of another kind: a broken current one is never passed over in silence.
    """
    path, origin = locate(folder, kind, home)
    try:
        return msgspec.structs.replace(verify(path, kind), origin=origin)
    except BundleError as error:
        if origin != "registry":
            raise
        raise BundleError(
            f"{error} It is the registry's current {kind}: `shelfrank models rollback --kind {kind}` goes back."
        ) from error


def load_english(settings: Models, beside: Origin) -> Bundle | None:
    """The reranker for English queries that goes with the one for all, None where that one reads them too.

    The settings name it (`none` for none), or the registry, or it ships. One that ships reads nothing for a reranker of
    the shop's own, and one of the registry nothing for one that the settings name. Raises BundleError.
    """
    if settings.reranker_en == NONE:
        return None
    _, origin = locate(settings.reranker_en, ENGLISH, settings.home)
    if _ORIGINS.index(origin) < _ORIGINS.index(beside) or (origin == "shipped" and not (SHIPPED / ENGLISH).exists()):
        return None
    return load(settings.reranker_en, ENGLISH, settings.home)


def locate(folder: str | Path, kind: Kind, home: str | Path = "") -> tuple[Path, Origin]:
    """Where `load` looks, and what chose it. Raises BundleError when the registry's choice cannot be read."""
    if folder:
        return Path(folder), "setting"
    chosen = current.read(home, kind)
    if chosen is None or chosen.id == current.SHIPPED_ID:
        return SHIPPED / kind, "shipped"
    return current.home_of(home) / kind / chosen.id, "registry"


def verify(path: Path, kind: Kind) -> Bundle:
    """Read a bundle and compare every file with its checksum. Raises BundleError."""
    description = read_description(path)
    if description.kind != kind and (description.kind, kind) != ("reranker-en", "reranker"):
        raise BundleError(f"{path} is a bundle of kind {description.kind}; a {kind} is needed here.")
    for name in (MODEL, TOKENIZER):
        if name not in description.files:
            raise BundleError(f"{path / DESCRIPTION} lists no {name}; make the bundle again with `shelfrank train`.")
    unknown = sorted({*description.weights, *description.vector_weights} - set(COLUMNS))
    if unknown:
        raise BundleError(
            f"{path / DESCRIPTION} weighs {', '.join(unknown)}, which this version does not know. "
            f"It knows {', '.join(COLUMNS)}."
        )
    for name, expected in description.files.items():
        if Path(name).name != name:
            raise BundleError(f"{path / DESCRIPTION} names the file {name!r} outside of its folder.")
        found = _sha256(path / name)
        if found != expected:
            raise BundleError(
                f"{path / name} is corrupt: its sha256 is {found[:12]}…, the bundle says {expected[:12]}…. "
                "Copy the bundle again from where it was made."
            )
    return Bundle(path, description)


def write_description(folder: Path, description: Description) -> Bundle:
    """Write `bundle.json` with fresh checksums of the files beside it."""
    files = {
        path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != DESCRIPTION
    }
    description = msgspec.structs.replace(description, files=files)
    text = msgspec.json.format(msgspec.json.encode(description), indent=2)
    (folder / DESCRIPTION).write_bytes(text + b"\n")
    return Bundle(folder, description)


def layout_of(tokenizer: Tokenizer, pad: int) -> Layout:
    """Read the special tokens around a pair from the tokenizer's own post-processor."""
    pair = tokenizer.encode("a", "b")
    special, parts = pair.special_tokens_mask, pair.sequence_ids
    first, last = parts.index(0), len(parts) - 1 - parts[::-1].index(1)
    middle = [i for i in range(first, last) if special[i]]
    return Layout(
        begin=tuple(pair.ids[:first]),
        between=tuple(pair.ids[i] for i in middle),
        end=tuple(pair.ids[last + 1 :]),
        pad=pad,
        typed=1 in pair.type_ids,
    )


def fingerprint(query: str) -> str:
    """A short hash of a judged query, so that evaluation can tell which queries a model has seen."""
    return _digest(" ".join(query.casefold().split()))[:16]


def read_description(path: Path) -> Description:
    """Read `bundle.json` alone; the files beside it are not looked at. Raises BundleError."""
    file = path / DESCRIPTION
    try:
        description = msgspec.json.decode(file.read_bytes(), type=Description)
    except FileNotFoundError as error:
        raise BundleError(
            f"There is no bundle at {path} ({DESCRIPTION} is missing). "
            "Point models.encoder or models.reranker at a folder made by `shelfrank train`."
        ) from error
    except (msgspec.DecodeError, OSError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if description.format != FORMAT:
        raise BundleError(
            f"{file} has format {description.format}; this version reads {FORMAT}. Make the bundle again."
        )
    return description


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(
            f"The bundle's file {path} cannot be read: {error.strerror}. Copy the bundle again."
        ) from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
