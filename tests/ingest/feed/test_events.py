"""A line is an event, or it is told what is wrong with it."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path

import pytest

from indexer.lines import TooLong
from indexer.settings import Bounds
from ingest.feed.command import PLAIN, read, streamed, watched
from ingest.feed.events import Event, parse
from ingest.sources import Rejection


def test_the_three_kinds() -> None:
    found = parse(
        '{"op":"upsert","version":3,"product":{"id":"杯-1","title":"<b>保温杯</b>","price":"¥99"}}'.encode(), 1, PLAIN
    )
    assert isinstance(found, Event)
    assert found.entry is not None
    assert (found.id, found.version, found.entry.product["title"], found.entry.product["price"]) == (
        "杯-1",
        3,
        "保温杯",
        99,
    )
    found = parse(b'{"op":"update","version":"4","id":7,"set":{"price":8.5,"stock":null}}', 2, PLAIN)
    assert isinstance(found, Event)
    assert (found.id, found.version, found.set) == ("7", 4, {"price": 8.5, "stock": None})
    found = parse(b'{"op":"delete","version":5,"id":"a"}', 3, PLAIN)
    assert isinstance(found, Event)
    assert found.op == "delete"


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"{", "", "not an event"),
        (b"\xff\xfe", "", "not an event"),
        (b'{"op":"drop","version":1,"id":"a"}', "", "not an event"),
        (b'{"op":"delete","version":1,"id":"a","extra":1}', "", "extra"),
        (b'{"op":"delete","id":"a"}', "version", "no version"),
        (b'{"op":"delete","version":-1,"id":"a"}', "version", "whole number"),
        (b'{"op":"delete","version":1.5,"id":"a"}', "version", "whole number"),
        (b'{"op":"delete","version":true,"id":"a"}', "version", "whole number"),
        (b'{"op":"delete","version":9223372036854775808,"id":"a"}', "version", "whole number"),
        (b'{"op":"delete","version":1}', "id", "needs the id"),
        (b'{"op":"delete","version":1,"id":" "}', "id", "needs the id"),
        (b'{"op":"delete","version":1,"id":"' + b"x" * 513 + b'"}', "id", "512 bytes"),
        (b'{"op":"upsert","version":1}', "product", "needs a product"),
        (b'{"op":"upsert","version":1,"product":{"id":"a"}}', "title", "no title"),
        (b'{"op":"upsert","version":1,"id":"b","product":{"id":"a","title":"x"}}', "id", "not the product's, a"),
        (b'{"op":"update","version":1,"id":"a"}', "set", "what to set"),
        (b'{"op":"update","version":1,"id":"a","set":{"title":"x"}}', "set.title", "use an upsert"),
        (b'{"op":"update","version":1,"id":"a","set":{"price":0}}', "set.price", "above 0"),
        (b'{"op":"update","version":1,"id":"a","set":{"price":"9"}}', "set.price", "above 0"),
        (b'{"op":"update","version":1,"id":"a","set":{"stock":-1}}', "set.stock", "from 0 on"),
        (b'{"op":"update","version":1,"id":"a","set":{"rating":6}}', "set.rating", "0 to 5"),
        (TooLong(b"[" * 600, 5_000_001, 5_000_000), "", "has 5,000,001 bytes; at most 5,000,000"),
    ],
)
def test_what_is_wrong_with_a_line_is_told(line: bytes | TooLong[bytes], field: str, reason: str) -> None:
    found = parse(line, 8, PLAIN)
    assert isinstance(found, Rejection)
    assert (found.row, found.field) == (8, field)
    assert reason in found.reason
    assert len(found.value) <= 500


def test_a_stamp_is_the_time_of_reading() -> None:
    found = parse(b'{"op":"delete","id":"a"}', 1, PLAIN, stamp=True)
    assert isinstance(found, Event)
    assert found.version > 1_700_000_000_000


def numbered(count: int) -> bytes:
    return b"".join(b'{"op":"delete","version":%d,"id":"p%d"}\n' % (n, n) for n in range(count))


def test_a_file_comes_in_batches_with_its_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    long = b"x" * (Bounds().line_bytes + 9) + b"\n"
    path.write_bytes(gzip.compress(b"\n" + numbered(5) + long + numbered(1).rstrip()))
    batches = list(read(path, PLAIN, 3, False))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    flat = [each for batch in batches for each in batch]
    assert [each.line if isinstance(each, Event) else each.row for each in flat] == [2, 3, 4, 5, 6, 7, 8]
    assert isinstance(flat[5], Rejection)


def test_a_stream_that_pauses_gives_what_it_has() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        batches = streamed(source, PLAIN, 100, False, threading.Event())
        sink.write(numbered(3))
        assert len(next(batches)) == 3
        sink.write(numbered(2))
        sink.close()
        assert [len(batch) for batch in batches] == [2]


def test_a_stream_stops_when_told() -> None:
    stop = threading.Event()
    batches = streamed(io.BytesIO(numbered(10)), PLAIN, 3, False, stop)
    assert len(next(batches)) == 3
    stop.set()
    assert list(batches) == []


def test_files_of_a_watched_folder_come_by_name_and_move_when_they_are_done(tmp_path: Path) -> None:
    stop = threading.Event()
    (tmp_path / "2.jsonl").write_bytes(numbered(1))
    (tmp_path / "1.jsonl").write_bytes(numbered(3))
    (tmp_path / "half-written.tmp").write_bytes(numbered(1))
    batches = watched(tmp_path, PLAIN, 2, False, stop)
    assert [len(next(batches)), len(next(batches))] == [2, 1]
    assert (tmp_path / "1.jsonl").exists()
    assert len(next(batches)) == 1
    assert (tmp_path / "done" / "1.jsonl").exists()
    stop.set()
    assert list(batches) == []
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["1.jsonl", "2.jsonl"]
