"""Products to documents, the same in every job: vector, token ids, and a hash of all that made them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer import mappings
from indexer.bulk import Document
from indexer.errors import ClusterError, UsageError
from indexer.settings import Index
from ingest.clean import Cleaned, category_path
from reranker.text import pack_ids

# What of a document is the product itself; the rest is derived from it, or says how it came there.
PRODUCT_FIELDS = (
    "id",
    "title",
    "description",
    "bullets",
    "brand",
    "color",
    "category",
    "price",
    "currency",
    "stock",
    "rating",
    "rating_count",
    "image",
    "language",
    "attributes",
)
# What updates may set by themselves: it changes often, and no model that ships reads it.
OFFER_FIELDS = ("price", "currency", "stock", "rating", "rating_count")
MADE_FIELDS = frozenset({"vector", "vector_bundle", "rerank_tokens", "rerank_bundle", "content_hash"})
_SECOND_FIELDS = frozenset({mappings.SECOND_VECTOR, mappings.made_by(mappings.SECOND_VECTOR)})


class Encoder(Protocol):
    """What makes a product's vector."""

    @property
    def bundle_id(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def fields(self) -> frozenset[str]:
        """The product fields that it reads."""

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Vectors of products: float32 [products, dimension], rows of length 1."""


class Tokens(Protocol):
    """What makes the token ids that a reranker reads instead of the text."""

    @property
    def tokens_id(self) -> str: ...
    @property
    def fields(self) -> frozenset[str]:
        """The product fields that it reads."""

    def product_tokens(self, product: Mapping[str, Any]) -> list[int]:
        """Token ids of a product, without special tokens."""


@dataclass
class Entry:
    """A product on its way into an index. `version` orders what is known of it; None where nobody said. `offer` has the
    versions of fields that were updated by themselves.

    `made` holds what a stored document already has of models: vector, token ids and the names of their bundles. `seen`
    is what the index held when it was looked at (sequence number and primary term, empty for nothing): the write is
    refused when that has changed since. None: whatever is there is replaced.
    """

    product: dict[str, Any]
    flags: list[str] = field(default_factory=list)
    near_duplicate_of: str = ""
    version: int | None = None
    row: int = 0
    offer: dict[str, int] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    seen: Mapping[str, int] | None = None

    @property
    def id(self) -> str:
        """The product's id, which is the document's too."""
        return str(self.product["id"])


def cleaned_entry(found: Cleaned) -> Entry:
    """The entry of a cleaned row."""
    return Entry(found.product, found.flags, found.near_duplicate_of, found.version, found.row)


def stored_entry(source: Mapping[str, Any]) -> Entry:
    """The entry of a stored document. Where its hash shows that somebody changed the product past shelfrank, vector and
    token ids are not those of the product, and are left to be made anew.
    """
    entry = Entry(
        {name: source[name] for name in PRODUCT_FIELDS if name in source},
        list(source.get("flags", ())),
        source.get("near_duplicate_of", ""),
        source.get("version"),
        offer=dict(source.get("offer", {})),
    )
    made = {name: source[name] for name in MADE_FIELDS | _SECOND_FIELDS if name in source}
    if made.keys() >= MADE_FIELDS and made["content_hash"] == digest_by(entry, made):
        entry.made = made
    return entry


def digest_by(entry: Entry, made: Mapping[str, Any]) -> str:
    """The hash of an entry's document, if its vector and token ids are of the bundles that `made` names."""
    bundles = [made["vector_bundle"], made["rerank_bundle"], mappings.FORMAT]
    if second := made.get(mappings.made_by(mappings.SECOND_VECTOR)):
        bundles.append(second)
    content = [entry.product, entry.flags, entry.near_duplicate_of, bundles]
    return hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=16).hexdigest()


# Batches to their documents, each once, in any order.
Stream = Callable[[Iterator[list[Entry]]], Iterator[tuple[list[Entry], list[Document]]]]


class Maker:
    """Makes documents with an encoder, perhaps a second one beside it, and one reranker's token ids.

    Raises UsageError where both encoders are the same.
    """

    def __init__(self, encoder: Encoder, tokens: Tokens, second: Encoder | None = None) -> None:
        if second and second.bundle_id == encoder.bundle_id:
            raise UsageError(
                f"Both encoders are {encoder.bundle_id}. Name another second one, or leave it out "
                "(--second-encoder, models.second_encoder)."
            )
        self.encoder, self.tokens, self.second = encoder, tokens, second
        # The field of vectors -> who makes them.
        self.encoders = dict(zip(mappings.VECTORS, [encoder, second] if second else [encoder], strict=False))
        self._names = {mappings.made_by(field): each.bundle_id for field, each in self.encoders.items()}
        self._names["rerank_bundle"] = tokens.tokens_id
        self.reads = tokens.fields.union(*(each.fields for each in self.encoders.values()))

    def made(self, settings: Index) -> mappings.Made:
        """What an index made now for its documents would say of itself."""
        second = (self.second.bundle_id, self.second.dimension) if self.second else ()
        return mappings.made(settings, self.encoder.bundle_id, self.encoder.dimension, *second)

    def fitting(self, index: str, there: mappings.Made, catalogue: str) -> Maker:
        """One of these encoders for documents of an index as it was made. Raises ClusterError where one is missing."""
        loaded = {each.bundle_id: each for each in self.encoders.values()}
        wanted = list(there.vector_fields)
        if not loaded.keys() >= set(wanted):
            settings = "models.encoder and models.second_encoder" if len(wanted) > 1 else "models.encoder"
            raise ClusterError(
                f"{index} holds vectors of the encoder {' and '.join(wanted)}, and {' and '.join(loaded)} is loaded. "
                f"Set {settings} to the first and start again: what is done is skipped. Or make new vectors with "
                f"`shelfrank reindex start {catalogue}`."
            )
        return Maker(loaded[wanted[0]], self.tokens, *(loaded[name] for name in wanted[1:]))

    def digest(self, entry: Entry) -> str:
        """Changes whenever the document would: with the product, the models, or the form of documents."""
        return digest_by(entry, self._names)

    def made_already(self, entry: Entry, held: Mapping[str, Any]) -> bool:
        """Whether a stored document, of which `held` has hash and version, is the one that the entry would become."""
        return held.get("content_hash") == self.digest(entry) and held.get("version") == entry.version

    def sources(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Whole documents. What is stored of the same bundles is kept where the product is as it was."""
        vectors = {field: _vectors(encoder, entries) for field, encoder in self.encoders.items()}
        return [
            self._source(entry, {field: found[at] for field, found in vectors.items()})
            for at, entry in enumerate(entries)
        ]

    def embeds(self, entry: Entry) -> bool:
        """Whether a vector of the entry has to be made."""
        return any(_kept(entry, encoder) is None for encoder in self.encoders.values())

    def documents(self, entries: Sequence[Entry]) -> list[Document]:
        """The same, encoded."""
        return [
            Document(entry.id, msgspec.json.encode(source), "create" if entry.seen == {} else "index", entry.seen or {})
            for entry, source in zip(entries, self.sources(entries), strict=True)
        ]

    def stream(self, batches: Iterator[list[Entry]]) -> Iterator[tuple[list[Entry], list[Document]]]:
        """Every batch with its documents, one after the other, in this process."""
        for batch in batches:
            yield batch, self.documents(batch)

    def _source(self, entry: Entry, vectors: Mapping[str, list[float]]) -> dict[str, Any]:
        product, made = entry.product, entry.made
        source = {
            **product,
            "category_path": category_path(product.get("category", [])),
            "flags": entry.flags,
            **vectors,
            **self._names,
            "rerank_tokens": made["rerank_tokens"]
            if made.get("rerank_bundle") == self.tokens.tokens_id
            else pack_ids(self.tokens.product_tokens(product)),
            "content_hash": self.digest(entry),
            "ingested_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        if entry.near_duplicate_of:
            source["near_duplicate_of"] = entry.near_duplicate_of
        if entry.version is not None:
            source["version"] = entry.version
        if entry.offer:
            source["offer"] = entry.offer
        return source


def _kept(entry: Entry, encoder: Encoder) -> list[float] | None:
    """The stored vector of an encoder, in whichever field it was."""
    for name in mappings.VECTORS:
        if entry.made.get(mappings.made_by(name)) == encoder.bundle_id:
            kept: list[float] = entry.made[name]
            return kept
    return None


def _vectors(encoder: Encoder, entries: Sequence[Entry]) -> list[list[float]]:
    """An encoder's vectors of entries: kept where they are stored, else made."""
    kept = [_kept(entry, encoder) for entry in entries]
    fresh = [entry.product for entry, vector in zip(entries, kept, strict=True) if vector is None]
    # float32 has no more digits than this; each one less is a twentieth of the request.
    made = iter(np.round(encoder.embed_products(fresh).astype(np.float64), 8).tolist() if fresh else ())
    return [next(made) if vector is None else vector for vector in kept]
