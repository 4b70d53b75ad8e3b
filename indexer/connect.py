"""Connects OpenSearch's own `rerank` processor to shelfrank's rerank API, through ml-commons.

Every run makes a new connector and model, tries them, switches the pipeline to them and takes the old ones away:
searches never meet a pipeline without a model, and a new key or address is simply another run.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
from opensearchpy import OpenSearch
from opensearchpy import exceptions as opensearch_errors

from indexer import client as clusters
from indexer.errors import ClusterError, UsageError
from indexer.rerank_processor import ANYWHERE, KEY_VARIABLE, MADE_BY, MARK, PRIVATE, TRUSTED, Plan

ML_COMMONS = "opensearch-ml"
DEPLOY_S = 60.0
# Searches that have begun with the old pipeline still call its model.
SETTLE_S = 1.0

_ML = "/_plugins/_ml"
# What the trial call says -> what to do about it.
_CURES = (
    ("private ip", f"Set {PRIVATE} to true in the cluster's settings."),
    (
        "API key",
        f"Set {KEY_VARIABLE} to a key with the right rerank (`shelfrank keys new opensearch --rights rerank`).",
    ),
    ("lacks the right", "Make a key with the right rerank: `shelfrank keys new opensearch --rights rerank`."),
    ("communicating", "Is `shelfrank serve` running there, and can every node of the cluster reach it?"),
    ("no reranker", "The service is still loading its model, or has none: look at its log, and try again."),
)


class Connected(msgspec.Struct, frozen=True):
    """What was made, and the ids of the connectors and models that it took the place of."""

    pipeline: str
    connector: str
    model: str
    url: str
    replaced: list[str]


class Connection:
    """Makes and removes what a plan says, on one cluster."""

    def __init__(self, client: OpenSearch, plan: Plan) -> None:
        """Raises UsageError for an address that cannot be called."""
        parts = urlsplit(plan.service)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise UsageError(
                f"The service's address is {plan.service!r}; give one such as http://10.0.0.5:8100, without user and "
                f"password (a key goes into {KEY_VARIABLE})."
            )
        self.client, self.plan = client, plan

    def connect(self, key: str) -> Connected:
        """Make connector, model and pipeline, or replace those of an earlier run.

        Raises ClusterError when the cluster lacks a plugin or setting, or its trial call of the service fails; then
        what was there before stays as it was.
        """
        self._check_plugins()
        self._check_settings()
        self._own_pipeline()
        made: dict[str, str] = {}
        try:
            created = self._ask("POST", "connectors/_create", self.plan.connector(key or "none"))
            made["connectors"] = created["connector_id"]
            registered = self._ask("POST", "models/_register?deploy=true", self.plan.model(made["connectors"]))
            made["models"] = registered["model_id"]
            self._wait_deployed(made["models"])
            self._try(made["models"])
            body = self.plan.pipeline(made["models"])
            clusters.call(lambda: self.client.search_pipeline.put(id=self.plan.name, body=body))
        except BaseException:
            with suppress(ClusterError):  # What stays is found and taken away by the next run.
                self._delete(made)
            raise
        old = self._found(without=tuple(made.values()))
        if old:
            time.sleep(SETTLE_S)
        for kind, ident in old:
            self._delete({kind: ident})
        return Connected(self.plan.name, made["connectors"], made["models"], self.plan.url, [each for _, each in old])

    def remove(self) -> list[str]:
        """Take pipeline, model and connector away; returns what was there.

        Raises UsageError while an index has the pipeline as its default, because its searches would fail.
        """
        self._check_plugins()
        used = self._indexes_with_default()
        if used:
            raise UsageError(
                f"{', '.join(used)}: the setting index.search.default_pipeline names {self.plan.name}, and searches "
                "would fail without it. Set it to null first."
            )
        removed = []
        if self._own_pipeline():
            clusters.call(lambda: self.client.search_pipeline.delete(id=self.plan.name))
            removed.append(self.plan.name)
        for kind, ident in [*self._found(), *self._search("model_groups")]:
            self._delete({kind: ident})
            removed.append(ident)
        return removed

    def _check_plugins(self) -> None:
        found = clusters.capabilities(self.client)
        if ML_COMMONS not in found.plugins:
            raise ClusterError(
                "The cluster has no ml-commons (opensearch-ml), which calls the rerank API. "
                + (
                    "Start the embedded node with it: `shelfrank node stop`, then `shelfrank node start --with-ml`."
                    if found.embedded
                    else "Install it on every node, or use the gateway, which needs no plugin."
                )
            )
        if not found.neural_search:
            raise ClusterError(
                "The cluster has no neural-search (opensearch-neural-search), whose `rerank` processor is meant. "
                "Install it on every node, or use the gateway, which needs no plugin."
            )

    def _check_settings(self) -> None:
        params = {"flat_settings": "true", "include_defaults": "true"}
        parts = clusters.call(lambda: self.client.cluster.get_settings(params=params))
        found = {**parts.get("defaults", {}), **parts.get("persistent", {}), **parts.get("transient", {})}
        trusted = list(found.get(TRUSTED, ()))
        wanted = self.plan.settings(trusted)
        if str(found.get(ANYWHERE)).lower() != "true" or self._has_ml_node():
            del wanted[ANYWHERE]
        if str(found.get(PRIVATE)).lower() != "false" or not _is_private(urlsplit(self.plan.url).hostname or ""):
            del wanted[PRIVATE]
        if any(_matches(pattern, self.plan.url) for pattern in trusted):
            del wanted[TRUSTED]
        if wanted:
            body = msgspec.json.encode({"persistent": wanted}).decode()
            raise ClusterError(
                f"The cluster's settings do not let it call {self.plan.url}. Send it this, and run the command again:\n"
                f"PUT _cluster/settings\n{body}"
            )

    def _has_ml_node(self) -> bool:
        nodes = clusters.call(lambda: self.client.nodes.info(params={"filter_path": "nodes.*.roles"}))
        return any("ml" in node.get("roles", ()) for node in nodes.get("nodes", {}).values())

    def _own_pipeline(self) -> bool:
        """Whether there is a pipeline of that name. Raises UsageError when it is somebody else's."""
        absent = {"ignore": 404}
        found = clusters.call(lambda: self.client.search_pipeline.get(id=self.plan.name, params=absent))
        if self.plan.name not in found:
            return False
        if found[self.plan.name].get("description") != MADE_BY:
            raise UsageError(
                f"The cluster has a search pipeline {self.plan.name} that shelfrank did not make. Choose another "
                "--name."
            )
        return True

    def _indexes_with_default(self) -> list[str]:
        name = "index.search.default_pipeline"
        found = clusters.call(lambda: self.client.indices.get_settings(index="_all", name=name, flat_settings=True))
        return sorted(index for index, each in found.items() if each["settings"].get(name) == self.plan.name)

    def _wait_deployed(self, model: str) -> None:
        deadline = time.monotonic() + DEPLOY_S
        state = ""
        while time.monotonic() < deadline:
            state = self._ask("GET", f"models/{model}").get("model_state", "")
            if state == "DEPLOYED":
                return
            if state == "DEPLOY_FAILED":
                break
            time.sleep(0.2)
        raise ClusterError(
            f"The model {self.plan.name} did not get deployed (state {state or 'unknown'}). The cluster's log says "
            "why; ml-commons refuses where heap, memory or disk are short."
        )

    def _try(self, model: str) -> None:
        documents = [MARK.join([text] + [""] * (len(self.plan.fields) - 1)) for text in ("a steel cup", "保温杯")]
        body = {"query_text": "steel cup", "text_docs": documents}
        try:
            self.client.transport.perform_request("POST", f"{_ML}/_predict/text_similarity/{model}", body=body)
        except opensearch_errors.TransportError as error:
            reason = clusters.cause(error)
            cure = next((cure for sign, cure in _CURES if sign.lower() in reason.lower()), "Look at the service's log.")
            raise ClusterError(
                f"The cluster's trial call of {self.plan.url} failed: {reason}. {cure} Nothing was changed."
            ) from error

    def _found(self, without: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        """(kind, id) of what earlier runs made: models before the connectors that they need."""
        found = [*self._search("models"), *self._search("connectors")]
        return [each for each in found if each[1] not in without]

    def _search(self, kind: str) -> list[tuple[str, str]]:
        ours = [{"term": {"name.keyword": self.plan.name}}, {"match_phrase": {"description": MADE_BY}}]
        body = {"query": {"bool": {"filter": ours}}, "size": 100, "_source": ["name"]}
        found = self._ask("POST", f"{kind}/_search", body)
        return [(kind, hit["_id"]) for hit in found["hits"]["hits"]]

    def _delete(self, made: Mapping[str, str]) -> None:
        for kind in ("models", "connectors", "model_groups"):
            if kind in made:
                if kind == "models":
                    self._ask("POST", f"models/{made[kind]}/_undeploy")
                self._ask("DELETE", f"{kind}/{made[kind]}")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return clusters.call(lambda: self.client.transport.perform_request(method, f"{_ML}/{path}", body=body))


def _matches(pattern: str, url: str) -> bool:
    try:
        return re.fullmatch(pattern, url) is not None
    except re.error:  # Java's own syntax: the trial call will show.
        return False


def _is_private(host: str) -> bool:
    """Whether the address is that of this machine or a private network, as far as it can be seen from here."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"
