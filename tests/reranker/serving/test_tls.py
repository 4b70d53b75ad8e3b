"""The service over TLS, and on the way to a cluster that speaks it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from opensearchpy import OpenSearch

from indexer.settings import Settings
from tests.reranker.serving.service import Running, running, with_serve


@pytest.mark.node
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl; `make test-tools` brings it")
def test_the_service_speaks_tls(patient: Settings, shop: str, tmp_path: Path) -> None:
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*request, *names, *files], cwd=tmp_path, check=True, capture_output=True)
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    with running(with_serve(patient, tls_cert=cert, tls_key=key)) as found:
        client = OpenSearch(hosts=[found.url], use_ssl=True, verify_certs=True, ca_certs=cert, timeout=60)
        answer = client.search(index=shop, body={"query": {"match": {"title": "bottle"}}})
        assert answer["ext"]["shelfrank"]["status"] == "applied"
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{found.url}/healthz")


@pytest.mark.node
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl; `make test-tools` brings it")
def test_curl_gets_reranked_hits(service: Running, shop: str) -> None:
    url, body = f"{service.url}/{shop}/_search?pretty", '{"query": {"match": {"title": "保温杯"}}, "size": 2}'
    command = ["curl", "-sS", "-i", "-H", "Content-Type: application/json", "-d", body, url]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "x-shelfrank-status: applied" in answer
    assert '"status":"applied"' in answer
