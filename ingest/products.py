"""The products of a catalogue file, cleaned and flagged, in the file's order; what is refused goes to the dead letters.

Memory does not grow with the catalogue but for its ids (about 0.15 kB a product) and what recognises near-duplicates
(about 0.9 kB a product).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice

from ingest.clean import Cleaned, clean, price_of
from ingest.documents import Entry, cleaned_entry
from ingest.duplicates import NearDuplicates
from ingest.prices import PriceStatistics
from ingest.report import DeadLetters, Report
from ingest.sources import Catalogue, Rejection, Row


class StoppedError(Exception):
    """The user asked to stop; what was begun is finished."""


def pausing(stop: threading.Event) -> Callable[[float], None]:
    """What waits for so many seconds, 0 too, and raises StoppedError as soon as `stop` is set."""

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise StoppedError

    return pause


class Products:
    """One pass over a catalogue. `report` counts what was read, accepted, refused and flagged."""

    def __init__(
        self,
        catalogue: Catalogue,
        report: Report,
        *,
        limit: int | None = None,
        stop: threading.Event | None = None,
        on_progress: Callable[[str, int, int | None], None] = lambda phase, done, total: None,
    ) -> None:
        self._catalogue, self._report, self._limit = catalogue, report, limit
        self._pause = pausing(stop or threading.Event())
        self._on_progress = on_progress
        self.total: int | None = limit  # rows of the file, once the first pass has counted them

    def entries(self, letters: DeadLetters) -> Iterator[Entry]:
        """Every product, once. Raises InputError when the file cannot be read on, StoppedError."""
        prices = self._prices()
        report, catalogue = self._report, self._catalogue
        rows_by_id: dict[str, int] = {}
        near_duplicates = NearDuplicates()
        for row in islice(catalogue.rows(), self._limit):
            report.read += 1
            found = clean(row, catalogue.mapping) if isinstance(row, Row) else row
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
            yield cleaned_entry(found)

    def _prices(self) -> PriceStatistics:
        """The first pass: what things cost, and how many rows there are."""
        prices = PriceStatistics()
        if not self._catalogue.mapping.columns.price:
            return prices
        rows = 0
        # The whole file, whatever the limit: the same product gets the same flags.
        for rows, row in enumerate(self._catalogue.rows(), start=1):
            if isinstance(row, Row) and (price := price_of(row, self._catalogue.mapping)):
                prices.add(*price)
            if rows % 1000 == 0:
                self._on_progress("Prices", rows, None)
                self._pause(0)
        self.total = rows if self._limit is None else min(rows, self._limit)
        return prices
