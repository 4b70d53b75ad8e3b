"""Lines of files and pipes, plain and gzip: each bounded, each read once."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.errors import InputError
from indexer.lines import raw_lines, read_lines, whole_lines
from indexer.settings import Bounds

SMALL = Bounds(line_bytes=1000, row_characters=1000, field_characters=100, unpacked_bytes=50_000)


def test_lines_are_those_of_the_file_up_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a" * 999 + b"\n" + b"b" * 1000 + b"\n" + b"c" * 1000 + b"\nend")
    found = list(read_lines(path, "utf-8", SMALL))
    assert [each if isinstance(each, str) else each.reason for each in found] == [
        "a" * 999 + "\n",
        "too long: the line has 1,001 bytes; at most 1,000 are read",
        "too long: the line has 1,001 bytes; at most 1,000 are read",
        "end",
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("content", [b"", b"a", b"\n", b"first\nsecond\n", "\ufeff名\n次\n".encode()])
def test_a_pipe_is_read_like_a_file(tmp_path: Path, pack: Callable[[bytes], bytes], content: bytes) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_bytes(pack(content))
    found: list[list[str]] = []
    # Beside this one: who opens a pipe twice waits for ever.
    reading = threading.Thread(target=lambda: found.append(list(whole_lines(pipe))), daemon=True)
    reading.start()
    pipe.write_bytes(pack(content))
    reading.join(30)
    assert found == [list(whole_lines(file))]
    assert b"".join(raw for raw in raw_lines(file) if isinstance(raw, bytes)) == content


def test_the_first_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"fine\n" + "坏".encode("gb18030") + b"\n")
    with pytest.raises(InputError, match=r"x.txt, line 2 is not UTF-8: byte 1 of it"):
        list(whole_lines(path))
