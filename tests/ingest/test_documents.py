"""A document's hash changes with whatever the document is made of, and with nothing else."""

from __future__ import annotations

from ingest.documents import Entry, Maker
from tests.integration.standin import StandIn

CUP = {"id": "2", "title": "Steel cup", "price": 9.0}
MAKER = Maker(StandIn(), StandIn())
DIGEST = MAKER.digest(Entry(CUP, ["near_duplicate"], "1"))


def test_the_hash_changes_with_the_product_its_flags_what_it_repeats_and_the_models() -> None:
    changed = [
        MAKER.digest(Entry({**CUP, "price": 8.0}, ["near_duplicate"], "1")),
        MAKER.digest(Entry(CUP, ["near_duplicate", "price_outlier"], "1")),
        MAKER.digest(Entry(CUP, ["near_duplicate"], "7")),
        Maker(StandIn("stand-in-2"), StandIn()).digest(Entry(CUP, ["near_duplicate"], "1")),
        Maker(StandIn(), StandIn(), StandIn("stand-in-2")).digest(Entry(CUP, ["near_duplicate"], "1")),
    ]
    assert len({DIGEST, *changed}) == 6


def test_the_hash_is_the_same_for_the_same_document_wherever_it_comes_from() -> None:
    turned = {name: CUP[name] for name in reversed(CUP)}
    assert MAKER.digest(Entry(turned, ["near_duplicate"], "1", version=5, row=9)) == DIGEST
