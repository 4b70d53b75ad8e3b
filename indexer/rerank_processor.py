"""What OpenSearch's own `rerank` processor needs to call the rerank API: settings, connector, model and pipeline."""

from __future__ import annotations

import re
from typing import Any

import msgspec

KEY_VARIABLE = "SHELFRANK_API_KEY"
MADE_BY = "Made by shelfrank connect."
# The processor joins fields with nothing between them, and a pipeline can make no constant. But it can split the first
# field's whole text away, which leaves a list of two empty texts, and OpenSearch 3.6 shows that list as MARK. The
# connector then takes the fields apart again, so that the service gets products and not their glued text. Where lists
# are joined with a space (OpenSearch after 3.6), the service gets one text with spaces between the fields.
SEPARATOR = "rerank_separator"
MARK = "[, ]"
# ml-commons hands texts over escaped for JSON, and would fill in what looks like one of its placeholders.
_PRE_PROCESS = """\
String quoted(String text) { return '"' + text.replace('${', '$ {') + '"'; }
String product(String text, List names) {
  StringBuilder out = new StringBuilder();
  int from = 0;
  for (int at = 0; at < names.size(); at++) {
    int to = text.indexOf(MARK, from);
    if ((to < 0) != (at == names.size() - 1)) { return quoted(text); }
    String value = text.substring(from, to < 0 ? text.length() : to);
    if (value.startsWith('[') && value.endsWith(']')) { value = value.substring(1, value.length() - 1); }
    if (!value.isEmpty()) {
      out.append(out.length() == 0 ? '' : ', ').append(quoted(names.get(at))).append(': ').append(quoted(value));
    }
    from = to + MARK_LENGTH;
  }
  return names.size() == 1 ? quoted(text) : '{' + out.toString() + '}';
}
StringBuilder documents = new StringBuilder();
for (String text : params.text_docs) {
  documents.append(documents.length() == 0 ? '' : ', ').append(product(text, NAMES));
}
return '{"parameters": {"asked": {"model": "default", "query": ' + quoted(params.query_text)
  + ', "documents": [' + documents.toString() + ']}}}';
"""

_SETTING = "plugins.ml_commons."
ANYWHERE = f"{_SETTING}only_run_on_ml_node"
PRIVATE = f"{_SETTING}connector.private_ip_enabled"
TRUSTED = f"{_SETTING}trusted_connector_endpoints_regex"


class Plan(msgspec.Struct, frozen=True):
    """What is to be connected: `name` is that of the search pipeline, `service` the address of `shelfrank serve` as the
    cluster's nodes see it, `fields` what of a document is read: names that the model knows, or `title=name` where the
    index says `name` for it. One field alone is sent as a text.

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
            "credential": {"key": key},
            "client_config": {"connection_timeout": 1000, "read_timeout": self.timeout_s, "max_retry_times": 0},
            "actions": [
                {
                    "action_type": "predict",
                    "method": "POST",
                    "url": self.url,
                    "headers": {"Authorization": "Bearer ${credential.key}"},
                    "request_body": "${parameters.asked}",
                    "pre_process_function": self._pre_process(),
                    "post_process_function": "connector.post_process.cohere.rerank",
                }
            ],
        }

    def _pre_process(self) -> str:
        names = ", ".join(_literal(field.partition("=")[0]) for field in self.fields)
        script = _PRE_PROCESS.replace("NAMES", f"[{names}]").replace("MARK_LENGTH", str(len(MARK)))
        return script.replace("MARK", _literal(MARK))

    def model(self, connector: str) -> dict[str, Any]:
        return {"name": self.name, "description": MADE_BY, "function_name": "remote", "connector_id": connector}

    def pipeline(self, model: str) -> dict[str, Any]:
        lenient = {"ignore_failure": not self.strict}
        theirs = [field.rpartition("=")[2] for field in self.fields]
        fields = [part for field in theirs for part in (SEPARATOR, field)][1:]
        rerank = {"ml_opensearch": {"model_id": model}, "context": {"document_fields": fields}, **lenient}
        separate = {"field": theirs[0], "separator": "(?s).+", "preserve_trailing": True, **lenient}
        responses: list[dict[str, Any]] = [{"rerank": rerank}]
        if len(theirs) > 1:
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


def _literal(text: str) -> str:
    """A text as Painless writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
