"""The catalogue index: strict fields, one analyser for English and Chinese, the k-NN vector, what made it.

Every text field has the same analyser, so that a title which mixes scripts is one field and not two:

- numbers join their units ("500 ml", "500ml", "500毫升" are one token) before words are told apart;
- full-width forms, upper case, accents and English possessives and inflections are folded;
- Han, kana and Hangul become overlapping pairs of characters. The index also holds single characters, a
  query only where one stands alone: "杯" finds "保温杯", while "保温杯" does not match every "杯".

No stop words: "without", "no" and "not" are what some queries are about.
"""

from __future__ import annotations

from typing import Any

import msgspec

from indexer.client import Capabilities
from indexer.errors import ClusterError, ConfigError
from indexer.settings import Index

# Raise it when documents of the same product would come out different: ingest then writes them again.
FORMAT = 2
# Lucene refuses a longer keyword.
MAX_KEYWORD_BYTES = 32_766

# Unit as indexed: how shops write it. Only directly behind a number, a space or a hyphen.
_UNITS = {
    "ml": "ml|millilit(?:er|re)s?|毫升",
    "kg": "kgs?|kilograms?|公斤|千克",
    "mah": "mah|毫安时?",
    "mm": "mm|millimet(?:er|re)s?|毫米",
    "cm": "cm|centimet(?:er|re)s?|厘米|公分",
    "oz": r"(?:fl\.?\s?)?(?:oz|ounces?)|盎司",
    "lb": "lbs?|pounds?|磅",
    "inch": 'inch(?:es)?|"|″|英寸|寸',
    "ft": "ft|feet|foot|英尺",
    "gb": "gb",
    "tb": "tb",
    "l": "l|lit(?:er|re)s?|公升|升",
    "g": "g|grams?|克",
    "m": "m|met(?:er|re)s?|米",
    "w": "w|watts?|瓦",
    "v": "v|volts?|伏",
}


# The fields that hold vectors: of the encoder, and of a second one while two are compared.
VECTOR = "vector"
SECOND_VECTOR = "vector_b"
VECTORS = (VECTOR, SECOND_VECTOR)


def made_by(field: str) -> str:
    """The field that says which encoder made the vector in `field`."""
    return f"{field}_bundle"


class Made(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an index was made with; kept in the mapping's `_meta` under `shelfrank`. `second_encoder` is empty, or the
    encoder of a second vector that every document has."""

    format: int
    encoder: str
    dimension: int
    vector: dict[str, Any]
    second_encoder: str = ""
    second_dimension: int = 0

    @property
    def vector_fields(self) -> dict[str, str]:
        """Encoder -> the field that holds its vectors."""
        return vector_fields(msgspec.to_builtins(self))


def vector_fields(meta: Any) -> dict[str, str]:
    """Encoder -> the field of its vectors, by the `_meta.shelfrank` of any index, of other versions too; empty where
    that names no encoder."""
    fields = {"encoder": VECTOR, "second_encoder": SECOND_VECTOR}
    return (
        {str(meta[name]): field for name, field in fields.items() if meta.get(name)} if isinstance(meta, dict) else {}
    )


def made(settings: Index, encoder: str, dimension: int, second_encoder: str = "", second_dimension: int = 0) -> Made:
    """What an index made now would say of itself."""
    chosen = {name: getattr(settings, name) for name in ("engine", "space", "m", "ef_construction", "encoding")}
    return Made(FORMAT, encoder, dimension, chosen, second_encoder, second_dimension)


def index_body(settings: Index, made_with: Made) -> dict[str, Any]:
    """Settings and mappings of a catalogue index, for `indices.create`."""
    return {
        "settings": {
            "index": {"knn": True, "number_of_shards": settings.shards, "number_of_replicas": settings.replicas},
            "analysis": _analysis(),
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": {"shelfrank": msgspec.to_builtins(made_with)},
            # `_source` stays whole, because reindexing reads it; searches leave the vector out on their side.
            "properties": _properties(settings, made_with),
        },
    }


def check_vector(settings: Index, capabilities: Capabilities) -> None:
    """Refuse vector settings that OpenSearch, or this cluster, does not have.

    Raises ConfigError for a combination that exists nowhere, ClusterError for one that this cluster lacks.
    """
    if not capabilities.knn:
        raise ClusterError(
            "The cluster has no k-NN plugin, which the catalogue's vectors need. Install opensearch-knn on every node."
        )
    if (settings.engine, settings.encoding) == ("lucene", "half"):
        raise ConfigError(
            "index.encoding half exists in the faiss engine only. "
            "Set index.engine to faiss, or index.encoding to float, byte or binary."
        )
    if (settings.engine, settings.encoding) == ("faiss", "byte"):
        raise ConfigError(
            "index.encoding byte exists in the lucene engine only (faiss wants bytes from the client). "
            "Set index.engine to lucene, or index.encoding to float, half or binary."
        )
    if not 2 <= settings.m <= 100:
        raise ConfigError(f"index.m is {settings.m}; OpenSearch takes 2 to 100, and 16 is usual.")
    if settings.ef_construction < 1:
        raise ConfigError(f"index.ef_construction is {settings.ef_construction}; give at least 1, 128 is usual.")
    # Without the native library these do not fail a request: they end the node's process.
    if capabilities.embedded and settings.engine == "faiss":
        raise ClusterError(
            "The embedded node has no native k-NN library, so index.engine faiss would end it. "
            "Set index.engine to lucene, or point OPENSEARCH_URL at a full cluster."
        )
    if capabilities.embedded and settings.encoding == "binary":
        raise ClusterError(
            "The embedded node has no native k-NN library, so index.encoding binary would end it. "
            "Set index.encoding to float or byte, or point OPENSEARCH_URL at a full cluster."
        )
    release = _release(capabilities.version)
    if (settings.engine, settings.encoding) == ("lucene", "binary") and release < (3, 6):
        raise ClusterError(
            f"index.encoding binary in the lucene engine needs OpenSearch 3.6; the cluster is {capabilities.version}. "
            "Set index.engine to faiss or index.encoding to byte."
        )
    if (settings.engine, settings.space) == ("faiss", "cosinesimil") and release < (2, 19):
        raise ClusterError(
            f"index.space cosinesimil in the faiss engine needs OpenSearch 2.19, not {capabilities.version}. "
            "Set index.space to innerproduct: the vectors have length 1, so the order is the same."
        )


def _release(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "0"][:2]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _vector(settings: Index, dimension: int) -> dict[str, Any]:
    # Levels, not encoders: the same words in every release, and float vectors in and out for all of them.
    level = {
        "float": {},
        "half": {"compression_level": "2x"},
        "byte": {"compression_level": "4x"},
        "binary": {"mode": "on_disk", "compression_level": "32x"},
    }[settings.encoding]
    return {
        "type": "knn_vector",
        "dimension": dimension,
        "space_type": settings.space,
        **level,
        "method": {
            "name": "hnsw",
            "engine": settings.engine,
            "parameters": {"m": settings.m, "ef_construction": settings.ef_construction},
        },
    }


def _properties(settings: Index, made_with: Made) -> dict[str, Any]:
    text = {"type": "text", "analyzer": "shop", "search_analyzer": "shop_query"}
    # Longer values stay in the document but cannot be filtered by; 8,000 characters are at most 32,000 bytes.
    keyword = {"type": "keyword", "ignore_above": 8000}
    folded = {**keyword, "normalizer": "folded", "fields": {"text": text}}
    hidden = {"type": "keyword", "index": False, "doc_values": False}
    dimensions = {VECTOR: made_with.dimension, SECOND_VECTOR: made_with.second_dimension}
    vectors = {
        name: kind
        for field in made_with.vector_fields.values()
        for name, kind in ((field, _vector(settings, dimensions[field])), (made_by(field), {"type": "keyword"}))
    }
    return {
        "id": {"type": "keyword"},
        "title": text,
        "description": text,
        "bullets": text,
        "brand": folded,
        "color": folded,
        "category": keyword,
        "category_path": {**keyword, "fields": {"text": text}},
        "price": {"type": "double"},
        "currency": {"type": "keyword"},
        "stock": {"type": "long"},
        "rating": {"type": "float"},
        "rating_count": {"type": "long"},
        "image": hidden,
        "language": {"type": "keyword"},
        "attributes": {"type": "flat_object"},
        "flags": {"type": "keyword"},
        "near_duplicate_of": {"type": "keyword"},
        **vectors,
        "rerank_tokens": {"type": "binary"},
        "rerank_bundle": {"type": "keyword"},
        "content_hash": hidden,
        "version": {"type": "long"},
        "offer": {"type": "object", "enabled": False},
        "ingested_at": {"type": "date"},
    }


def _analysis() -> dict[str, Any]:
    units = {
        f"unit_{unit}": {
            "type": "pattern_replace",
            "pattern": rf"(?i)(?<=[0-9０-９])[\s-]?(?:{written})(?![a-z])",
            "replacement": f"{unit} ",
        }
        for unit, written in _UNITS.items()
    }
    thousands = {"type": "pattern_replace", "pattern": r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "replacement": ""}
    folding = ["cjk_width", "lowercase", "asciifolding", "possessive", "inflections"]
    analyzer = {"type": "custom", "tokenizer": "standard", "char_filter": ["thousands", *units]}
    return {
        "char_filter": {"thousands": thousands, **units},
        "filter": {
            "possessive": {"type": "stemmer", "language": "possessive_english"},
            "inflections": {"type": "stemmer", "language": "porter2"},
            "pairs": {"type": "cjk_bigram"},
            "pairs_and_singles": {"type": "cjk_bigram", "output_unigrams": True},
        },
        "analyzer": {
            "shop": {**analyzer, "filter": [*folding, "pairs_and_singles"]},
            "shop_query": {**analyzer, "filter": [*folding, "pairs"]},
        },
        "normalizer": {"folded": {"type": "custom", "filter": ["lowercase", "asciifolding"]}},
    }
