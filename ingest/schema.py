"""The mapping file: which column of a catalogue is which product field, and how its values are written.

```toml
[columns]                        # product field = "column of the file"
id = "sku"                       # id and title are required, all others are optional
title = "product_name"
bullets = ["point_1", "point_2"] # title, description, bullets: several columns are joined
category = "category"            # one column holding a path, or one column a level, root first
price = "price"
stock = "in_stock"               # pieces
version = "revision"             # a whole number that grows with each change: settles which of two rows is newer
attributes = ["material", "capacity"]   # kept as they are; "*" means every column not named above

[values]                         # all optional
category_separator = ">"
currency = "USD"                 # when neither a column nor the price itself says
decimal = "auto"                 # or "." or ",": what "1,299" means
rating_scale = 5
language = ""                    # fixed language of the file; empty: told by the script of the text

[file]                           # all optional
format = "csv"                   # csv, tsv, jsonl or parquet, when the file's name does not say
encoding = "utf-8"
delimiter = ","
```
"""

from __future__ import annotations

import codecs
import difflib
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from indexer.errors import ConfigError

Format = Literal["csv", "tsv", "jsonl", "parquet"]


class Columns(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Column names by product field; an empty name means that the shop has no such column."""

    id: str
    title: str | tuple[str, ...]
    description: str | tuple[str, ...] = ""
    bullets: str | tuple[str, ...] = ""
    brand: str = ""
    color: str = ""
    category: str | tuple[str, ...] = ""
    price: str = ""
    currency: str = ""
    stock: str = ""
    rating: str = ""
    rating_count: str = ""
    image: str = ""
    language: str = ""
    version: str = ""
    attributes: tuple[str, ...] | Literal["*"] = ()

    def of(self, field: str) -> tuple[str, ...]:
        """The columns of one product field: none, one or several."""
        value: str | tuple[str, ...] = getattr(self, field)
        if isinstance(value, str):
            return (value,) if value else ()
        return value

    def named(self) -> list[str]:
        """Every column that the mapping names, attributes included."""
        fields = [field for field in self.__struct_fields__ if field != "attributes"]
        attributes = () if self.attributes == "*" else self.attributes
        return list(dict.fromkeys([name for field in fields for name in self.of(field)] + list(attributes)))


class Values(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How values are written in the file."""

    category_separator: str = ">"
    currency: str = ""
    decimal: Literal["auto", ".", ","] = "auto"
    rating_scale: float = 5.0
    language: str = ""


class File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How the file is to be read; an empty `format` or `delimiter` is told by the file's name."""

    format: Format | Literal[""] = ""
    encoding: str = "utf-8"
    delimiter: str = ""


class CatalogMapping(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A whole mapping file."""

    columns: Columns
    values: Values = Values()
    file: File = File()


_TABLES: dict[str, type[msgspec.Struct]] = {"columns": Columns, "values": Values, "file": File}


def load_mapping(name: str) -> CatalogMapping:
    """The mapping at a path, or the ready one of that name (`esci`).

    Raises ConfigError naming file, key, value and cure.
    """
    path = Path(name)
    if path.is_file():
        return parse_mapping(path.read_bytes(), str(path))
    ready = sorted(item.name.removesuffix(".toml") for item in _ready_folder().iterdir() if item.name.endswith(".toml"))
    if name in ready:
        return parse_mapping((_ready_folder() / f"{name}.toml").read_bytes(), f"the ready mapping {name}")
    raise ConfigError(
        f"The mapping {name} is neither a file nor a ready mapping ({', '.join(ready)}). "
        "Give the path of a TOML file with a [columns] table."
    )


def parse_mapping(raw: bytes, origin: str) -> CatalogMapping:
    """A mapping from the bytes of its TOML; `origin` names the file in errors.

    Raises ConfigError naming file, key, value and cure.
    """
    try:
        # utf-8-sig: editors on Windows put a byte order mark in front, which TOML does not know.
        values = tomllib.loads(raw.decode("utf-8-sig"))
        mapping = msgspec.convert(values, CatalogMapping)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(_not_allowed(origin, values, str(error))) from error
    _check(mapping, origin)
    return mapping


def check_columns(mapping: CatalogMapping, present: Iterable[str], origin: str) -> list[str]:
    """Compare the mapping with the columns of the file; returns those of the file that it does not use.

    Raises ConfigError when the mapping names a column that is not there, with the nearest one that is.
    """
    there = list(present)
    missing = [name for name in mapping.columns.named() if name not in there]
    if missing:
        told = "; ".join(f"{name!r}{nearest(name, there)}" for name in missing)
        raise ConfigError(
            f"The mapping names columns that {origin} does not have: {told}. "
            f"Its columns are {', '.join(map(repr, there))}. Correct [columns] in the mapping."
        )
    return unused_columns(mapping, there)


def unused_columns(mapping: CatalogMapping, present: Iterable[str]) -> list[str]:
    """The columns of the file that end up in no field of a product."""
    if mapping.columns.attributes == "*":
        return []
    used = set(mapping.columns.named())
    return [name for name in present if name not in used]


def _ready_folder() -> Traversable:
    return resources.files("ingest") / "mappings"


def nearest(name: str, there: Iterable[str]) -> str:
    """` (did you mean ...?)` for the closest name, or nothing."""
    by_folded = {item.casefold(): item for item in there}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f" (did you mean {by_folded[close[0]]!r}?)" if close else ""


def _not_allowed(origin: str, values: dict[str, Any], message: str) -> str:
    """Name file, key, value and cure; msgspec says what is wrong and where (`... - at `$.values.decimal`)."""
    problem, _, place = message.partition(" - at `$.")
    key = place.rstrip("`")
    table, _, field = key.partition(".")
    field = field.partition("[")[0]
    unknown = re.search(r"unknown field `(.+?)`", problem)
    allowed = _TABLES[table].__struct_fields__ if table in _TABLES else tuple(_TABLES)
    if unknown:
        name = unknown.group(1)
        where = f"[{table}] has a key" if table else "it has a table or key"
        return (
            f"{origin}: {where} {name!r} that a mapping does not know{nearest(name, allowed)}. "
            f"Allowed are {', '.join(allowed)}."
        )
    if not field:
        where = f" in [{key}]" if key else ""
        return f"{origin}: {problem}{where}. A mapping needs [columns] with id and title."
    return f"{origin}: {key} is {values[table][field]!r}: {problem}.{_cure(table, field)}"


def _cure(table: str, field: str) -> str:
    if table == "columns":
        return " Give the name of a column as text, or a list of names where several are joined."
    choices = [repr(value) for value in _choices(get_type_hints(_TABLES[table])[field]) if value]
    return f" Use one of {', '.join(choices)}." if choices else ""


def _choices(annotation: Any) -> list[str]:
    """The values that a Literal, or a union of Literals, allows."""
    found: list[str] = []
    for item in get_args(annotation):
        found += [item] if isinstance(item, str) else _choices(item)
    return found


def _check(mapping: CatalogMapping, origin: str) -> None:
    for field in ("id", "title"):
        if not mapping.columns.of(field):
            raise ConfigError(f"{origin}: columns.{field} is empty. Name the column that holds the {field}.")
    if not mapping.values.rating_scale > 0:
        raise ConfigError(
            f"{origin}: values.rating_scale is {mapping.values.rating_scale:g}. "
            "Give the best rating that is possible, such as 5."
        )
    if not mapping.values.category_separator.strip():
        raise ConfigError(
            f"{origin}: values.category_separator is empty. Give the text between two levels, such as '>'."
        )
    if mapping.file.delimiter and len(mapping.file.delimiter) != 1:
        raise ConfigError(f"{origin}: file.delimiter is {mapping.file.delimiter!r}. Give one character, such as ';'.")
    try:
        codecs.lookup(mapping.file.encoding)
    except LookupError as error:
        raise ConfigError(
            f"{origin}: file.encoding is {mapping.file.encoding!r}, which Python does not know. "
            "Common ones are utf-8, gb18030 (Chinese), big5 and cp1252."
        ) from error
