"""Fetching and laying out, from a small Maven repository on loopback that misbehaves on request."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from indexer.embedded import fetch, layout, process
from indexer.embedded.lock import Artifact, Lock, Module
from indexer.embedded.lock import load as load_lock
from indexer.errors import NodeError
from tests.waiting import until


class Repository(ThreadingHTTPServer):
    """Serves `files`.

    `corrupt` names come altered that many times; downloads stop half-way while `hold` is clear; `pause_s` follows
    each KB of the second half.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.corrupt: Counter[str] = Counter()
        self.pause_s = 0.0
        self.hold = threading.Event()
        self.hold.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if name not in self.server.files:
            self.send_error(404)
            return
        self.server.requests[name] += 1
        body = self.server.files[name]
        if self.server.corrupt[name] > 0:
            self.server.corrupt[name] -= 1
            body = b"!" + body[1:]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.server.hold.wait(30)
        rest = body[len(body) // 2 :]
        for start in range(0, len(rest), 1024):
            with suppress(ConnectionError):
                self.wfile.write(rest[start : start + 1024])
            time.sleep(self.server.pause_s)

    def log_request(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def repository() -> Iterator[Repository]:
    server = Repository()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()


def artifact(name: str, body: bytes, target: str, packaging: str = "jar") -> Artifact:
    return Artifact("shop.test", name, "1.0", packaging, len(body), hashlib.sha256(body).hexdigest(), (target,))


def zipped(names: dict[str, str]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in names.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def lock(repository: Repository) -> Lock:
    """A lock of two jars and one plugin, which the repository serves."""
    jars = {"core": b"core jar " * 8000, "painless": b"painless jar " * 8000}
    plugin = zipped({"plugin-descriptor.properties": "name=knn\n", "knn.jar": "knn jar"})
    repository.files = {f"{name}-1.0.jar": body for name, body in jars.items()} | {"knn-1.0.zip": plugin}
    return Lock(
        "3.6.0",
        21,
        (Module("lang-painless", "shop.Painless", ("core",)),),
        (
            artifact("core", jars["core"], "lib"),
            artifact("painless", jars["painless"], "modules/lang-painless"),
            artifact("knn", plugin, "plugins/knn", "zip"),
        ),
    )


def test_a_home_has_jars_modules_with_descriptors_and_unpacked_plugins(
    repository: Repository, lock: Lock, tmp_path: Path
) -> None:
    home = layout.ensure(lock, tmp_path, repository.address)
    assert (home / "lib" / "core-1.0.jar").read_bytes().startswith(b"core jar")
    assert (home / "plugins" / "knn" / "knn.jar").read_text() == "knn jar"
    descriptor = (home / "modules" / "lang-painless" / "plugin-descriptor.properties").read_text()
    assert "classname=shop.Painless\n" in descriptor
    assert "extended.plugins=core\n" in descriptor


def test_only_what_is_missing_is_fetched(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    assert fetch.fetch(lock.artifacts, tmp_path, repository.address) == 3
    fetch.cached(lock.artifacts[0], tmp_path).unlink()
    assert fetch.fetch(lock.artifacts, tmp_path, repository.address) == 1
    assert fetch.fetch(lock.artifacts, tmp_path, repository.address) == 0
    assert repository.requests == {"core-1.0.jar": 2, "painless-1.0.jar": 1, "knn-1.0.zip": 1}


def test_a_wrong_checksum_is_tried_once_more(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    repository.corrupt["core-1.0.jar"] = 1
    fetch.fetch(lock.artifacts, tmp_path, repository.address)
    assert repository.requests["core-1.0.jar"] == 2
    assert fetch.is_intact(lock.artifacts[0], fetch.cached(lock.artifacts[0], tmp_path))


def test_a_checksum_that_stays_wrong_is_an_error_and_nothing_is_kept(
    repository: Repository, lock: Lock, tmp_path: Path
) -> None:
    repository.corrupt["core-1.0.jar"] = 9
    with pytest.raises(NodeError, match=r"shop\.test:core:1\.0 came twice with a wrong checksum.*SHELFRANK_NODE_REPO"):
        fetch.fetch(lock.artifacts, tmp_path, repository.address)
    assert not [file for file in tmp_path.iterdir() if "core" in file.name or file.name.startswith("tmp-")]


def test_a_cached_file_that_was_altered_is_fetched_again(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    fetch.fetch(lock.artifacts, tmp_path, repository.address)
    altered = fetch.cached(lock.artifacts[0], tmp_path)
    altered.write_bytes(b"?" + altered.read_bytes()[1:])
    assert fetch.fetch(lock.artifacts, tmp_path, repository.address) == 1
    assert fetch.is_intact(lock.artifacts[0], altered)


def test_an_artifact_that_the_repository_lacks_is_named(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    del repository.files["knn-1.0.zip"]
    with pytest.raises(NodeError, match=r"shop\.test:knn:1\.0 is not in the repository"):
        fetch.fetch(lock.artifacts, tmp_path, repository.address)


def test_a_repository_that_is_away_is_a_network_error(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    repository.shutdown()
    repository.server_close()
    with pytest.raises(NodeError, match=r"could not be fetched: .*what has been fetched is kept"):
        fetch.fetch(lock.artifacts, tmp_path, repository.address)


def test_without_jgo_the_error_says_what_to_install(
    lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    with pytest.raises(NodeError, match=r"pip install 'shelfrank\[embedded\]'"):
        fetch.fetch(lock.artifacts, tmp_path)


FETCH = "import sys, msgspec; from pathlib import Path; from indexer.embedded import layout, lock; \
layout.ensure(msgspec.json.decode(sys.argv[1], type=lock.Lock), Path(sys.argv[2]), sys.argv[3])"


def fetching_process(lock: Lock, cache: Path, repository: Repository) -> subprocess.Popen[bytes]:
    arguments = [msgspec.json.encode(lock).decode(), str(cache), repository.address]
    return subprocess.Popen([sys.executable, "-c", FETCH, *arguments], stderr=subprocess.PIPE)


def test_a_fetch_that_is_killed_half_way_leaves_nothing_that_counts(
    repository: Repository, lock: Lock, tmp_path: Path
) -> None:
    repository.hold.clear()
    process = fetching_process(lock, tmp_path, repository)
    until(lambda: sum(repository.requests.values()) == 3)
    until(lambda: any(file.stat().st_size for file in tmp_path.rglob("*.jar")))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list((tmp_path / "files").glob("tmp-*"))
    assert not any(fetch.cached(each, tmp_path / "files").exists() for each in lock.artifacts)
    assert not layout.is_complete(tmp_path / lock.id, lock)

    repository.hold.set()
    home = layout.ensure(lock, tmp_path, repository.address)
    assert layout.is_complete(home, lock)
    assert not list((tmp_path / "files").glob("tmp-*"))


def test_ctrl_c_stops_a_fetch_and_cleans_up(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    repository.pause_s = 0.25  # the whole of `painless` would take 13 s
    process = fetching_process(lock, tmp_path, repository)
    until(lambda: sum(repository.requests.values()) == 3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert time.monotonic() - begin < 7
    assert not list((tmp_path / "files").glob("tmp-*"))


def test_two_processes_at_once_fetch_once(repository: Repository, lock: Lock, tmp_path: Path) -> None:
    repository.hold.clear()
    processes = [fetching_process(lock, tmp_path, repository) for _ in range(2)]
    until(lambda: sum(repository.requests.values()) == 3)
    time.sleep(0.5)
    repository.hold.set()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert set(repository.requests.values()) == {1}
    assert any(b"Waiting: another process fetches OpenSearch" in error for error in errors)


def test_a_home_without_its_marker_or_with_a_lost_jar_is_laid_out_anew(
    repository: Repository, lock: Lock, tmp_path: Path
) -> None:
    home = layout.ensure(lock, tmp_path, repository.address)
    (home / layout.COMPLETE).unlink()
    (home / "lib" / "left-over.jar").write_bytes(b"of an older build")
    layout.ensure(lock, tmp_path, repository.address)
    assert not (home / "lib" / "left-over.jar").exists()
    (home / "lib" / "core-1.0.jar").unlink()
    layout.ensure(lock, tmp_path, repository.address)
    assert (home / "lib" / "core-1.0.jar").is_file()
    assert set(repository.requests.values()) == {1}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 32 KB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    repository: Repository, lock: Lock, tiny_disk: Path
) -> None:
    with pytest.raises(NodeError, match=r"is full: 40 MB are needed, 0 MB are free.*SHELFRANK_NODE_CACHE_DIR"):
        layout.ensure(lock, tiny_disk, repository.address)
    assert not repository.requests


def test_a_disk_that_fills_up_while_fetching_is_told_and_cleaned(
    repository: Repository, lock: Lock, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ROOM", -10_000_000)
    with pytest.raises(NodeError, match=r"is full: .*SHELFRANK_NODE_CACHE_DIR"):
        layout.ensure(lock, tiny_disk, repository.address)
    assert not list((tiny_disk / "files").glob("tmp-*"))


def test_the_lock_that_ships_names_whole_files_and_their_places() -> None:
    lock = load_lock()
    assert lock.opensearch == "3.6.0"
    places = {target.split("/")[0] for each in lock.artifacts for target in each.targets}
    assert places == {"lib", "modules", "plugins"}
    assert all(len(each.sha256) == 64 and each.size > 0 for each in lock.artifacts)
    assert {"opensearch-knn", "neural-search"} <= {each.name for each in lock.artifacts}


def test_ml_commons_is_fetched_and_configured_only_where_it_is_asked_for(tmp_path: Path) -> None:
    default, more = load_lock(), load_lock(ml_commons=True)
    added = {each.name: each for each in set(more.artifacts) - set(default.artifacts)}
    assert {target for each in added.values() for target in each.targets} == {
        "plugins/opensearch-ml",
        "plugins/opensearch-job-scheduler",
    }
    assert more.id != default.id
    assert more.room - default.room == sum(each.size * (1 + (each.packaging == "zip")) for each in added.values())
    for name in process.FOLDERS:
        (tmp_path / name).mkdir()
    for chosen in (False, True):
        process.prepare(tmp_path, 9200, ml_commons=chosen)
        assert ("plugins.ml_commons" in (tmp_path / "config" / "opensearch.yml").read_text("utf-8")) is chosen


def test_a_lock_file_that_is_no_lock_says_so(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text('{"opensearch": 3}')
    with pytest.raises(NodeError, match=r"lock\.json cannot be read"):
        load_lock(tmp_path / "lock.json")
