"""What strangers learn of the cluster and the machine from failures: nothing; the operator's log has it all."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from opensearchpy import exceptions as opensearch_errors

from indexer import client as clusters
from indexer.errors import BundleError, ClusterError, ConfigError, InputError, NodeError, ShelfrankError, UsageError
from indexer.settings import Cluster, Settings
from reranker.serving.disclosure import UNTOLD, told, untold
from reranker.serving.keys import VARIABLE, new
from reranker.serving.passing import Passage, _without_user
from tests.reranker.serving.failing import answering, hung
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

USER, PASSWORD = "reader-of-the-shop", "not for strangers"
NODE = "node-7-of-ours"
SEARCH = {"query": {"match": {"title": "cup"}}}


@contextmanager
def closed() -> Iterator[str]:
    """The address of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def not_tls() -> Iterator[str]:
    """An address that is said to speak TLS, and does not."""
    with answering(200, b"{}") as url:
        yield url.replace("http:", "https:")


def refusing(status: int, kind: str, reason: str) -> AbstractContextManager[str]:
    cause = {"type": kind, "reason": reason}
    return answering(status, json.dumps({"error": {"root_cause": [cause], **cause}, "status": status}).encode())


NO_PERMISSION = (
    f"no permissions for [indices:data/read/search] and User [name={USER}, backend_roles=[a, b], requestedTenant=null]"
)
FAULTS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "nobody listens": closed,
    "no such host": lambda: nullcontext("https://search.of-the-shop.invalid:9243"),
    "no answer": hung,
    "no TLS": not_tls,
    "wrong password": lambda: answering(401, b"Unauthorized", "text/plain"),
    "no permission": lambda: refusing(403, "security_exception", NO_PERMISSION),
    "busy": lambda: refusing(429, "rejected_execution_exception", f"rejected execution on {NODE}/search"),
    "broken": lambda: refusing(500, "exception", f"[{NODE}][10.0.0.7:9300][indices:data/read/search] failed"),
    "a proxy before it": lambda: answering(503, b"<html>upstream 10.0.0.7:9200 is down</html>", "text/html"),
}


def asked_of(found: Running, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Answers to all that makes the service turn to its cluster."""
    asked = {"index": "things", "query": "cup", "mode": "bm25"}
    lines = b'{"index":"things"}\n{"query":{"match_all":{}}}\n'
    yield found.http.get("/readyz")
    yield found.http.post("/v1/search", json=asked, headers=headers)
    yield found.http.post("/v1/explain", json=asked, headers=headers)
    yield found.http.get("/v1/about", headers=headers)
    yield found.http.post("/things/_search", json=SEARCH, headers=headers)
    yield found.http.post("/things/_search", json={**SEARCH, "ext": {"shelfrank": {}}}, headers=headers)
    yield found.http.post("/_msearch", content=lines, headers={**headers, "content-type": "application/x-ndjson"})
    yield found.http.get("/things/_mapping", headers=headers)
    yield found.http.get("/", headers=headers)


# What a cluster says of itself to whoever it answers is passed on as it is, by the gateway: it is its own answer.
OWN_ANSWERS = {"busy", "broken", "a proxy before it"}


@pytest.mark.node
@pytest.mark.parametrize("fault", FAULTS)
def test_no_failure_shows_where_the_cluster_is_and_who_the_service_is_there(
    patient: Settings, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, line = new("shop", "search")
    monkeypatch.setenv(VARIABLE, line)
    with FAULTS[fault]() as url, caplog.at_level(logging.INFO, "shelfrank"):
        cluster = Cluster(url=url, user=USER, password=PASSWORD, timeout_s=0.5)
        host, _, port = url.rpartition("/")[2].partition(":")
        hidden = re.compile(
            rf"{re.escape(host)}|(?<!\d){port}(?!\d)|{USER}|{PASSWORD}|backend_roles|HTTPConnection|Basic"
        )
        ours = re.compile(rf"{hidden.pattern}|{NODE}|10\.0\.0\.7")
        with running(with_serve(msgspec.structs.replace(patient, cluster=cluster)), wait=False) as found:
            for answer in asked_of(found, {"x-api-key": key}):
                passed_on = "/v1/" not in str(answer.url) and fault in OWN_ANSWERS
                shown = (hidden if passed_on else ours).search(f"{answer.headers}\n{answer.text}")
                assert shown is None, (answer.url.path, shown, answer.text)
                assert answer.status_code >= 400 or answer.url.path in ("/v1/about", "/readyz")
        if fault not in OWN_ANSWERS:
            until(lambda: "cause" in caplog.text)  # the operator is told
        if fault in ("nobody listens", "no such host", "no TLS"):
            until(lambda: port in caplog.text)
        assert PASSWORD not in caplog.text


@pytest.mark.node
def test_a_file_of_the_service_that_went_away_is_not_shown(patient: Settings, tmp_path: Path, node: str) -> None:
    authority = tmp_path / "authority-of-the-shop.pem"
    authority.write_bytes(Path(__import__("certifi").where()).read_bytes())
    cluster = Cluster(url=node, ca_file=str(authority))
    with running(with_serve(msgspec.structs.replace(patient, cluster=cluster)), wait=False) as found:
        authority.unlink()
        answer = found.http.post("/v1/search", json={"index": "things", "query": "cup", "mode": "bm25"})
        assert (answer.status_code, answer.json()) == (503, {"message": UNTOLD})


@pytest.mark.node
def test_the_log_names_the_cause_under_the_requests_own_id(patient: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with closed() as url, caplog.at_level(logging.INFO, "shelfrank.access"):
        with running(with_serve(msgspec.structs.replace(patient, cluster=Cluster(url=url))), wait=False) as found:
            assert found.search("things", SEARCH, **{"x-request-id": "mine-7"}).status_code == 502

            def mine() -> Any:
                lines = [json.loads(record.getMessage()) for record in caplog.records]
                return next((line for line in lines if line["id"] == "mine-7"), None)

            line = until(mine)
        assert line["status"] == 502
        assert "cannot be reached" in line["cause"]


@pytest.mark.parametrize(
    "error",
    [
        ClusterError("OpenSearch at https://10.0.0.7:9200 says no"),
        ConfigError("OPENSEARCH_CA_FILE names '/etc/shop/ca.pem', which is not a file."),
        BundleError("/srv/models/secret/model.onnx is missing"),
        NodeError("see /root/.cache/node.log"),
        OSError("/etc/shop/ca.pem"),
    ],
)
def test_what_nobody_has_written_for_strangers_is_not_told(error: Exception) -> None:
    assert told(error) == UNTOLD
    assert untold(error) == str(error)


def test_what_is_wrong_with_a_request_is_told_and_not_logged() -> None:
    """It may hold the text of a query."""
    for kind in (InputError, UsageError):
        error = kind("window is 7000")
        error.__cause__ = ValueError("cup")
        assert (told(error), untold(error)) == ("window is 7000", "")


def test_a_sentence_of_the_services_own_is_told_and_its_cause_logged() -> None:
    error = ShelfrankError("The model failed.")
    assert (told(error), untold(error)) == ("The model failed.", "")
    error.__cause__ = RuntimeError("at /srv/models/model.onnx")
    assert (told(error), untold(error)) == ("The model failed.", "RuntimeError: at /srv/models/model.onnx")


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (
            opensearch_errors.ConnectionError("N/A", "HTTPConnectionPool(host='10.0.0.7', port=9200)", OSError()),
            "reached",
        ),
        (opensearch_errors.SSLError("N/A", "certificate is not valid for '10.0.0.7'", OSError()), "reached"),
        (opensearch_errors.ConnectionTimeout("TIMEOUT", "host='10.0.0.7'", OSError()), "in time"),
        (opensearch_errors.AuthenticationException(401, "Unauthorized 10.0.0.7", {}), "(401)"),
        (opensearch_errors.AuthorizationException(403, "x", {"error": {"reason": "User 10.0.0.7"}}), "(403)"),
        (opensearch_errors.TransportError(503, "x", {"error": {"reason": "no node 10.0.0.7"}}), "(503)"),
        (opensearch_errors.NotFoundError(404, "<html>10.0.0.7</html>", "<html>10.0.0.7</html>"), "(404)"),
        (opensearch_errors.SerializationError("10.0.0.7"), UNTOLD),
    ],
)
def test_the_operators_words_and_the_strangers(error: opensearch_errors.OpenSearchException, word: str) -> None:
    explained = clusters.explained(error)
    assert "10.0.0.7" not in told(explained)
    assert word in told(explained)
    assert told(explained) != str(explained)


def test_what_a_cluster_says_of_a_request_is_told() -> None:
    for error in (
        opensearch_errors.NotFoundError(404, "x", {"error": {"reason": "no such index [things]"}}),
        opensearch_errors.RequestError(400, "x", {"error": {"reason": "Result window is too large"}}),
    ):
        explained = clusters.explained(error)
        assert told(explained) == str(explained)
        assert error.info["error"]["reason"] in told(explained)


def test_the_services_user_is_taken_out_of_each_part_of_an_answer() -> None:
    refused = {"error": {"type": "security_exception", "reason": NO_PERMISSION}, "status": 403}
    found = {"hits": {"hits": [{"_source": {"title": 'of "User" [name=x]'}}]}}
    body = json.dumps({"responses": [refused, found, refused]}).encode()
    answer = json.loads(_without_user(body, "application/json; charset=UTF-8"))
    assert USER not in json.dumps(answer)
    assert answer["responses"][1] == found
    assert answer["responses"][2]["error"]["reason"].startswith("no permissions for [indices:data/read/search] and")
    with pytest.raises(ClusterError) as caught:
        _without_user(b"\xbfdtypersecurity_exceptionfreasonUser [name=a", "application/cbor")
    assert told(caught.value) == "OpenSearch does not permit this to the service."


def test_an_answer_full_of_users_is_read_once() -> None:
    body = b'{"type":"security_exception","reason":"' + b"User [name=" * 500_000 + b'"}'
    assert len(_without_user(body, "application/json")) < 100


@pytest.mark.node
def test_a_client_with_a_user_of_its_own_hears_the_cluster_as_it_is(patient: Settings) -> None:
    async def sent(passage: Passage) -> Any:
        own = {"authorization": "Basic YTpi"}
        try:
            return await passage.send("GET", "/things/_search", headers=own, lend=True)
        finally:
            await passage.close()

    import asyncio

    with refusing(403, "security_exception", NO_PERMISSION) as url:
        answer = asyncio.run(sent(Passage(Cluster(url=url))))
    assert NO_PERMISSION in answer.body.decode()
