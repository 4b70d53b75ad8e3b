"""The connection: an `opensearch-py` client from the settings, and its errors in plain words."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from opensearchpy import OpenSearch
from opensearchpy import exceptions as opensearch_errors

from indexer import node
from indexer.embedded.process import CLUSTER_NAME
from indexer.errors import ClusterError, ConfigError
from indexer.settings import Cluster, Settings

T = TypeVar("T")

KNN = "opensearch-knn"
NEURAL_SEARCH = "opensearch-neural-search"
# Connections kept open for threads that search at once; more are opened and closed again.
POOL_SIZE = 16


@dataclass(frozen=True)
class Capabilities:
    """What the cluster is and has. `embedded` says that it is shelfrank's own node, which has no faiss."""

    version: str
    embedded: bool
    knn: bool
    neural_search: bool
    plugins: tuple[str, ...]


def connect(settings: Settings) -> OpenSearch:
    """A client of the cluster at `settings.cluster.url`, or of the embedded node, started when it does not run.

    The cluster is asked for its name once, so that a wrong address or password shows here. TLS certificates
    are always verified. Raises ConfigError (settings), NodeError (embedded node) or ClusterError (cluster).
    """
    if settings.cluster.url:
        client = _client(settings.cluster)
    else:
        client = _client(Cluster(url=node.ensure(settings.node), timeout_s=settings.cluster.timeout_s))
    call(client.info)
    return client


def capabilities(client: OpenSearch) -> Capabilities:
    """Version and plugins of the cluster. Raises ClusterError."""
    about = call(client.info)
    rows = call(lambda: client.cat.plugins(params={"format": "json", "h": "component"}))
    plugins = tuple(sorted({row["component"] for row in rows}))
    return Capabilities(
        version=about["version"]["number"],
        embedded=about["cluster_name"] == CLUSTER_NAME,
        knn=KNN in plugins,
        neural_search=NEURAL_SEARCH in plugins,
        plugins=plugins,
    )


def index_meta(client: OpenSearch, index: str) -> dict[str, dict[str, Any]]:
    """Concrete index -> `_meta` of its mapping, for an index or alias. Raises ClusterError."""
    found = call(lambda: client.indices.get_mapping(index=index))
    return {name: value["mappings"].get("_meta", {}) for name, value in found.items()}


def call(request: Callable[[], T]) -> T:
    """The result of `request`; whatever opensearch-py raises becomes a ClusterError."""
    try:
        return request()
    except opensearch_errors.OpenSearchException as error:
        raise explained(error) from error
    except RecursionError as error:  # of opensearch-py, which unpacks JSON by recursion
        told = "OpenSearch's answer nests too deep to be read"
        raise ClusterError(f"{told}. Check OPENSEARCH_URL, and what stands before it.", f"{told}.") from error


def explained(error: opensearch_errors.OpenSearchException) -> ClusterError:
    """The ClusterError for an exception of opensearch-py. It holds no header, so no password."""
    return ClusterError(_message(error), _outward(error))


def _message(error: opensearch_errors.OpenSearchException) -> str:
    if isinstance(error, opensearch_errors.SSLError):
        return (
            f"No trusted TLS connection to OpenSearch: {cause(error)}. Name the authority that signed the cluster's "
            "certificate in OPENSEARCH_CA_FILE; the host in OPENSEARCH_URL must be one of the certificate's names."
        )
    if isinstance(error, opensearch_errors.ConnectionTimeout):
        return (
            f"OpenSearch did not answer in time: {cause(error)}. Look at its load, or raise "
            "SHELFRANK_CLUSTER_TIMEOUT_S."
        )
    if isinstance(error, opensearch_errors.ConnectionError):
        return (
            f"OpenSearch cannot be reached: {cause(error)}. Check OPENSEARCH_URL; for the embedded node see "
            "`shelfrank node status` and `shelfrank node logs`."
        )
    if isinstance(error, opensearch_errors.AuthenticationException):
        return (
            "OpenSearch does not accept the user or password (401). Check OPENSEARCH_USER, OPENSEARCH_PASSWORD and "
            "OPENSEARCH_CLIENT_CERT."
        )
    if isinstance(error, opensearch_errors.AuthorizationException):
        return f"OpenSearch does not permit this to the user (403): {cause(error)}. Extend its role."
    if isinstance(error, opensearch_errors.NotFoundError):
        return f"OpenSearch does not have it (404): {cause(error)}. Check the name of the index."
    if isinstance(error, opensearch_errors.TransportError):
        return f"OpenSearch refused the request ({error.status_code}): {cause(error)}"
    return f"The request to OpenSearch failed: {error}"


def _outward(error: opensearch_errors.OpenSearchException) -> str:
    """What whoever asks a service may read of it: why a request of theirs is wrong, and else nothing of the cluster."""
    if isinstance(error, opensearch_errors.ConnectionTimeout):
        return "OpenSearch did not answer in time."
    if isinstance(error, opensearch_errors.ConnectionError):
        return "OpenSearch cannot be reached."
    if not isinstance(error, opensearch_errors.TransportError):
        return ""
    is_told = isinstance(error.info, dict) and isinstance(error.info.get("error"), dict)
    if is_told and error.status_code in (400, 404):
        return _message(error)
    return f"OpenSearch refused the service's request ({error.status_code})."


def cause(error: opensearch_errors.TransportError) -> str:
    """The reason in the server's answer, or the network's message."""
    info = error.info
    if isinstance(info, dict) and isinstance(info.get("error"), dict):
        causes = info["error"].get("root_cause") or [info["error"]]
        return "; ".join(dict.fromkeys(str(cause.get("reason") or cause.get("type")) for cause in causes))
    return str(error.error)


def _client(cluster: Cluster) -> OpenSearch:
    check(cluster)
    logger = logging.getLogger("opensearch")
    if not logger.handlers:
        # Without this, Python prints the client's warnings with a stack trace to standard error, beside our message.
        logger.addHandler(logging.NullHandler())
    # Not by `http_auth`, which allows Latin-1 only.
    headers = {"authorization": authorization(cluster)} if cluster.user else {}
    tls: dict[str, Any] = {}
    if urlsplit(cluster.url).scheme == "https":
        tls = {
            "use_ssl": True,
            "verify_certs": True,
            "ca_certs": cluster.ca_file or None,
            "client_cert": cluster.client_cert or None,
            "client_key": cluster.client_key or None,
        }
    return OpenSearch(hosts=[cluster.url], headers=headers, timeout=cluster.timeout_s, pool_maxsize=POOL_SIZE, **tls)


def authorization(cluster: Cluster) -> str:
    """The `Authorization` of the cluster's user, in UTF-8; empty where there is none."""
    if not cluster.user:
        return ""
    return "Basic " + base64.b64encode(f"{cluster.user}:{cluster.password}".encode()).decode("ascii")


def check(cluster: Cluster) -> None:
    """Raise ConfigError for an address or file that cannot work. No message repeats a password."""
    try:
        parts = urlsplit(cluster.url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise ConfigError("OPENSEARCH_URL is not an address such as https://search.example.com:9200.") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "cluster.url holds a user or password, which would show in logs. Use OPENSEARCH_USER and "
            "OPENSEARCH_PASSWORD."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
        raise ConfigError(
            f"OPENSEARCH_URL is {cluster.url!r}; an address such as https://search.example.com:9200 is expected."
        )
    for variable, file in (
        ("OPENSEARCH_CA_FILE", cluster.ca_file),
        ("OPENSEARCH_CLIENT_CERT", cluster.client_cert),
        ("OPENSEARCH_CLIENT_KEY", cluster.client_key),
    ):
        if file and not Path(file).is_file():
            raise ConfigError(f"{variable} names {file!r}, which is not a file.")
    if cluster.client_key and not cluster.client_cert:
        raise ConfigError("OPENSEARCH_CLIENT_KEY is set without OPENSEARCH_CLIENT_CERT. Set both, or neither.")
