"""Which product answers which query, by rules over facts: never by the words of a listing.

A query states, in `queries/*.toml`, conditions for exact (3), substitute (2) and complement (1) products; all else
is irrelevant (0). The first that holds decides. A condition is a line of terms that must all hold, such as
`type=bottle straw=false ml>=700`; several conditions are alternatives. `a|b` means either value, and a fact that
is a list equals each of its members. Terms are read from left to right, and a term about a fact that the product
does not state is an error, so no product is ever judged by silence.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from indexer.errors import InputError
from indexer.han import HAN, has_han
from ingest.sample_shop.catalogue import FOLDER, Fact, Product

EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT = 3, 2, 1, 0
SPLITS = ("train", "dev", "test")

Kind = Literal[
    "accessory",
    "brand",
    "constraint",
    "cross-language",
    "gift",
    "misspelling",
    "mixed-language",
    "negation",
    "plain",
    "size",
    "synonym",
]


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One judged query. A product listed only in another language counts one grade lower, unless the
    query is about crossing languages.
    """

    id: str
    text: str
    language: Literal["en", "zh"]
    kind: Kind
    split: Literal["train", "dev", "test"]
    exact: tuple[str, ...]
    substitute: tuple[str, ...] = ()
    complement: tuple[str, ...] = ()


class _QueryFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: tuple[Query, ...]


def queries() -> list[Query]:
    """All judged queries, in the order of the source files."""
    found: list[Query] = []
    for path in sorted((FOLDER / "queries").glob("*.toml")):
        try:
            found += msgspec.toml.decode(path.read_bytes(), type=_QueryFile).query
        except msgspec.DecodeError as error:
            raise InputError(f"{path} cannot be used: {error}.") from error
    return found


def grade(query: Query, product: Product) -> int:
    """How well a product answers a query, 0 to 3."""
    found = IRRELEVANT
    for value, conditions in (
        (EXACT, query.exact),
        (SUBSTITUTE, query.substitute),
        (COMPLEMENT, query.complement),
    ):
        if any(_holds(condition, query, product) for condition in conditions):
            found = value
            break
    foreign = product.lang not in (query.language, "both")
    return max(found - 1, IRRELEVANT) if foreign and query.kind != "cross-language" else found


def near_misses(query: Query, products: list[Product], limit: int = 15) -> list[Product]:
    """Irrelevant products that share most with the query's words: worth stating, since they are tempting."""
    wanted = _pieces(query.text)
    shared = [(len(wanted & _pieces(product.title)), product) for product in products]
    tempting = [(count, product) for count, product in shared if count and grade(query, product) == IRRELEVANT]
    tempting.sort(key=lambda item: (-item[0], item[1].id))
    return [product for _, product in tempting[:limit]]


def _holds(condition: str, query: Query, product: Product) -> bool:
    return all(_term(term, query, product) for term in condition.split())


_TERM = re.compile(r"([a-z_]+)(!=|>=|<=|=|>|<)(\S+)")


def _term(term: str, query: Query, product: Product) -> bool:
    parsed = _TERM.fullmatch(term)
    if parsed is None:
        raise InputError(f"Query {query.id}: {term!r} is no term. Write fact, comparison and value, as in ml>=700.")
    name, comparison, wanted = parsed.groups()
    if name not in product.facts:
        raise InputError(
            f"Query {query.id} asks for {name!r}, which {product.id} ({product.title}) does not state. "
            "Add the fact to its family, or a term before this one that leaves the product out."
        )
    fact = product.facts[name]
    if comparison in ("=", "!="):
        equal = bool(_members(fact) & set(wanted.split("|")))
        return equal if comparison == "=" else not equal
    if isinstance(fact, bool) or not isinstance(fact, (int, float)):
        raise InputError(f"Query {query.id}: {name} of {product.id} is {fact!r}, not a number; use = or !=.")
    limit = float(wanted)
    return {"<": fact < limit, "<=": fact <= limit, ">": fact > limit, ">=": fact >= limit}[comparison]


def _members(fact: Fact) -> set[str]:
    if isinstance(fact, bool):
        return {"true" if fact else "false"}
    if isinstance(fact, list):
        return set(fact)
    return {f"{fact:g}" if isinstance(fact, float) else str(fact)}


_WORDS = re.compile(rf"[a-z0-9]+|[{HAN}]+")


def _pieces(text: str) -> set[str]:
    """Latin words, and pairs of neighbouring Chinese characters."""
    found: set[str] = set()
    for run in _WORDS.findall(text.lower()):
        if has_han(run[0]):
            found |= {run[i : i + 2] for i in range(max(len(run) - 1, 1))}
        else:
            found.add(run)
    return found
