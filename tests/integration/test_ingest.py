"""A catalogue file becomes an index on a real node, whatever happens on the way.

The models' part is played by a stand-in that is quick and counts what it is asked; the command is tested with
the real bundles.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from indexer import aliases, jobs
from indexer import client as clusters
from indexer import node as nodes
from indexer.cli import main
from indexer.errors import ClusterError, InputError, UsageError
from indexer.settings import Ingest, Node, Settings
from ingest.job import Job, Options
from ingest.reindex import operations
from ingest.reindex.job import Options as ReindexOptions
from ingest.reindex.job import Reindex
from ingest.reindex.origins import FromFile
from ingest.report import Report
from ingest.schema import CatalogMapping, Columns, Values, load_mapping
from ingest.sources import open_catalogue
from reranker.text import unpack_ids
from tests.integration.clearing import remove
from tests.integration.faults import start_again
from tests.integration.standin import StandIn
from tests.waiting import until
from tests.workers import LONG

NAME = "test-ingest"
MAPPING = CatalogMapping(
    Columns(id="sku", title="name", brand="maker", category="path", price="price"), Values(currency="USD")
)


@pytest.fixture
def empty(client: OpenSearch) -> Iterator[OpenSearch]:
    remove(client, NAME)
    yield client
    remove(client, NAME)


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "shop.csv"
    path.write_text("\n".join(["sku,name,maker,path,price", *lines, ""]), "utf-8")
    return path


def numbered(folder: Path, count: int) -> Path:
    return csv(
        folder,
        *(f"p{number},Lamp model {number} 台灯,Lumora,Home > Lamps,{number % 90 + 10}" for number in range(count)),
    )


def job(client: OpenSearch, path: Path, models: StandIn, mapping: CatalogMapping = MAPPING, **chosen: Any) -> Job:
    settings = Settings(ingest=Ingest(batch=chosen.pop("batch", 50), patience_s=chosen.pop("patience_s", 60.0)))
    extra = {name: chosen.pop(name) for name in ("stop", "on_progress", "lease_s") if name in chosen}
    options = Options(NAME, path.with_suffix(".rejected.jsonl"), **chosen)
    return Job(client, open_catalogue(path, mapping), models, models, settings, options, **extra)


def run(client: OpenSearch, path: Path, models: StandIn, mapping: CatalogMapping = MAPPING, **chosen: Any) -> Report:
    return job(client, path, models, mapping, **chosen).run()


def stored(client: OpenSearch, name: str) -> dict[str, Any]:
    source: dict[str, Any] = client.get(index=NAME, id=name)["_source"]
    return source


def live(client: OpenSearch) -> str:
    found = aliases.live(client, NAME)
    assert found is not None
    return found.index


def written(client: OpenSearch) -> int:
    """Documents in the catalogue's indexes, seen or not."""
    client.indices.refresh(index=f"{NAME}-*")
    return int(client.count(index=f"{NAME}-*")["count"])


def from_file(client: OpenSearch, path: Path, **chosen: Any) -> Reindex:
    mapping = path.with_suffix(".toml")
    columns = 'id = "sku"\ntitle = "name"\nbrand = "maker"\ncategory = "path"\nprice = "price"\n'
    mapping.write_text(f'[columns]\n{columns}[values]\ncurrency = "USD"\n')
    models, options = StandIn(), ReindexOptions(NAME, path.with_suffix(".r.jsonl"))
    return Reindex(client, FromFile(path, str(mapping)), models, models, Settings(), options, **chosen)


def count(client: OpenSearch) -> int:
    return int(client.count(index=NAME)["count"])


@pytest.mark.node
def test_a_product_arrives_whole(empty: OpenSearch, tmp_path: Path) -> None:
    models = StandIn()
    report = run(empty, csv(tmp_path, "7,<b>保温杯</b> ５００ｍｌ,Lumora,家居 > 杯子,¥99"), models)
    assert (report.read, report.clean, report.rejected, report.written) == (1, 1, 0, 1)
    document = stored(empty, "7")
    vector = document.pop("vector")
    assert np.allclose(vector, models.embed_products([{"id": "7", "title": "保温杯 500ml"}])[0], atol=1e-7)
    assert unpack_ids(document.pop("rerank_tokens")) == [ord(character) for character in "保温杯 500ml"]
    assert len(document.pop("content_hash")) == 32
    assert document.pop("ingested_at").startswith("2")
    assert document == {
        "id": "7",
        "title": "保温杯 500ml",
        "brand": "Lumora",
        "category": ["家居", "杯子"],
        "category_path": ["家居", "家居 > 杯子"],
        "price": 99.0,
        "currency": "USD",
        "language": "zh",
        "flags": [],
        "vector_bundle": "stand-in-1",
        "rerank_bundle": "tokens-1",
    }


@pytest.mark.node
def test_a_second_run_embeds_and_writes_nothing(empty: OpenSearch, tmp_path: Path) -> None:
    path = numbered(tmp_path, 120)
    assert run(empty, path, StandIn()).written == 120
    again = StandIn()
    report = run(empty, path, again)
    assert (report.written, report.unchanged, again.embedded) == (0, 120, [])
    assert count(empty) == 120


@pytest.mark.node
def test_only_what_changed_is_embedded_and_written(empty: OpenSearch, tmp_path: Path) -> None:
    run(empty, csv(tmp_path, "1,Lamp,,,10", "2,Chair,,,20"), StandIn())
    models = StandIn()
    report = run(empty, csv(tmp_path, "1,Lamp,,,10", "2,Chair,,,25", "3,Table,,,30"), models)
    assert (models.embedded, report.written, report.unchanged) == (["2", "3"], 2, 1)
    assert stored(empty, "2")["price"] == 25
    assert count(empty) == 3


@pytest.mark.node
def test_bad_rows_go_to_the_dead_letters_and_the_rest_goes_on(empty: OpenSearch, tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "1,Lamp,Lumora,Home,10",
        ",No id,,,5",
        "3,,,,5",
        "1,Lamp again,,,5",
        "5,too,many,fields,5,6",
        f"{'x' * 513},Long id,,,5",
        "7,Chair,Lumora,Home,20",
    )
    report = run(empty, path, StandIn())
    assert (report.read, report.clean, report.rejected, report.written) == (7, 2, 5, 2)
    letters = [msgspec.json.decode(line) for line in Path(report.dead_letter).read_bytes().splitlines()]
    assert [(letter["row"], letter["field"], letter["reason"]) for letter in letters] == [
        (2, "id", "no id"),
        (3, "title", "no title"),
        (4, "id", "duplicate id: row 1 has it already"),
        (5, "", "the row has 6 fields, the header has 5"),
        (6, "id", "the id is longer than 512 bytes"),
    ]
    assert stored(empty, "1")["title"] == "Lamp"


@pytest.mark.node
def test_near_duplicates_and_price_outliers_are_flagged_and_kept(empty: OpenSearch, tmp_path: Path) -> None:
    pens = [f"{number},Pen number {number},,Pens,{1 + number % 3}" for number in range(20)]
    path = csv(
        tmp_path, *pens, "a,Gel Pen Black 5 pcs,,Pens,2", 'b,"gel pen, black, 5 pcs",,Pens,2', "c,Gold Pen,,Pens,1999"
    )
    report = run(empty, path, StandIn())
    assert (report.clean, report.written) == (23, 23)
    assert stored(empty, "b")["near_duplicate_of"] == "a"
    assert "near_duplicate" in stored(empty, "b")["flags"]
    assert "near_duplicate_of" not in stored(empty, "a")
    assert "price_outlier" in stored(empty, "c")["flags"]
    assert report.flags["price_outlier"] == 1


@pytest.mark.node
def test_a_document_that_the_cluster_refuses_is_a_dead_letter(empty: OpenSearch, tmp_path: Path) -> None:
    class Broken(StandIn):
        def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
            vectors = super().embed_products(products)
            vectors[[product["title"] == "Bad" for product in products]] = np.nan
            return vectors

    report = run(empty, csv(tmp_path, "1,Good,,,1", "2,Bad,,,1", "3,Fine,,,1"), Broken())
    assert (report.clean, report.written, report.failed) == (3, 2, 1)
    letter = msgspec.json.decode(Path(report.dead_letter).read_bytes())
    assert letter["row"] == 2
    assert "the cluster refused it (400)" in letter["reason"]


@pytest.mark.node
def test_a_limit_reads_no_more_rows_and_flags_as_the_whole_file_would(empty: OpenSearch, tmp_path: Path) -> None:
    path = numbered(tmp_path, 60)
    assert (run(empty, path, StandIn(), limit=10).read, count(empty)) == (10, 10)
    assert run(empty, path, StandIn()).unchanged == 10


@pytest.mark.node
def test_another_encoder_is_refused_and_the_way_out_is_told(empty: OpenSearch, tmp_path: Path) -> None:
    path = numbered(tmp_path, 5)
    run(empty, path, StandIn())
    with pytest.raises(ClusterError, match=r"encoder stand-in-1, and stand-in-2 is loaded.*reindex start test-ingest"):
        run(empty, path, StandIn("stand-in-2"))
    assert stored(empty, "p1")["vector_bundle"] == "stand-in-1"


@pytest.mark.node
def test_a_row_without_a_version_counts_as_newest_also_when_somebody_writes_at_the_same_moment(
    empty: OpenSearch, tmp_path: Path
) -> None:
    class Meanwhile(StandIn):
        """While it embeds, somebody else writes a higher version."""

        def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
            if not self.embedded:
                empty.update(index=NAME, id="1", body={"doc": {"version": 5, "title": "Somebody else's"}})
            return super().embed_products(products)

    run(empty, csv(tmp_path, "1,Lamp,,,10"), StandIn())
    empty.update(index=NAME, id="1", body={"doc": {"version": 3}})
    report = run(empty, csv(tmp_path, "1,Desk lamp,,,10"), Meanwhile())
    assert (report.written, report.superseded) == (1, 0)
    assert (stored(empty, "1")["title"], stored(empty, "1")["version"]) == ("Desk lamp", 5)


@pytest.mark.node
def test_an_index_that_takes_no_writes_is_an_error_that_says_so(empty: OpenSearch, tmp_path: Path) -> None:
    index = run(empty, numbered(tmp_path, 5), StandIn()).index
    empty.indices.add_block(index=index, block="write")
    with pytest.raises(ClusterError, match=r"takes no writes.*reindex status test-ingest"):
        run(empty, numbered(tmp_path, 9), StandIn())


@pytest.mark.node
def test_a_file_of_which_every_row_is_rejected_is_an_error(empty: OpenSearch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"All 2 rows were rejected \(no title\)"):
        run(empty, csv(tmp_path, "1,,,,", "2,,,,"), StandIn())


@pytest.mark.node
def test_after_a_stop_the_batch_in_flight_is_there_and_a_rerun_goes_on(empty: OpenSearch, tmp_path: Path) -> None:
    path, stop = numbered(tmp_path, 100), threading.Event()
    report = run(empty, path, StandIn(), batch=30, stop=stop, on_progress=lambda *_: stop.set())
    assert report.stopped
    assert (report.written, written(empty)) == (30, 30)
    assert aliases.live(empty, NAME) is None
    index = report.index
    report = run(empty, path, StandIn())
    assert (report.written, report.unchanged, count(empty)) == (70, 30, 100)
    assert report.index == live(empty) == index


@pytest.mark.node
def test_a_first_ingest_that_is_killed_is_unseen_until_it_is_whole(empty: OpenSearch, tmp_path: Path) -> None:
    path = numbered(tmp_path, 200)
    seen: list[bool] = []

    def crash(phase: str, done: int, total: int | None) -> None:
        seen.append(bool(empty.indices.exists_alias(name=NAME)))
        if phase == "Ingest" and done >= 100 and written(empty) < 150:
            raise RuntimeError("made by the test")

    def whole(phase: str, done: int, total: int | None) -> None:
        seen.append(bool(empty.indices.exists_alias(name=NAME)))

    with pytest.raises(RuntimeError, match="made by the test"):
        run(empty, path, StandIn(), on_progress=crash)
    shown = operations.status(empty, NAME)
    assert (shown.live, shown.leftovers, shown.record.phase) == ("", [], "ingest")
    index = shown.record.target
    assert operations.clean(empty, NAME, 0) == []
    with pytest.raises(UsageError, match=r"first ingest of test-ingest is unfinished"):
        from_file(empty, path).start()
    with pytest.raises(ClusterError, match=r"begun with .*stand-in-1.*reindex cancel test-ingest"):
        run(empty, path, StandIn("stand-in-2"))
    models = StandIn()
    report = run(empty, path, models, on_progress=whole)
    assert (report.unchanged, report.written, len(models.embedded)) == (100, 100, 100)
    assert seen
    assert not any(seen)
    assert (live(empty), count(empty)) == (index, 200)
    assert operations.status(empty, NAME).record.phase == "done"


@pytest.mark.node
def test_a_first_ingest_that_ended_between_alias_and_note_is_over(empty: OpenSearch, tmp_path: Path) -> None:
    path = numbered(tmp_path, 5)
    run(empty, path, StandIn())
    jobs.Board(empty).change(NAME, lambda record: setattr(record, "phase", "ingest"))
    assert run(empty, path, StandIn()).unchanged == 5
    assert jobs.Board(empty).read(NAME).phase == "done"
    jobs.Board(empty).change(NAME, lambda record: setattr(record, "phase", "ingest"))
    assert from_file(empty, path).start().written == 5


@pytest.mark.node
def test_a_first_ingest_is_paused_and_cancelled_from_elsewhere(empty: OpenSearch, tmp_path: Path) -> None:
    path = numbered(tmp_path, 2000)

    def at(ask: Callable[[OpenSearch, str], Any], wanted: int) -> Callable[[str, int, int | None], None]:
        def progress(phase: str, done: int, total: int | None) -> None:
            if phase == "Ingest" and done == wanted:
                ask(empty, NAME)
            if phase == "Ingest" and done >= wanted:
                time.sleep(0.5)  # the lease is renewed meanwhile

        return progress

    report = run(empty, path, StandIn(), on_progress=at(operations.pause, 100), lease_s=2.0)
    paused = report.written
    assert report.stopped
    assert 100 <= paused < 2000
    report = run(empty, path, StandIn(), on_progress=at(operations.cancel, paused + 50), lease_s=2.0)
    assert (report.stopped, report.unchanged) == (True, paused)
    assert report.read < 2000
    assert "cancelled" in " ".join(report.warnings)
    assert operations.status(empty, NAME).record.phase == "cancelled"
    assert not empty.indices.exists(index=report.index)


@pytest.mark.node
def test_a_first_ingest_that_goes_on_with_another_file_holds_that_file_alone(empty: OpenSearch, tmp_path: Path) -> None:
    stop = threading.Event()
    report = run(empty, numbered(tmp_path, 300), StandIn(), stop=stop, on_progress=lambda *_: stop.set())
    assert report.stopped
    assert report.written > 0
    other = csv(tmp_path, *(f"other{at},Desk {at},Acme,Desks,5" for at in range(40)))
    assert not run(empty, other, StandIn()).stopped
    hits = empty.search(index=NAME, body={"size": 1000, "_source": False})["hits"]["hits"]
    assert {hit["_id"] for hit in hits} == {f"other{at}" for at in range(40)}


@pytest.mark.node
def test_cancel_from_a_machine_whose_clock_is_ahead_asks_the_process_that_works(
    empty: OpenSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[jobs.Record] = []

    def ask_once(phase: str, done: int, total: int | None) -> None:
        if phase == "Ingest" and done >= 100:
            if not asked:
                asked.append(operations.cancel(empty, NAME))
            time.sleep(0.5)  # the lease is renewed meanwhile

    ahead = SimpleNamespace(time=lambda: time.time() + 3600.0)
    monkeypatch.setattr(operations, "time", ahead)
    report = run(empty, numbered(tmp_path, 2000), StandIn(), on_progress=ask_once, lease_s=2.0)
    assert (asked[0].phase, asked[0].wanted, jobs.shown(asked[0].owner)[:8]) == ("ingest", "cancel", "process ")
    assert report.stopped
    assert operations.status(empty, NAME).record.phase == "cancelled"


@pytest.mark.node
def test_an_unfinished_reindex_of_a_new_catalogue_is_not_passed_by_an_ingest(empty: OpenSearch, tmp_path: Path) -> None:
    path, stop = numbered(tmp_path, 100), threading.Event()
    job = from_file(empty, path, stop=stop, on_progress=lambda *_: stop.set())
    assert job.start().stopped
    with pytest.raises(UsageError, match=r"A reindex is making the first index.*reindex resume"):
        run(empty, path, StandIn())


@pytest.mark.node
def test_a_node_killed_in_the_middle_and_started_again_has_everything_once(own_node: Node, tmp_path: Path) -> None:
    info = nodes.start(own_node)
    client = clusters.connect(Settings(node=own_node))
    restarting: list[threading.Thread] = []

    def kill_once(phase: str, done: int, total: int | None) -> None:
        if done >= 200 and not restarting:
            restarting.append(threading.Thread(target=start_again, args=(own_node, info.port)))
            os.kill(info.pid, signal.SIGKILL)
            restarting[0].start()

    path = numbered(tmp_path, 600)
    report = run(client, path, StandIn(), patience_s=120.0, on_progress=kill_once)
    restarting[0].join()
    assert (report.clean, report.written + report.unchanged, report.failed) == (600, 600, 0)
    assert count(client) == 600
    assert run(client, path, StandIn()).unchanged == 600


@pytest.mark.node
def test_a_node_that_stays_away_ends_the_run_with_what_was_written(own_node: Node, tmp_path: Path) -> None:
    info = nodes.start(own_node)
    client = clusters.connect(Settings(node=own_node))

    def kill(phase: str, done: int, total: int | None) -> None:
        if done >= 200:
            os.kill(info.pid, signal.SIGKILL)

    path = numbered(tmp_path, 600)
    with pytest.raises(ClusterError, match=r"taken nothing for 1 s.*200 products were written.*will go on"):
        run(client, path, StandIn(), patience_s=1.0, on_progress=kill)
    start_again(own_node, info.port)
    report = run(client, path, StandIn())
    assert (report.unchanged, report.written, count(client)) == (200, 400, 600)


@pytest.mark.node
def test_esci_comes_in_whole_and_a_second_run_writes_nothing(empty: OpenSearch, tmp_path: Path) -> None:
    """Its first 2,000 products; all of them in `make test-long`."""
    data = os.environ.get("SHELFRANK_DATA")
    if not data or not (Path(data) / "esci" / "products.jsonl").is_file():
        pytest.skip("SHELFRANK_DATA names no folder with esci/products.jsonl")
    path, products = tmp_path / "products.jsonl", 6764 if LONG else 2000
    with (Path(data) / "esci" / "products.jsonl").open(encoding="utf-8") as lines:
        path.write_text("".join(islice(lines, products)), "utf-8")
    report = run(empty, path, StandIn(), load_mapping("esci"), batch=500)
    assert (report.read, report.clean, report.written) == (products, products, products)
    assert count(empty) == products
    report = run(empty, path, StandIn(), load_mapping("esci"), batch=500)
    assert (report.written, report.unchanged) == (0, products)


# The command, with the models that ship.


@pytest.fixture
def shelfrank(node: str, empty: OpenSearch) -> Callable[..., subprocess.Popen[bytes]]:
    def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from indexer.cli import main; main()", "ingest", *map(str, arguments)]
        environment = {**os.environ, "OPENSEARCH_URL": node}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)

    return start


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text('[columns]\nid = "sku"\ntitle = "name"\nbrand = "maker"\ncategory = "path"\nprice = "price"\n')
    return path


@pytest.mark.node
def test_the_command_prints_one_json_object_and_exits_with_0(
    shelfrank: Callable[..., subprocess.Popen[bytes]], mapping: Path, tmp_path: Path
) -> None:
    path = csv(tmp_path, "1,Desk lamp,Lumora,Home,10", "2,,,,", "3,保温杯,,家居,20")
    report_file = tmp_path / "report.json"
    process = shelfrank(path, "--mapping", mapping, "--index", NAME, "--json", "--report", report_file)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    report = msgspec.json.decode(out)
    counts = {name: report[name] for name in ("read", "clean", "rejected", "written", "unchanged", "failed")}
    assert counts == {"read": 3, "clean": 2, "rejected": 1, "written": 2, "unchanged": 0, "failed": 0}
    assert report["dead_letter"] == f"{path}.rejected.jsonl"
    assert b"1 rows were rejected" in err
    assert msgspec.json.decode(report_file.read_bytes()) == report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv", "--mapping", "shop.toml", "--index", NAME], "'absent.csv' does not exist"),
        (["shop.csv", "--mapping", "wrong.toml", "--index", NAME], "did you mean 'name'"),
        (["shop.csv", "--mapping", "nothing", "--index", NAME], "ready mapping"),
        (["shop.csv", "--mapping", "shop.toml", "--index", "No Name"], "cannot name an index"),
        (["shop.csv", "--mapping", "shop.toml"], "--index"),
    ],
)
def test_wrong_use_exits_with_2_before_anything_is_loaded(
    arguments: list[str],
    message: str,
    mapping: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    csv(tmp_path, "1,Lamp,,,")
    (tmp_path / "wrong.toml").write_text('[columns]\nid = "sku"\ntitle = "nam"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["shelfrank", "ingest", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.node
def test_a_run_that_fails_exits_with_1_and_says_why_in_its_json(
    shelfrank: Callable[..., subprocess.Popen[bytes]], mapping: Path, tmp_path: Path
) -> None:
    process = shelfrank(csv(tmp_path, "1,,,,"), "--mapping", mapping, "--index", NAME, "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"All 1 rows were rejected" in err
    assert msgspec.json.decode(out)["error"].startswith("All 1 rows were rejected")


@pytest.mark.node
def test_ctrl_c_stops_after_a_batch_with_counts(
    shelfrank: Callable[..., subprocess.Popen[bytes]], empty: OpenSearch, mapping: Path, tmp_path: Path
) -> None:
    path = numbered(tmp_path, 700)
    process = shelfrank(path, "--mapping", mapping, "--index", NAME, "--json")

    def begun() -> bool:
        try:
            return written(empty) > 0
        except TransportError:  # an index whose shard is not there yet
            return False

    until(begun, "nothing was written", limit_s=100)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err.decode()
    report = msgspec.json.decode(out)
    assert report["stopped"]
    assert 0 < report["written"] < 700
    assert written(empty) == report["written"]
    assert aliases.live(empty, NAME) is None
