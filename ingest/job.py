"""From catalogue file to index: clean, skip what is stored already, embed, write; a rerun goes on where one ended.

Memory does not grow with the catalogue but for its ids (about 0.15 kB a product) and what recognises
near-duplicates (about 0.9 kB a product).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from opensearchpy import OpenSearch

from indexer import aliases, mappings
from indexer.bulk import BulkWriter, Document, Outcome, Patience, stored_values
from indexer.client import capabilities
from indexer.errors import ClusterError, InputError, UsageError
from indexer.settings import Settings
from ingest.clean import Cleaned, category_path, clean, price_of
from ingest.duplicates import NearDuplicates
from ingest.prices import PriceStatistics
from ingest.report import DeadLetters, Report
from ingest.sources import Catalogue, Rejection, Row
from reranker.text import pack_ids

T = TypeVar("T")


class Encoder(Protocol):
    """What makes a product's vector."""

    @property
    def bundle_id(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Vectors of products: float32 [products, dimension], rows of length 1."""


class Tokens(Protocol):
    """What makes the token ids that a reranker reads instead of the text."""

    @property
    def tokens_id(self) -> str: ...
    def product_tokens(self, product: Mapping[str, Any]) -> list[int]:
        """Token ids of a product, without special tokens."""


@dataclass(frozen=True)
class Options:
    """What one run is asked to do."""

    name: str
    dead_letter: Path
    rebuild: bool = False
    limit: int | None = None


class _StoppedError(Exception):
    """The user asked to stop while the cluster was being waited for."""


class Job:
    """One run over one catalogue. `report` is filled as it goes and is right at any moment."""

    def __init__(
        self,
        client: OpenSearch,
        catalogue: Catalogue,
        encoder: Encoder,
        tokens: Tokens,
        settings: Settings,
        options: Options,
        *,
        stop: threading.Event | None = None,
        on_progress: Callable[[str, int, int | None], None] = lambda phase, done, total: None,
    ) -> None:
        self.report = Report()
        self._client, self._catalogue = client, catalogue
        self._encoder, self._tokens = encoder, tokens
        self._settings, self._options = settings, options
        self._stop = stop or threading.Event()
        self._on_progress = on_progress
        self._patience = Patience(settings.ingest.patience_s, sleep=self._pause)
        self._made = mappings.made(settings.index, encoder.bundle_id, encoder.dimension)

    def run(self) -> Report:
        """Do it. Raises UsageError, InputError or ClusterError; the report then tells how far it came.

        When `stop` is set, the batch in flight is finished and the report says `stopped`.
        """
        started = time.monotonic()
        try:
            return self._run()
        except ClusterError as error:
            raise ClusterError(f"{error} {self._how_far()}") from error
        finally:
            self.report.seconds = time.monotonic() - started

    def _run(self) -> Report:
        report, options = self.report, self._options
        if options.rebuild and options.limit is not None:
            raise UsageError("--rebuild with --limit would replace the whole catalogue by a part. Leave one out.")
        mappings.check_vector(self._settings.index, capabilities(self._client))
        live = aliases.live(self._client, options.name)
        report.index = self._target(live)
        if self._catalogue.unused:
            report.warnings.append(f"Columns that the mapping does not use: {', '.join(self._catalogue.unused)}.")
        with DeadLetters(options.dead_letter) as letters:
            try:
                self._ingest(report.index, letters)
            except _StoppedError:
                report.stopped = True
            finally:
                report.dead_letter = letters.written
        if report.read and not report.clean and not report.stopped:
            raise InputError(
                f"All {report.read} rows were rejected ({', '.join(report.reasons)}): look at {report.dead_letter}, "
                "and whether the mapping fits the file."
            )
        self._patience.call(lambda: self._client.indices.refresh(index=report.index))
        if options.rebuild:
            self._replace(live)
        return report

    def _target(self, live: aliases.Live | None) -> str:
        """The index to write to, made when there is none."""
        name = self._options.name
        if live is None or self._options.rebuild:
            body = mappings.index_body(self._settings.index, self._made)
            return aliases.create(self._client, name, body, with_alias=live is None)
        there, wanted = live.made, self._made
        if (there.encoder, there.dimension) != (wanted.encoder, wanted.dimension):
            raise ClusterError(
                f"{name} ({live.index}) holds vectors of the encoder {there.encoder} ({there.dimension} dimensions), "
                f"and this one is {wanted.encoder} ({wanted.dimension}). Ingest with --rebuild, or under another name."
            )
        if there.format != wanted.format:
            raise ClusterError(
                f"{name} ({live.index}) has format {there.format} of the documents, and this version writes "
                f"{wanted.format}. Ingest with --rebuild, or under another name."
            )
        if there.vector != wanted.vector:
            self.report.warnings.append(
                f"{live.index} keeps the vector settings that it was made with ({there.vector}); "
                "--rebuild applies the present ones."
            )
        return live.index

    def _ingest(self, index: str, letters: DeadLetters) -> None:
        prices, total = self._prices()
        ingest = self._settings.ingest
        writer = BulkWriter(self._client, index, max_bytes=ingest.bulk_bytes, patience=self._patience)
        products = self._products(prices, letters)
        while batch := list(islice(products, ingest.batch)):
            self._write(index, batch, writer, letters)
            self._on_progress("Ingest", self.report.read, total)
            if self._stop.is_set():
                raise _StoppedError

    def _prices(self) -> tuple[PriceStatistics, int | None]:
        """The first pass: what things cost, and how many rows there are."""
        prices = PriceStatistics()
        if not self._catalogue.mapping.columns.price:
            return prices, self._options.limit
        rows = 0
        # The whole file, whatever the limit: the same product gets the same flags.
        for rows, row in enumerate(self._catalogue.rows(), start=1):
            if isinstance(row, Row) and (price := price_of(row, self._catalogue.mapping)):
                prices.add(*price)
            if rows % 1000 == 0:
                self._on_progress("Prices", rows, None)
                if self._stop.is_set():
                    raise _StoppedError
        return prices, rows if self._options.limit is None else min(rows, self._options.limit)

    def _products(self, prices: PriceStatistics, letters: DeadLetters) -> Iterator[Cleaned]:
        report = self.report
        rows_by_id: dict[str, int] = {}
        near_duplicates = NearDuplicates()
        for row in islice(self._catalogue.rows(), self._options.limit):
            report.read += 1
            found = clean(row, self._catalogue.mapping) if isinstance(row, Row) else row
            if isinstance(found, Cleaned) and (first := rows_by_id.get(found.product["id"])):
                # The first wins: what follows can be told without holding the file in memory.
                found = Rejection(found.row, "id", found.product["id"], f"duplicate id: row {first} has it already")
            if isinstance(found, Rejection):
                report.rejected += 1
                kind = found.reason.partition(":")[0] if found.field else "malformed row"
                report.count(report.reasons, kind, found.row, "", f"{found.value} ({found.reason})")
                letters.add(found)
                continue
            product = found.product
            rows_by_id[product["id"]] = found.row
            found.near_duplicate_of = near_duplicates.first_like(product)
            if found.near_duplicate_of:
                found.flag("near_duplicate", f"{product['title']} (like {found.near_duplicate_of})")
            category, currency = product.get("category", []), product.get("currency", "")
            if "price" in product and prices.is_outlier(category, currency, product["price"]):
                low, high = prices.usual(category, currency) or (0.0, 0.0)
                found.flag("price_outlier", f"{product['price']:g} (usual: {low:.2f} to {high:.2f})")
            report.clean += 1
            for name in found.flags:
                report.count(report.flags, name, found.row, product["id"], found.details[name])
            for name in sorted(found.steps):
                report.count(report.steps, name, found.row, product["id"], product["title"])
            yield found

    def _write(self, index: str, batch: Sequence[Cleaned], writer: BulkWriter, letters: DeadLetters) -> None:
        hashes = [self._hash(found) for found in batch]
        ids = [found.product["id"] for found in batch]
        stored = stored_values(self._client, index, ids, "content_hash", self._patience)
        changed = [
            (found, digest)
            for found, digest in zip(batch, hashes, strict=True)
            if stored.get(found.product["id"]) != digest
        ]
        self.report.unchanged += len(batch) - len(changed)
        if not changed:
            return
        vectors = self._encoder.embed_products([found.product for found, _ in changed])
        documents = [
            self._document(found, digest, vector) for (found, digest), vector in zip(changed, vectors, strict=True)
        ]
        outcome = Outcome()
        try:
            writer.write(documents, outcome)
        finally:
            self.report.written += len(outcome.written)
            rows = {found.product["id"]: found.row for found, _ in changed}
            for refusal in outcome.refused:
                self.report.failed += 1
                reason = f"the cluster refused it ({refusal.status}): {refusal.reason}"
                self.report.count(self.report.reasons, "refused by the cluster", rows[refusal.id], refusal.id, reason)
                letters.add(Rejection(rows[refusal.id], "", refusal.id, reason))

    def _hash(self, found: Cleaned) -> str:
        """Changes whenever the document would: with the product, the models, or the form of documents."""
        made_by = [self._encoder.bundle_id, self._tokens.tokens_id, mappings.FORMAT]
        content = [found.product, found.flags, found.near_duplicate_of, made_by]
        return hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=16).hexdigest()

    def _document(self, found: Cleaned, digest: str, vector: NDArray[np.float32]) -> Document:
        product = found.product
        source = {
            **product,
            "category_path": category_path(product.get("category", [])),
            "flags": found.flags,
            # float32 has no more digits than this; each one less is a twentieth of the request.
            "vector": np.round(vector.astype(np.float64), 8).tolist(),
            "vector_bundle": self._encoder.bundle_id,
            "rerank_tokens": pack_ids(self._tokens.product_tokens(product)),
            "rerank_bundle": self._tokens.tokens_id,
            "content_hash": digest,
            "ingested_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        if found.near_duplicate_of:
            source["near_duplicate_of"] = found.near_duplicate_of
        return Document(product["id"], msgspec.json.encode(source))

    def _replace(self, live: aliases.Live | None) -> None:
        """Put the rebuilt index in the old one's place, if it is whole."""
        report, name = self.report, self._options.name
        if live is None:
            return
        if report.stopped or report.failed:
            why = "the run was stopped" if report.stopped else f"{report.failed} products could not be written"
            report.warnings.append(
                f"{name} still stands for {live.index}, because {why}. Run it again with --rebuild; "
                f"delete the unfinished index with DELETE /{report.index}."
            )
            return
        aliases.swap(self._client, name, report.index)
        idle = ",".join(aliases.leftovers(self._client, name))
        report.warnings.append(f"{name} now stands for {report.index}. What no name stands for: DELETE /{idle}.")

    def _how_far(self) -> str:
        report = self.report
        if not report.index:
            return ""
        done = f"{report.written} products were written to {report.index} and {report.unchanged} were there already"
        again = "start again (this index is not live)" if self._options.rebuild else "go on: what is written is skipped"
        return f"So far {done}. When the cluster is back, the same command will {again}."

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _StoppedError
