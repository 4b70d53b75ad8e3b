"""Settings: which source wins, what is refused, and that no password shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from indexer import settings
from indexer.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "shop.toml"
    file.write_text(text, "utf-8")
    return file


def test_the_file_wins_over_defaults_and_the_environment_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[search]\nwindow = 70\nsize = 20\n")
    loaded = settings.load(file, environ={"SHELFRANK_SEARCH_SIZE": "30"})
    assert (loaded.search.window, loaded.search.size, loaded.search.depth) == (70, 30, 400)


def test_the_file_can_be_named_in_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path, "[node]\nport = 9201\n")
    assert settings.load(environ={"SHELFRANK_CONFIG": str(file)}).node.port == 9201


def test_the_model_registry_can_be_moved(tmp_path: Path) -> None:
    file = written(tmp_path, '[models]\nhome = "/srv/模型"\n')
    assert settings.load(file, environ={}).models.home == "/srv/模型"
    assert settings.load(file, environ={"SHELFRANK_MODELS_HOME": "/srv/models"}).models.home == "/srv/models"


def test_opensearch_variables_say_where_the_cluster_is() -> None:
    environ = {"OPENSEARCH_URL": "https://shop:9200", "OPENSEARCH_USER": "李", "OPENSEARCH_PASSWORD": "密码"}
    cluster = settings.load(environ=environ).cluster
    assert (cluster.url, cluster.user, cluster.password) == ("https://shop:9200", "李", "密码")


def test_opensearch_variables_win_over_the_file_and_over_the_sections_own(tmp_path: Path) -> None:
    file = written(tmp_path, '[cluster]\nurl = "http://file:9200"\n')
    section, cluster = {"SHELFRANK_CLUSTER_URL": "http://section:9200"}, {"OPENSEARCH_URL": "http://cluster:9200"}
    found = [settings.load(file, environ=environ).cluster.url for environ in ({}, section, section | cluster)]
    assert found == ["http://file:9200", "http://section:9200", "http://cluster:9200"]


def test_credentials_in_the_address_move_to_their_own_fields() -> None:
    loaded = settings.load(environ={"OPENSEARCH_URL": "https://li:p%40ss@shop:9200/search"})
    assert loaded.cluster.url == "https://shop:9200/search"
    assert (loaded.cluster.user, loaded.cluster.password) == ("li", "p@ss")


def test_credentials_in_the_address_may_not_contradict_the_others() -> None:
    environ = {"OPENSEARCH_URL": "https://li:secret@shop", "OPENSEARCH_PASSWORD": "other"}
    with pytest.raises(ConfigError, match="other credentials") as raised:
        settings.load(environ=environ)
    assert "secret" not in str(raised.value)


def test_a_password_that_breaks_the_address_is_not_taken_for_a_path() -> None:
    with pytest.raises(ConfigError, match="OPENSEARCH_PASSWORD") as raised:
        settings.load(environ={"OPENSEARCH_URL": "https://li:se/cret@shop"})
    assert "cret" not in str(raised.value)


def test_a_password_shows_nowhere() -> None:
    loaded = settings.load(environ={"OPENSEARCH_URL": "https://li:secret@shop"})
    told = f"{loaded} {loaded.cluster!r} {pretty_repr(loaded)} {settings.shown(loaded)}"
    assert "secret" not in told
    assert settings.shown(loaded)["cluster"]["password"] == "(set)"


@pytest.mark.parametrize("text", ['[cluster]\npassword = "secret"', '[cluster]\nurl = "https://li:secret@shop"'])
def test_a_file_may_hold_no_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="OPENSEARCH_PASSWORD only") as raised:
        settings.load(written(tmp_path, text), environ={})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search]\nwindow = 'many'", r"shop\.toml .*search\.window"),
        ("[search]\nwindows = 50", r"shop\.toml .*windows"),
        ("[shop]\nname = 1", r"shop\.toml .*shop"),
        ("[search]\nmode = 'magic'", r"shop\.toml .*search\.mode"),
        ("[ingest]\nbulk_requests = 0", r"shop\.toml .*>= 1.*ingest\.bulk_requests"),
        ("cluster = 3", r"shop\.toml .*cluster"),
        ("[search", "is not valid TOML"),
    ],
)
def test_what_a_file_may_not_hold_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.load(written(tmp_path, text), environ={})


def test_a_variable_that_is_not_allowed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"node\.port"):
        settings.load(environ={"SHELFRANK_NODE_PORT": "http"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        settings.load(tmp_path / "none.toml", environ={})


def test_every_setting_has_a_variable_and_the_clusters_have_their_own_names() -> None:
    assert settings.variable("node", "heap_mb") == "SHELFRANK_NODE_HEAP_MB"
    assert settings.variable("cluster", "ca_file") == "OPENSEARCH_CA_FILE"
    assert settings.variable("cluster", "timeout_s") == "SHELFRANK_CLUSTER_TIMEOUT_S"
