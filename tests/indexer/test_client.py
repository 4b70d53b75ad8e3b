"""The connection: what the cluster can do, and each way in which it fails; TLS by a real nginx before the node."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer.errors import ClusterError, ConfigError, NodeError
from indexer.settings import Cluster, Node, Settings

pytestmark = pytest.mark.node


def at(url: str, **others: str | float) -> Settings:
    return Settings(cluster=Cluster(url=url, **others))  # type: ignore[arg-type]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_cluster_says_what_it_can_do(client: OpenSearch, node_settings: Settings) -> None:
    found = clusters.capabilities(client)
    assert found.embedded == (not node_settings.cluster.url)
    if found.embedded:
        assert found.version == "3.6.0"
        assert (found.knn, found.neural_search) == (True, True)
        assert found.plugins == ("opensearch-knn", "opensearch-neural-search")


def test_the_meta_of_a_mapping_is_read_through_an_alias(client: OpenSearch) -> None:
    body = {"mappings": {"_meta": {"encoder": "e5"}}, "aliases": {"meta-test": {}}}
    client.indices.create(index="meta-test-1", body=body)
    try:
        assert clusters.index_meta(client, "meta-test") == {"meta-test-1": {"encoder": "e5"}}
    finally:
        client.indices.delete(index="meta-test-1")


def test_an_index_that_is_not_there_is_named(client: OpenSearch) -> None:
    with pytest.raises(ClusterError, match=r"does not have it \(404\): no such index \[nowhere\]"):
        clusters.index_meta(client, "nowhere")


def test_a_refused_request_tells_the_servers_reason(client: OpenSearch) -> None:
    with pytest.raises(ClusterError, match=r"refused the request \(400\): unknown query \[guess\]"):
        clusters.call(lambda: client.search(index="_all", body={"query": {"guess": {}}}))


def test_nobody_listening_is_a_cluster_error() -> None:
    with pytest.raises(ClusterError, match=r"cannot be reached: .*refused.*Check OPENSEARCH_URL"):
        clusters.connect(at(f"http://127.0.0.1:{free_port()}"))


def test_a_cluster_that_does_not_answer_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"did not answer in time.*SHELFRANK_CLUSTER_TIMEOUT_S"):
            clusters.connect(at(url, timeout_s=0.2))


def test_https_to_a_server_that_speaks_http_is_a_tls_error(node: str) -> None:
    with pytest.raises(ClusterError, match="No trusted TLS connection"):
        clusters.connect(at(node.replace("http://", "https://")))


@pytest.mark.parametrize("url", ["localhost:9200", "ftp://shop:9200", "https://", "http://shop:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"OPENSEARCH_URL .*https://search\.example\.com:9200"):
        clusters.connect(at(url))


@pytest.mark.parametrize("url", ["https://li:secret@shop:9200", "https://li:se/cret@shop:9200"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        clusters.connect(at(url))
    assert "secret" not in str(raised.value)
    assert "cret" not in str(raised.value)


def test_files_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r"OPENSEARCH_CA_FILE names '/no/ca\.pem', which is not a file"):
        clusters.connect(at("https://shop", ca_file="/no/ca.pem"))


def test_a_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch()
    with pytest.raises(ConfigError, match="OPENSEARCH_CLIENT_CERT"):
        clusters.connect(at("https://shop", client_key=str(tmp_path / "key.pem")))


@dataclass(frozen=True)
class Front:
    """An nginx with TLS and a password before the node; `strict` also wants a client certificate."""

    url: str
    strict_url: str
    ca: str
    other_ca: str
    cert: str
    key: str


PASSWORD = "pass word 密码"


@pytest.fixture(scope="module")
def front(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    if not shutil.which("nginx") or not shutil.which("openssl"):
        pytest.skip("there is no nginx or openssl; `make test-tools` brings them")
    if not node.startswith("http://"):
        pytest.skip("the OpenSearch of these tests has TLS of its own")
    folder = tmp_path_factory.mktemp("nginx")
    ca = authority(folder, "ca")
    other_ca = authority(folder, "other")
    signed(folder, "server", "ca")
    signed(folder, "client", "ca")
    (folder / "passwords").write_text(f"li:{{PLAIN}}{PASSWORD}\n", "utf-8")
    port, strict_port = free_port(), free_port()
    (folder / "nginx.conf").write_text(configuration(folder, node, port, strict_port))
    process = subprocess.Popen(["nginx", "-p", folder, "-c", "nginx.conf", "-e", "error.log"])
    try:
        for each in (port, strict_port):
            wait_for(each)
        yield Front(
            url=f"https://localhost:{port}",
            strict_url=f"https://localhost:{strict_port}",
            ca=ca,
            other_ca=other_ca,
            cert=str(folder / "client.pem"),
            key=str(folder / "client.key"),
        )
    finally:
        process.terminate()
        process.wait(10)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> str:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    return str(folder / f"{name}.pem")


def signed(folder: Path, name: str, ca: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    files = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key")
    openssl(folder, "x509", "-req", *files, "-CAcreateserial", "-days", "2", "-extfile", "names")


def configuration(folder: Path, node: str, port: int, strict_port: int) -> str:
    # Root's workers would become another user, who cannot read pytest's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    tls = f"ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;"
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi"))
    return f"""
    {user} daemon off; worker_processes 1; pid {folder}/pid;
    events {{ worker_connections 64; }}
    http {{
      access_log off; {temporary} scgi_temp_path {folder}/scgi;
      server {{
        listen 127.0.0.1:{port} ssl; {tls}
        auth_basic shop; auth_basic_user_file {folder}/passwords;
        location / {{ proxy_pass {node}; }}
        location /_cat/plugins {{ return 403; }}
      }}
      server {{
        listen 127.0.0.1:{strict_port} ssl; {tls}
        ssl_client_certificate {folder}/ca.pem; ssl_verify_client on;
        location / {{ proxy_pass {node}; }}
      }}
    }}
    """


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_right_authority_and_password_connect(front: Front) -> None:
    client = clusters.connect(at(front.url, user="li", password=PASSWORD, ca_file=front.ca))
    assert client.info()["version"]["distribution"] == "opensearch"
    assert "pass" not in repr(client)


@pytest.mark.parametrize("ca", ["other", "system"])
def test_an_authority_that_is_not_trusted_does_not_connect(front: Front, ca: str) -> None:
    file = front.other_ca if ca == "other" else ""
    with pytest.raises(ClusterError, match=r"No trusted TLS connection.*OPENSEARCH_CA_FILE"):
        clusters.connect(at(front.url, user="li", password=PASSWORD, ca_file=file))


def test_a_certificate_for_another_host_does_not_connect(front: Front) -> None:
    with pytest.raises(ClusterError, match=r"No trusted TLS connection.*one of the certificate's names"):
        clusters.connect(at(front.url.replace("localhost", "127.0.0.1"), ca_file=front.ca))


@pytest.mark.parametrize(("user", "password"), [("li", "wrong-secret"), ("wang", PASSWORD), ("", "")])
def test_a_wrong_password_is_told_and_not_repeated(
    front: Front, user: str, password: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(ClusterError, match=r"user or password \(401\).*OPENSEARCH_PASSWORD") as raised:
        clusters.connect(at(front.url, user=user, password=password, ca_file=front.ca))
    told = "".join([str(raised.value), repr(raised.value.__cause__), caplog.text, *capfd.readouterr()])
    assert "wrong-secret" not in told
    assert "pass word" not in told


def test_what_the_user_may_not_do_is_told(front: Front) -> None:
    client = clusters.connect(at(front.url, user="li", password=PASSWORD, ca_file=front.ca))
    with pytest.raises(ClusterError, match=r"does not permit this to the user \(403\)"):
        clusters.capabilities(client)


def test_a_client_certificate_is_shown_to_the_cluster(front: Front) -> None:
    with pytest.raises(ClusterError, match=r"refused the request \(400\)"):
        clusters.connect(at(front.strict_url, ca_file=front.ca))
    client = clusters.connect(at(front.strict_url, ca_file=front.ca, client_cert=front.cert, client_key=front.key))
    assert client.info()["version"]["distribution"] == "opensearch"


def test_a_ca_file_that_is_no_certificate_is_told(front: Front, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises((ClusterError, ConfigError), match=r"OPENSEARCH_CA_FILE|ca\.pem"):
        clusters.connect(at(front.url, ca_file=str(tmp_path / "ca.pem")))


def test_without_an_address_the_embedded_node_is_used(node_settings: Settings) -> None:
    if node_settings.cluster.url:
        pytest.skip("these tests use the cluster of OPENSEARCH_URL")
    assert clusters.capabilities(clusters.connect(node_settings)).embedded


def test_an_address_means_that_nothing_is_started(node: str, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    impossible = Node(data_dir=str(tmp_path))
    with pytest.raises(NodeError):
        clusters.connect(Settings(node=impossible))
    assert clusters.connect(Settings(cluster=Cluster(url=node), node=impossible)).info()
