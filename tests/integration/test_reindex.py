"""A new index beside the live one, on a real node: whole, examined, switched, and led back, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as NoConnection

from indexer import aliases, jobs, tombstones
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience
from indexer.settings import Ingest, Settings
from ingest.documents import stored_entry
from ingest.job import Job
from ingest.job import Options as IngestOptions
from ingest.reindex import operations
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile, FromStored
from ingest.report import Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from tests.integration.clearing import remove
from tests.integration.standin import StandIn

NAME = "test-reindex"
SETTINGS = Settings(ingest=Ingest(batch=50, patience_s=60.0))
MAPPING = '[columns]\nid = "sku"\ntitle = "name"\nprice = "price"\nversion = "version"\n[values]\ncurrency = "USD"\n'


@pytest.fixture
def empty(client: OpenSearch) -> Iterator[OpenSearch]:
    remove(client, NAME)
    yield client
    remove(client, NAME)


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(MAPPING)
    return path


def catalogue(folder: Path, rows: Sequence[tuple[str, str, str, str]], name: str = "shop.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["sku,name,price,version", *(",".join(row) for row in rows), ""]), "utf-8")
    return path


def lamps(count: int, price: int = 10) -> list[tuple[str, str, str, str]]:
    return [(f"p{number:04}", f"Lamp model {number} 台灯", str(price + number % 90), "") for number in range(count)]


def ingest(client: OpenSearch, path: Path, mapping: Path, models: StandIn | None = None) -> Report:
    models = models or StandIn()
    options = IngestOptions(NAME, path.with_suffix(".rejected.jsonl"))
    return Job(client, open_catalogue(path, load_mapping(str(mapping))), models, models, SETTINGS, options).run()


def from_stored(client: OpenSearch, folder: Path, models: StandIn, **chosen: Any) -> Reindex:
    live = aliases.live(client, NAME)
    assert live is not None
    origin = FromStored(client, live.index, Patience(60.0))
    extra = {key: chosen.pop(key) for key in ("stop", "on_progress", "lease_s") if key in chosen}
    return Reindex(client, origin, models, models, SETTINGS, Options(NAME, folder / "x.jsonl", **chosen), **extra)


def from_file(client: OpenSearch, path: Path, mapping: Path, models: StandIn, **chosen: Any) -> Reindex:
    extra = {key: chosen.pop(key) for key in ("stop", "on_progress", "lease_s") if key in chosen}
    options = Options(NAME, path.with_suffix(".rejected.jsonl"), **chosen)
    return Reindex(client, FromFile(path, str(mapping)), models, models, SETTINGS, options, **extra)


def documents(client: OpenSearch, index: str = NAME) -> dict[str, dict[str, Any]]:
    client.indices.refresh(index=index)
    hits = client.search(index=index, body={"size": 10_000, "query": {"match_all": {}}})["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


def live_index(client: OpenSearch) -> str:
    found = aliases.live(client, NAME)
    assert found is not None
    return found.index


def put(client: OpenSearch, index: str, name: str, title: str, version: int | None = None) -> None:
    """A change by somebody else."""
    models = StandIn()
    from ingest.documents import Entry, Maker

    entry = Entry({"id": name, "title": title, "language": "en"}, version=version)
    [source] = Maker(models, models).sources([entry])
    client.index(index=index, id=name, body=source)


def bury(client: OpenSearch, index: str, name: str, version: int = 5) -> None:
    """A deletion as a feed makes it."""
    tombstones.write(client, NAME, {name: version}, Patience(10.0))
    client.delete(index=index, id=name)


def disturb(client: OpenSearch, index: str) -> None:
    """A change, a new product and a deletion by others."""
    put(client, index, "p0001", "Changed")
    put(client, index, "new-1", "New")
    bury(client, index, "p0002")


def assert_disturbed(found: dict[str, dict[str, Any]], count: int) -> None:
    assert (found["p0001"]["title"], found["new-1"]["title"], len(found)) == ("Changed", "New", count)
    assert "p0002" not in found


@pytest.mark.node
def test_new_vectors_come_from_what_is_stored(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, lamps(130)), mapping)
    before, old = documents(empty), live_index(empty)
    models = StandIn("stand-in-2")
    report = from_stored(empty, tmp_path, models).start()
    assert (report.read, report.written, report.failed) == (130, 130, 0)
    after = documents(empty)
    assert live_index(empty) == report.index != old
    assert len(set(models.embedded)) == 130
    assert {source["vector_bundle"] for source in after.values()} == {"stand-in-2"}
    for name, source in after.items():
        assert stored_entry(source).product == stored_entry(before[name]).product
    assert operations.status(empty, NAME).kept == [old]


@pytest.mark.node
def test_with_the_same_models_nothing_is_embedded_again_but_the_sample(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(130)), mapping)
    models = StandIn()
    from_stored(empty, tmp_path, models, sample=7).start()
    assert len(models.embedded) == 7
    assert len(documents(empty)) == 130


@pytest.mark.node
def test_a_file_becomes_the_catalogue_and_what_left_it_is_gone(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(60)), mapping)
    report = from_file(empty, catalogue(tmp_path, lamps(50, price=20)), mapping, StandIn()).start()
    found = documents(empty)
    assert sorted(found) == [f"p{number:04}" for number in range(50)]
    assert found["p0000"]["price"] == 20
    assert report.written == 50


@pytest.mark.node
def test_the_first_index_of_a_catalogue_is_seen_when_it_is_whole(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    seen: list[bool] = []
    job = from_file(
        empty,
        catalogue(tmp_path, lamps(120)),
        mapping,
        StandIn(),
        on_progress=lambda *_: seen.append(bool(empty.indices.exists_alias(name=NAME))),
    )
    job.start()
    assert seen
    assert not any(seen)
    assert len(documents(empty)) == 120


@pytest.mark.node
def test_what_changes_meanwhile_is_there_afterwards(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, lamps(200)), mapping)
    old = live_index(empty)
    done: list[str] = []

    def meanwhile(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and at >= 100 and "build" not in done:
            done.append("build")
            put(empty, old, "p0001", "Changed behind the reading")
            put(empty, old, "p0199", "Changed before the reading")
            put(empty, old, "new-1", "New during the build")
            bury(empty, old, "p0002")
            empty.delete(index=old, id="p0003")  # past shelfrank: no tombstone
            bury(empty, old, "p0004")
            put(empty, old, "p0004", "Back after its deletion", version=6)
        if phase == "Switch" and "switch" not in done:
            done.append("switch")
            put(empty, old, "p0005", "Changed at the last moment")
            bury(empty, old, "p0006")

    from_stored(empty, tmp_path, StandIn("stand-in-2"), on_progress=meanwhile).start()
    assert done == ["build", "switch"]
    found = documents(empty)
    assert found["p0001"]["title"] == "Changed behind the reading"
    assert found["p0199"]["title"] == "Changed before the reading"
    assert found["new-1"]["title"] == "New during the build"
    assert found["p0004"]["title"] == "Back after its deletion"
    assert found["p0005"]["title"] == "Changed at the last moment"
    assert not {"p0002", "p0003", "p0006"} & found.keys()
    assert len(found) == 200 + 1 - 3
    assert {source["vector_bundle"] for source in found.values()} == {"stand-in-2"}


@pytest.mark.node
def test_what_changes_while_a_file_is_read_wins_over_the_file(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, lamps(120)), mapping)
    old = live_index(empty)
    done: list[int] = []

    def meanwhile(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and at >= 50 and not done:
            done.append(at)
            disturb(empty, old)

    from_file(empty, catalogue(tmp_path, lamps(120)), mapping, StandIn(), on_progress=meanwhile).start()
    assert_disturbed(documents(empty), 120)


@pytest.mark.node
@pytest.mark.parametrize("origin", ["stored", "file"])
def test_what_was_brought_over_before_a_crash_is_there_after_the_resumed_job(
    empty: OpenSearch, tmp_path: Path, mapping: Path, origin: str
) -> None:
    path = catalogue(tmp_path, lamps(120))
    ingest(empty, path, mapping)
    old = live_index(empty)
    done: list[str] = []

    def crash(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and at >= 50 and not done:
            done.append(phase)
            disturb(empty, old)
        if phase == "Verify" and done == ["Build"]:
            done.append(phase)
            raise RuntimeError("made by the test, after the changes were brought over")

    def job() -> Reindex:
        if origin == "file":
            return from_file(empty, path, mapping, StandIn("s-2"), on_progress=crash)
        return from_stored(empty, tmp_path, StandIn("s-2"), on_progress=crash)

    with pytest.raises(RuntimeError, match="made by the test"):
        job().start()
    assert live_index(empty) == old
    job().resume()
    assert_disturbed(documents(empty), 120)


@pytest.mark.node
def test_a_file_gives_way_to_newer_versions_and_tombstones(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, [("a", "Old", "1", "5"), ("b", "B", "1", "5"), ("c", "C", "1", "5")]), mapping)
    put(empty, live_index(empty), "a", "Newer", version=9)
    bury(empty, live_index(empty), "b", 7)
    rows = [("a", "From the file", "1", "8"), ("b", "From the file", "1", "6"), ("c", "From the file", "1", "6")]
    report = from_file(empty, catalogue(tmp_path, rows), mapping, StandIn()).start()
    found = documents(empty)
    assert {name: source["title"] for name, source in found.items()} == {"a": "Newer", "c": "From the file"}
    assert (report.superseded, report.deleted) == (1, 1)
    [letter] = [msgspec.json.decode(line) for line in Path(report.dead_letter).read_bytes().splitlines()]
    assert letter["value"] == "b"
    assert "version 7" in letter["reason"]


@pytest.mark.node
def test_a_stopped_job_goes_on_where_it_was(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, lamps(200)), mapping)
    old, stop = live_index(empty), threading.Event()
    job = from_stored(
        empty, tmp_path, StandIn("stand-in-2"), stop=stop, on_progress=lambda phase, at, _: at >= 100 and stop.set()
    )
    assert job.start().stopped
    assert live_index(empty) == old
    with pytest.raises(UsageError, match=r"is open .*resume"):
        from_stored(empty, tmp_path, StandIn("stand-in-2")).start()
    with pytest.raises(UsageError, match="encoder stand-in-2"):
        from_stored(empty, tmp_path, StandIn("stand-in-3")).resume()
    models = StandIn("stand-in-2")
    report = from_stored(empty, tmp_path, models, sample=0).resume()
    assert (len(models.embedded), report.unchanged) == (100, 100)
    assert len(documents(empty)) == 200
    assert {source["vector_bundle"] for source in documents(empty).values()} == {"stand-in-2"}


@pytest.mark.node
def test_a_job_that_is_stopped_while_it_waits_for_the_cluster_has_not_begun(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    stop = threading.Event()
    stop.set()
    away = OpenSearch(hosts=["http://127.0.0.1:9"], timeout=2, max_retries=0)
    report = from_file(away, catalogue(tmp_path, lamps(3)), mapping, StandIn(), stop=stop).start()
    assert (report.stopped, report.index) == (True, "")
    assert not jobs.Board(empty).read(NAME).is_open


@pytest.mark.node
def test_a_job_begins_also_when_the_answer_to_its_first_note_is_lost(
    empty: OpenSearch, tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(10)), mapping)
    write, lost = empty.index, list[str]()

    def cut(**given: Any) -> Any:
        answer = write(**given)
        if given["body"].get("phase") == "build" and not lost:
            lost.append(given["id"])
            raise NoConnection("N/A", "cut", Exception("cut"))
        return answer

    monkeypatch.setattr(empty, "index", cut)
    report = from_stored(empty, tmp_path, StandIn("stand-in-2")).start()
    assert lost == [NAME]
    assert live_index(empty) == report.index


@pytest.mark.node
def test_two_jobs_do_not_meet(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    path = catalogue(tmp_path, lamps(120))
    ingest(empty, path, mapping)
    refused: list[str] = []

    def intrude(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and not refused:
            for attempt in (
                lambda: from_stored(empty, tmp_path, StandIn("stand-in-2")).resume(),
                lambda: ingest(empty, path, mapping),
                lambda: operations.clean(empty, NAME, 0),
            ):
                with pytest.raises(ClusterError, match="works on test-reindex"):
                    attempt()
                refused.append("")

    # Who comes waits for the next sign of life.
    from_stored(empty, tmp_path, StandIn("stand-in-2"), on_progress=intrude, lease_s=4.0).start()
    assert len(refused) == 3
    assert len(documents(empty)) == 120


@pytest.mark.node
def test_a_job_that_slept_through_its_lease_touches_nothing_more(
    empty: OpenSearch, tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(200)), mapping)
    taken: list[Report] = []

    def take_over(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and at >= 100 and not taken:
            time.sleep(1.2)
            taken.append(from_stored(empty, tmp_path, StandIn("stand-in-2")).resume())

    # The process stood still, and so did what renews its lease.
    monkeypatch.setattr(jobs.Lease, "_renewing", lambda self: None)
    sleeper = from_stored(empty, tmp_path, StandIn("stand-in-2"), on_progress=take_over, lease_s=1.0)
    with pytest.raises(jobs.LostError, match=r"another one has taken over"):
        sleeper.start()
    assert live_index(empty) == taken[0].index
    assert sleeper.report.written == 100
    assert len(documents(empty)) == 200
    assert jobs.Board(empty).read(NAME).phase == "done"


def zeroed(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors[::2] = 0
    vectors[::2, 0] = 1e-3
    return vectors


class Spoiling(StandIn):
    """Spoils what it makes until told to stop, as a broken build would; the examination sees it with honest models."""

    def __init__(self, bundle_id: str, spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        super().__init__(bundle_id)
        self.spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = spoil

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        vectors = super().embed_products(products)
        return self.spoil(vectors) if self.spoil else vectors


def refused(client: OpenSearch, job: Reindex, old: str, check: str) -> None:
    with pytest.raises(ClusterError, match=rf"refused and the old one stays live.*{check}"):
        job.start()
    assert live_index(client) == old
    assert jobs.Board(client).read(NAME).phase == "refused"
    put(client, old, "p0000", "The live index takes writes")


@pytest.mark.node
def test_half_the_vectors_zeroed_are_refused(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, lamps(100)), mapping)
    models = Spoiling("stand-in-2", zeroed)

    def honest(phase: str, at: int, total: int | None) -> None:
        if phase == "Verify":
            models.spoil = None

    refused(
        empty, from_stored(empty, tmp_path, models, on_progress=honest), live_index(empty), "vector values: 50 of 100"
    )


@pytest.mark.node
def test_another_bundle_s_vectors_are_refused(empty: OpenSearch, tmp_path: Path, mapping: Path) -> None:
    ingest(empty, catalogue(tmp_path, lamps(100)), mapping)
    models = StandIn("stand-in-2")

    def changed(phase: str, at: int, total: int | None) -> None:
        if phase == "Verify":
            target = jobs.Board(empty).read(NAME).target
            script = {"source": "ctx._source.vector_bundle = 'other'", "lang": "painless"}
            body = {"query": {"terms": {"_id": ["p0004", "p0005"]}}, "script": script}
            empty.update_by_query(index=target, body=body, params={"refresh": "true"})

    job = from_stored(empty, tmp_path, models, on_progress=changed, sample=0)
    refused(empty, job, live_index(empty), "vectors: 98 of 100")


@pytest.mark.node
@pytest.mark.parametrize("origin", ["stored", "file"])
def test_one_percent_missing_is_refused(empty: OpenSearch, tmp_path: Path, mapping: Path, origin: str) -> None:
    path = catalogue(tmp_path, lamps(100))
    ingest(empty, path, mapping)

    def lose(phase: str, at: int, total: int | None) -> None:
        if phase == "Switch":
            empty.delete(index=jobs.Board(empty).read(NAME).target, id="p0042")

    make = from_stored(empty, tmp_path, StandIn("s-2"), on_progress=lose) if origin == "stored" else None
    job = make or from_file(empty, path, mapping, StandIn("s-2"), on_progress=lose)
    refused(empty, job, live_index(empty), "count: 99 documents, expected 100")


@pytest.mark.node
def test_a_document_that_the_cluster_refuses_keeps_the_old_index_live(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(100)), mapping)

    def broken(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        vectors[3] = np.nan
        return vectors

    job = from_stored(empty, tmp_path, Spoiling("stand-in-2", broken), sample=0)
    refused(empty, job, live_index(empty), "written: 2 products")


@pytest.mark.node
def test_a_last_change_that_the_new_index_refuses_keeps_the_old_one_live(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(100)), mapping)
    old = live_index(empty)

    def broken(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return vectors * np.nan

    models = Spoiling("stand-in-2", broken)
    models.spoil = None

    def at_the_end(phase: str, at: int, total: int | None) -> None:
        if phase == "Switch":
            put(empty, old, "p0001", "Changed at the last moment")
            models.spoil = broken

    refused(empty, from_stored(empty, tmp_path, models, on_progress=at_the_end), old, "written: 1 products")


@pytest.mark.node
def test_a_rollback_brings_back_the_old_index_with_what_changed_since(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(60)), mapping)
    first = live_index(empty)
    second = from_stored(empty, tmp_path, StandIn("stand-in-2")).start().index
    bury(empty, second, "p0002")
    put(empty, second, "p0001", "Changed since")
    with pytest.raises(ClusterError, match="encoder stand-in-1"):
        operations.rollback(empty, NAME, StandIn("stand-in-2"), StandIn(), SETTINGS)
    assert operations.rollback(empty, NAME, StandIn(), StandIn(), SETTINGS) == (first, 2)
    found = documents(empty)
    assert live_index(empty) == first
    assert (found["p0001"]["title"], len(found)) == ("Changed since", 59)
    assert {source["vector_bundle"] for source in found.values()} == {"stand-in-1"}
    put(empty, first, "p0003", "Takes writes again")
    models = StandIn("stand-in-2")
    assert operations.rollback(empty, NAME, models, models, SETTINGS) == (second, 1)
    assert documents(empty)["p0003"]["title"] == "Takes writes again"


@pytest.mark.node
def test_cancel_leaves_the_live_index_and_clean_keeps_the_last(
    empty: OpenSearch, tmp_path: Path, mapping: Path
) -> None:
    ingest(empty, catalogue(tmp_path, lamps(60)), mapping)
    first = live_index(empty)
    second = from_stored(empty, tmp_path, StandIn("stand-in-2")).start().index
    third = from_stored(empty, tmp_path, StandIn("stand-in-3")).start().index
    stop = threading.Event()
    stop.set()
    job = from_stored(empty, tmp_path, StandIn("stand-in-4"), stop=stop)
    assert job.start().stopped
    target = jobs.Board(empty).read(NAME).target
    assert operations.clean(empty, NAME, 1, dry_run=True) == [first]
    assert operations.cancel(empty, NAME).phase == "cancelled"
    assert not empty.indices.exists(index=target)
    with pytest.raises(UsageError, match="No reindex of test-reindex is open"):
        operations.cancel(empty, NAME)
    assert operations.clean(empty, NAME, 1) == [first]
    shown = operations.status(empty, NAME)
    assert (shown.live, shown.kept, shown.leftovers, shown.documents) == (third, [second], [], 60)
