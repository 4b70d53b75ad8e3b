"""One typed settings object, from a TOML file and environment variables.

Order, last wins: defaults, the TOML file (`SHELFRANK_CONFIG`, or `shelfrank.toml` in the working folder),
`SHELFRANK_<SECTION>_<NAME>` variables, then the `OPENSEARCH_*` variables for the cluster. Passwords come from
the environment only and are never shown.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec

from indexer.errors import ConfigError


class Cluster(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where OpenSearch is. An empty `url` means the embedded node."""

    url: str = ""
    user: str = ""
    password: str = ""
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    timeout_s: float = 30.0

    def __repr__(self) -> str:
        """Without the password: settings end up in logs and tracebacks."""
        return f"Cluster(url={self.url!r}, user={self.user!r}, password={'(set)' if self.password else ''!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.url), ("user", self.user), ("password", "(set)" if self.password else "")]


class Node(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The embedded node. Empty folders mean the user's cache and data folders; port 0 means any free one.

    Root runs the node as `user`, since OpenSearch refuses to run as root. `repository` is a Maven repository to
    fetch from (a company's mirror, say) instead of Maven Central. `ml_commons` adds the plugin that OpenSearch's own
    `rerank` processor needs (400 MB to fetch, as much again unpacked). `java_options` go to its Java behind shelfrank's
    own; `-XX:TieredStopAtLevel=1` halves the processor time of a start, for a node that does not live long.
    """

    cache_dir: str = ""
    data_dir: str = ""
    port: int = 0
    heap_mb: int = 1024
    user: str = "nobody"
    repository: str = ""
    ml_commons: bool = False
    java_options: str = ""


class Index(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a catalogue index is made. `engine` faiss needs a full cluster; the embedded node has lucene only."""

    engine: Literal["lucene", "faiss"] = "lucene"
    space: Literal["innerproduct", "cosinesimil", "l2"] = "cosinesimil"
    m: int = 16
    ef_construction: int = 128
    encoding: Literal["float", "half", "byte", "binary"] = "float"
    shards: int = 1
    replicas: int = 0


class Ingest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a catalogue is written: products to a step, bytes to a bulk request, and for how many seconds a cluster
    that takes nothing is waited for. A reindex has up to `bulk_requests` out at once, fewer while the cluster is busy,
    and embeds on so many `workers` of a Ray cluster; 0 is in its own process.
    """

    batch: int = 128
    bulk_bytes: int = 5_000_000
    bulk_requests: Annotated[int, msgspec.Meta(ge=1, le=10)] = 2
    patience_s: float = 120.0
    workers: int = 0


class Bounds(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much of a file is taken for one thing. A line or row that is longer is refused by itself, and the rest goes
    on; a file that unpacks to more than `unpacked_bytes` is refused at that point. Memory follows from these, and not
    from the file.
    """

    line_bytes: Annotated[int, msgspec.Meta(ge=1000)] = 5_000_000
    row_characters: Annotated[int, msgspec.Meta(ge=1000)] = 5_000_000
    field_characters: Annotated[int, msgspec.Meta(ge=100)] = 1_000_000
    unpacked_bytes: Annotated[int, msgspec.Meta(ge=1000)] = 100_000_000_000


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Guards(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much a catalogue may change before a job stops and asks; 1 allows everything.

    `fewer`: by what share the number of products may fall at a reindex. `missing`: by what share of the products fewer
    may have a price, an image or a category than before. `prices`: how many of the prices may change by `price_factor`
    or more. Of a feed the last `window` events are looked at, of which `deletions` may delete, `missing` take something
    away and `prices` change a price so much; in a catalogue of fewer products than that, these are shares of it.
    """

    fewer: Share = 0.2
    missing: Share = 0.2
    prices: Share = 0.2
    price_factor: Annotated[float, msgspec.Meta(gt=1)] = 2.0
    deletions: Share = 0.4
    window: Annotated[int, msgspec.Meta(ge=10, le=100_000)] = 1000


class Search(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The query path.

    `window` hits are rescored; `depth` is how far vector and hybrid results reach at all (it is the same for
    every page, so that pages follow each other). `blend` is the weight of the rerank score, 0 to 1; negative
    means the weights that the reranker's bundle carries. `text_fields` are those that BM25 reads, with their
    weights; `shelfrank evaluate --folds` finds a shop's best. `vector_weight` is the vector's part in min_max
    fusion: 0.7 did best on the training and dev queries of ESCI and the sample shop.
    """

    mode: Literal["bm25", "vector", "hybrid"] = "hybrid"
    window: int = 50
    size: int = 10
    depth: int = 400
    deadline_ms: int = 2000
    blend: float = -1.0
    text_fields: str = "title^3,brand.text^2,color.text,category_path.text,bullets,description^0.5"
    fusion: Literal["min_max", "rrf"] = "min_max"
    vector_weight: float = 0.7
    rank_constant: int = 60

    @property
    def weight(self) -> float | None:
        """`blend`, None where the bundle's weights are meant."""
        return None if self.blend < 0 else self.blend


class Models(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Bundles and how they run. An empty bundle means the current one of the registry in `home` (empty: the user's
    data folder), and the one that ships with shelfrank where none was promoted. `next_encoder` is the bundle to which a
    catalogue is being moved: searches then use whichever of the two made the index that they search. `second_encoder`
    is a bundle whose vectors new indexes hold beside those of `encoder`, while the two are compared. `reranker_en` is
    the one that reads English queries in the place of `reranker`; `none` is none, and empty is the registry's where
    `reranker` is not named, or the one that ships where `reranker` ships too.
    """

    encoder: str = ""
    next_encoder: str = ""
    second_encoder: str = ""
    reranker: str = ""
    reranker_en: str = ""
    home: str = ""
    provider: Literal["cpu", "cuda"] = "cpu"
    allow_fallback: bool = False
    threads: int = 0


class Policy(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How the service reranks searches of one index; what is None or empty is as in [search] and [models].

    `bundle` is a name of `serve.bundles`. `fields` maps the reranker's fields to the index's own: `{title = "name"}`.
    """

    rerank: bool = True
    window: int | None = None
    weight: float | None = None
    deadline_ms: float | None = None
    bundle: str = ""
    fields: dict[str, str] = {}


class Serve(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The HTTP service. Other hosts than this one are served only when there are API keys.

    `index` is the catalogue that the page opens with; with `ubi` its searches and clicks are written to the cluster's
    `ubi_queries` and `ubi_events`: of one search for `events_hours`, and `events_each` at most. `rerank_deadline_ms`
    bounds a call of the rerank API, which has no first stage. `keys_file` holds them (see `shelfrank keys`), beside
    those in SHELFRANK_API_KEYS. `forward` is what the gateway passes to the cluster beside searches: `read`, `write`
    (documents too) or `all`. With `cluster_decides` the gateway asks for no key and leaves it to the cluster whom it
    answers. `workers` rerankings run at once and `queue` more wait; after `breaker_failures` failures in a row a
    model is left alone for `breaker_s`. `rerank` is for indexes that `indexes` does not name. `connections` and
    `read_timeout_s` bound what slow clients hold; `unread_bytes`, and for each `write_timeout_s`, what those hold
    that do not read. `cache_scores` and `cache_queries` bound the scores of pairs and the query vectors that each
    model keeps in memory; 0 keeps none. Health, readiness and metrics have a listener of their own on `ops_host`
    (empty: `host`) and `ops_port`: when not set the port after `port`, or any free one where that is taken; 0 is any
    free one, -1 none. `searches` of /v1/search wait for the cluster at once. `embed_deadline_ms` bounds a call for
    embeddings. Clients share the models by key, or by address; that of `trusted_proxies` (networks, with commas
    between) is whom they say.
    """

    host: str = "127.0.0.1"
    port: int = 8100
    ops_host: str = ""
    ops_port: Annotated[int, msgspec.Meta(ge=-1, le=65_535)] | None = None
    tls_cert: str = ""
    tls_key: str = ""
    keys_file: str = ""
    cors_origins: str = ""
    forward: Literal["read", "write", "all"] = "read"
    cluster_decides: bool = False
    log_queries: bool = False
    max_body_bytes: int = 10_000_000
    read_timeout_s: float = 15.0
    write_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    unread_bytes: Annotated[int, msgspec.Meta(ge=1_000_000)] = 256_000_000
    connections: int = 512
    workers: int = 2
    queue: int = 64
    cache_scores: Annotated[int, msgspec.Meta(ge=0)] = 200_000
    cache_queries: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    breaker_failures: int = 5
    breaker_s: float = 10.0
    stop_s: float = 20.0
    rerank_deadline_ms: int = 10_000
    embed_deadline_ms: int = 30_000
    searches: Annotated[int, msgspec.Meta(ge=1)] = 32
    trusted_proxies: str = ""
    index: str = ""
    ubi: bool = False
    events_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 24.0
    events_each: Annotated[int, msgspec.Meta(ge=1)] = 200
    rerank: bool = True
    bundles: dict[str, str] = {}
    indexes: dict[str, Policy] = {}


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one request through the gateway may ask of the cluster; docs/security.md has a row for each.

    Texts are in characters, bodies in bytes, times in seconds. `scripts` and `templates` let them through unlooked at.
    `hidden` are indexes that no client sees beside those of the service itself: names and patterns, with commas.
    """

    scripts: bool = False
    templates: bool = False
    hidden: str = ""
    searches: int = 100
    searches_at_once: Annotated[int, msgspec.Meta(ge=1)] = 2
    search_bytes: int = 1_000_000
    size: int = 10_000
    reach: int = 10_000
    hits_per_request: int = 10_000
    inner_hits: int = 100
    window: int = 1_000
    deadline_ms: float = 60_000.0
    rescore_window: int = 1_000
    neighbours: int = 10_000
    keep_alive_s: float = 300.0
    clauses: int = 1_024
    terms: int = 10_000
    parts: int = 256
    text_characters: int = 10_000
    query_string_characters: int = 10_000
    operators: int = 500
    fuzzy_characters: int = 1_000
    expansions: int = 1_000
    slop: int = 1_000
    wildcards: int = 50
    pattern_characters: int = 500
    regexps: int = 10
    regexp_characters: int = 250
    regexp_repeats: int = 1_000
    determinized_states: int = 10_000
    aggregations: int = 100
    aggregation_depth: int = 5
    buckets: int = 65_536
    open_histograms: bool = False
    compression: float = 1_000.0
    digits: int = 3
    groups: int = 10
    echo_characters: int = 10_000
    echoes: int = 50_000_000
    answer_bytes: int = 200_000_000


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    cluster: Cluster = Cluster()
    node: Node = Node()
    index: Index = Index()
    ingest: Ingest = Ingest()
    bounds: Bounds = Bounds()
    guards: Guards = Guards()
    search: Search = Search()
    models: Models = Models()
    serve: Serve = Serve()
    limits: Limits = Limits()


_CLUSTER_VARIABLES = {
    "OPENSEARCH_URL": "url",
    "OPENSEARCH_USER": "user",
    "OPENSEARCH_PASSWORD": "password",
    "OPENSEARCH_CA_FILE": "ca_file",
    "OPENSEARCH_CLIENT_CERT": "client_cert",
    "OPENSEARCH_CLIENT_KEY": "client_key",
}


def load(path: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from file and environment.

    Raises ConfigError naming the file or variable, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    chosen = path or environ.get("SHELFRANK_CONFIG") or ""
    file = Path(chosen) if chosen else Path("shelfrank.toml")
    values: dict[str, dict[str, Any]] = {}
    if file.is_file():
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not valid TOML: {error}") from error
        cluster = values.get("cluster")
        if isinstance(cluster, dict) and ("password" in cluster or _credentials(str(cluster.get("url", "")))):
            raise ConfigError(
                f"{file} holds the password of the cluster; passwords come from OPENSEARCH_PASSWORD only. Remove it."
            )
    elif chosen:
        raise ConfigError(f"The settings file {file} does not exist. Check SHELFRANK_CONFIG or --config.")
    settings = _convert(values, str(file))
    return _convert(_overlay(settings, environ), "The environment")


def _overlay(settings: Settings, environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = msgspec.to_builtins(settings)
    for section, fields in values.items():
        for name in fields:
            raw = environ.get(f"SHELFRANK_{section}_{name}".upper())
            if raw is not None and (section, name) != ("cluster", "password"):
                fields[name] = raw
    cluster = values["cluster"]
    for variable, name in _CLUSTER_VARIABLES.items():
        if environ.get(variable):
            cluster[name] = environ[variable]
    if found := _credentials(cluster["url"]):
        # Addresses are shown and logged, so user and password move to their own fields.
        cluster["url"] = cluster["url"].replace(f"{found}@", "", 1)
        user, _, password = found.partition(":")
        if cluster["user"] not in ("", unquote(user)) or cluster["password"] not in ("", unquote(password)):
            raise ConfigError(
                "OPENSEARCH_URL holds other credentials than OPENSEARCH_USER and OPENSEARCH_PASSWORD. Leave them out "
                "of the address."
            )
        cluster["user"], cluster["password"] = unquote(user), unquote(password)
    if "@" in cluster["url"]:
        raise ConfigError(
            "OPENSEARCH_URL holds an @ in an unexpected place, perhaps of a password with a / in it. Put user and "
            "password into OPENSEARCH_USER and OPENSEARCH_PASSWORD."
        )
    return values


def _credentials(url: str) -> str:
    """The `user:password` part of an address, empty when it has none."""
    try:
        return urlsplit(url).netloc.rpartition("@")[0]
    except ValueError:
        return ""


def variable(section: str, name: str) -> str:
    """The environment variable of a setting."""
    own = {field: name for name, field in _CLUSTER_VARIABLES.items()}
    return own[name] if section == "cluster" and name in own else f"SHELFRANK_{section}_{name}".upper()


def _convert(values: Mapping[str, Any], origin: str) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin} holds a setting that is not allowed: {error}. See `shelfrank config`.") from error


def shown(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, with the password replaced by whether one is set."""
    values: dict[str, Any] = msgspec.to_builtins(settings)
    values["cluster"]["password"] = "(set)" if settings.cluster.password else ""
    return values


def choices(struct: type[msgspec.Struct], field: str) -> list[str]:
    """The values a Literal setting allows, for command line choices."""
    for info in msgspec.structs.fields(struct):
        if info.name == field:
            return [str(value) for value in get_args(info.type)]
    raise AttributeError(field)
