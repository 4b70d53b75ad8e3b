"""What OpenSearch's own `rerank` processor needs to call the rerank API: settings, connector, model and pipeline."""

from __future__ import annotations

import re
from typing import Any

import msgspec

KEY_VARIABLE = "SHELFRANK_API_KEY"
MADE_BY = "Made by shelfrank connect."
# The processor puts nothing between fields, and a pipeline can make no constant: this one splits the first field's
# whole text away, which leaves a list of two empty texts that stands between words as `[, ]` (a space after 3.6).
SEPARATOR = "rerank_separator"

_SETTING = "plugins.ml_commons."
ANYWHERE = f"{_SETTING}only_run_on_ml_node"
PRIVATE = f"{_SETTING}connector.private_ip_enabled"
TRUSTED = f"{_SETTING}trusted_connector_endpoints_regex"


class Plan(msgspec.Struct, frozen=True):
    """What is to be connected: `name` is that of the search pipeline, `service` the address of `shelfrank serve` as the
    cluster's nodes see it, `fields` what of a document is read.

    `oversample` times the page is fetched and reranked, of which the page is cut; 1 reranks the page alone. With
    `strict` a search fails when reranking does; else its hits stay as they were. `timeout_s` is that of one call.
    """

    name: str = "shelfrank"
    service: str = "http://127.0.0.1:8100"
    fields: tuple[str, ...] = ("title", "brand", "color", "bullets")
    oversample: int = 1
    strict: bool = False
    timeout_s: int = 2

    @property
    def url(self) -> str:
        return f"{self.service.rstrip('/')}/v1/rerank"

    def settings(self, trusted: list[str] | None = None) -> dict[str, Any]:
        """The cluster's settings that let its nodes call the service, beside the `trusted` addresses it has."""
        pattern = f"^{re.escape(self.service.rstrip('/'))}/.*$"
        return {ANYWHERE: False, PRIVATE: True, TRUSTED: [*(trusted or ()), pattern]}

    def connector(self, key: str) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": MADE_BY,
            "version": 1,
            "protocol": "http",
            "parameters": {"model": "default"},
            "credential": {"key": key},
            "client_config": {"connection_timeout": 1000, "read_timeout": self.timeout_s, "max_retry_times": 0},
            "actions": [
                {
                    "action_type": "predict",
                    "method": "POST",
                    "url": self.url,
                    "headers": {"Authorization": "Bearer ${credential.key}"},
                    "request_body": '{"model": "${parameters.model}", "query": "${parameters.query}", '
                    '"documents": ${parameters.documents}, "top_n": ${parameters.top_n}}',
                    "pre_process_function": "connector.pre_process.cohere.rerank",
                    "post_process_function": "connector.post_process.cohere.rerank",
                }
            ],
        }

    def model(self, connector: str) -> dict[str, Any]:
        return {"name": self.name, "description": MADE_BY, "function_name": "remote", "connector_id": connector}

    def pipeline(self, model: str) -> dict[str, Any]:
        lenient = {"ignore_failure": not self.strict}
        fields = [part for field in self.fields for part in (SEPARATOR, field)][1:]
        rerank = {"ml_opensearch": {"model_id": model}, "context": {"document_fields": fields}, **lenient}
        separate = {"field": self.fields[0], "separator": "(?s).+", "preserve_trailing": True, **lenient}
        responses: list[dict[str, Any]] = [{"rerank": rerank}]
        if len(self.fields) > 1:
            responses.insert(0, {"split": {**separate, "target_field": SEPARATOR}})
        body: dict[str, Any] = {"description": MADE_BY, "response_processors": responses}
        if self.oversample > 1:
            body["request_processors"] = [{"oversample": {"sample_factor": self.oversample}}]
            responses.append({"truncate_hits": {}})
        return body

    def requests(self) -> dict[str, Any]:
        """What is sent, with names in place of the ids that the cluster gives and of the key."""
        return {
            "settings": {"persistent": self.settings()},
            "connector": self.connector(f"${{{KEY_VARIABLE}}}"),
            "model": self.model("CONNECTOR_ID"),
            "pipeline": self.pipeline("MODEL_ID"),
        }
