"""API keys: what lets in, what does not, and that a file of them can change while the service runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from indexer.errors import ConfigError, UsageError
from indexer.settings import Serve, Settings
from reranker.serving.command import _check, keys
from reranker.serving.keys import VARIABLE, Keys, new
from tests.reranker.serving.service import running, with_serve

BODY = {"query": {"match": {"title": "cup"}}}


def test_a_new_key_is_found_by_its_line_alone() -> None:
    key, line = new("shop", "search,rerank")
    assert key not in line
    found = Keys({VARIABLE: f"# the shop's\n{line}; {new('other', 'admin')[1]}"}).find(key)
    assert found is not None
    assert (found.name, found.rights) == ("shop", {"search", "rerank"})
    assert Keys({VARIABLE: line}).find(key[:-1]) is None
    assert Keys({VARIABLE: line}).find("") is None


@pytest.mark.parametrize("line", ["shop search", "shop search abc", f"shop see {'0' * 64}", f"shop search {'x' * 64}"])
def test_a_bad_line_is_named_and_not_repeated(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2") as caught:
        Keys({VARIABLE: f"# keys\n{line}"})
    assert "xxx" not in str(caught.value)


def test_a_key_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    old, line = new("old", "search")
    file.write_text(line, "utf-8")
    found = Keys({}, str(file))
    assert found.find(old)
    young, line = new("young", "search")
    replace(file, line)
    assert found.find(young)
    assert not found.find(old)
    replace(file, "nonsense")
    assert found.find(young)
    file.unlink()
    assert found.find(young)
    with pytest.raises(ConfigError, match=r"keys_file"):
        Keys({}, str(tmp_path / "missing"))


def replace(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text, "utf-8")
    beside.rename(file)


def test_the_command_shows_a_key_once() -> None:
    shown = CliRunner().invoke(keys, ["new", "website", "--rights", "search"])
    assert shown.exit_code == 0
    assert "sr_" in shown.output
    with pytest.raises(ConfigError, match="rights"):
        CliRunner().invoke(keys, ["new", "website", "--rights", "all"], catch_exceptions=False)


def test_no_other_machine_is_served_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UsageError, match="without API keys"):
        _check(Settings(serve=Serve(host="0.0.0.0")))
    with pytest.raises(UsageError, match=r"listen on 192\.0\.2\.7 without API keys"):
        _check(Settings(serve=Serve(host="127.0.0.1", ops_host="192.0.2.7")))
    _check(Settings(serve=Serve(host="127.0.0.1")))
    monkeypatch.setenv(VARIABLE, new("a", "search")[1])
    _check(Settings(serve=Serve(host="0.0.0.0")))
    with pytest.raises(ConfigError, match="go together"):
        _check(Settings(serve=Serve(tls_cert=__file__)))


@pytest.mark.node
def test_each_endpoint_needs_its_right(patient: Settings, shop: str, tmp_path: Path) -> None:
    made = {right: new(right, right) for right in ("search", "rerank", "admin")}
    file = tmp_path / "keys"
    file.write_text("\n".join(line for _, line in made.values()), "utf-8")
    with running(with_serve(patient, keys_file=str(file))) as found:
        calls = {
            "search": [
                ("POST", f"/{shop}/_search", BODY),
                ("GET", f"/{shop}/_mapping", None),
                ("POST", "/v1/search", {"index": shop, "query": "cup"}),
                ("GET", "/v1/about", None),
                ("POST", "/v1/events", {"action_name": "click", "query_id": "q", "client_id": "c"}),
            ],
            "rerank": [
                ("POST", "/v1/rerank", {"query": "cup", "documents": ["cup"]}),
                ("POST", "/v2/rerank", {"query": "cup", "documents": ["cup"]}),
                ("POST", "/rerank", {"query": "cup", "texts": ["cup"]}),
                ("POST", "/v1/embeddings", {"input": "cup"}),
            ],
            "admin": [("GET", "/metrics", None)],
        }
        for right, requests in calls.items():
            for method, path, body in requests:
                for presented, (key, _) in made.items():
                    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                        status = found.http.request(method, path, json=body, headers=headers).status_code
                        assert (status in (200, 202)) == (presented == right), (path, presented, status)
                        assert status in (200, 202, 403)
                for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic YTpi"}):
                    answer = found.http.request(method, path, json=body, headers=headers)
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/_shelfrank/"):
            assert found.http.get(path).status_code == 200
