"""Preparing training data: merging, splits, leaks, and that no row vanishes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError, ShelfrankError, UsageError
from ingest import sample_shop
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.training.prepare import job
from reranker.training.prepare.collection import SPLITS, Entry, query_key
from reranker.training.prepare.command import check, prepare
from reranker.training.prepare.leakage import Alike, grams, groups, same_answers, similar
from reranker.training.prepare.ledger import LISTED, Ledger
from reranker.training.prepare.report import Report
from reranker.training.prepare.split import assign
from tests.paths import ROOT

SHOP = Path(sample_shop.__file__).parent


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def judged(folder: Path, queries: list[str], qrels: list[str], name: str = "") -> tuple[Path, Path]:
    """A queries file (`id|text|split`) and its qrels (`id|product|grade`)."""
    return (
        write(folder / f"queries{name}.tsv", "query_id\tquery\tsplit", *(line.replace("|", "\t") for line in queries)),
        write(folder / f"qrels{name}.tsv", "query_id\tproduct_id\tgrade", *(line.replace("|", "\t") for line in qrels)),
    )


def rejected(folder: Path) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in (folder / "rejected.jsonl").read_bytes().splitlines()]


def assert_no_row_vanished(report: Report) -> None:
    for place, count in report.rows.items():
        assert count.balanced, (place, count)


def splits_of(folder: Path) -> dict[str, str]:
    return {query.text: query.columns["split"] for query in read_queries(folder / "queries.tsv")}


def entries(*texts: str, split: str = "") -> dict[str, Entry]:
    columns = {"split": split} if split else {}
    return {query_key(text): Entry(text, text, "judgments", dict(columns)) for text in texts}


# Merging


def test_the_same_query_under_two_ids_is_one(tmp_path: Path) -> None:
    files = judged(
        tmp_path,
        ["q1|Red  Shoe|", "q2|red shoe|", "q3|ＲＥＤ shoe|", "q4|保温杯|", "q5|保温杯 |"],
        ["q1|A|3", "q2|A|3", "q2|B|0", "q3|C|1", "q4|D|3", "q5|D|3"],
    )
    report = job.prepare(tmp_path / "out", [files])
    queries, qrels = read_queries(tmp_path / "out/queries.tsv"), read_qrels(tmp_path / "out/qrels.tsv")
    assert [(query.id, query.text) for query in queries] == [("q1", "Red Shoe"), ("q4", "保温杯")]
    assert qrels == {"q1": {"A": 3, "B": 0, "C": 1}, "q4": {"D": 3}}
    assert (report.merges.same_text, report.merges.agreeing) == (3, 2)
    assert_no_row_vanished(report)


def test_judges_who_disagree_are_settled_by_the_lower_median(tmp_path: Path) -> None:
    first = judged(tmp_path, ["q|red shoe|"], ["q|A|3", "q|B|3"], "1")
    second = judged(tmp_path, ["q|red shoe|"], ["q|A|1", "q|B|2"], "2")
    third = judged(tmp_path, ["q|red shoe|"], ["q|A|2"], "3")
    report = job.prepare(tmp_path / "out", [first, second, third])
    assert read_qrels(tmp_path / "out/qrels.tsv") == {"q": {"A": 2, "B": 2}}
    assert report.merges.conflicts == 2
    assert_no_row_vanished(report)


def test_two_files_may_use_one_id_for_different_queries(tmp_path: Path) -> None:
    first = judged(tmp_path, ["1|red shoe|"], ["1|A|3"], "1")
    second = judged(tmp_path, ["1|保温杯|"], ["1|B|3"], "2")
    job.prepare(tmp_path / "out", [first, second])
    assert {query.id: query.text for query in read_queries(tmp_path / "out/queries.tsv")} == {
        "1": "red shoe",
        "1~2": "保温杯",
    }
    assert read_qrels(tmp_path / "out/qrels.tsv") == {"1": {"A": 3}, "1~2": {"B": 3}}


def test_a_repeated_line_of_judgments_is_counted_as_merged(tmp_path: Path) -> None:
    files = judged(tmp_path, ["q|red shoe|"], ["q|A|3", "q|A|3", "q|B|0"])
    report = job.prepare(tmp_path / "out", [files])
    count = report.rows[f"qrels of {files[1]}"]
    assert (count.read, count.used, count.merged, count.rejected) == (3, 2, 1, 0)


def test_what_cannot_be_used_is_written_with_its_reason(tmp_path: Path) -> None:
    files = judged(tmp_path, ["q|red shoe|", "r|拖鞋|"], ["q|A|3", "q|GONE|2", "unknown|A|3"])
    products = write(tmp_path / "products.csv", "product_id,title", "A,shoe", "Z,hat")
    report = job.prepare(tmp_path / "out", [files], catalogue=products)
    assert {(row["line"], row["reason"], row["value"]) for row in rejected(tmp_path / "out")} == {
        ("unknown", "query_id is not in queries.tsv", "A"),
        ("q", "product_id is not in the products file", "GONE"),
        ("r", "no judgment of this query can be used", "拖鞋"),
    }
    assert report.unjudged_share == 0.5
    assert_no_row_vanished(report)


def test_queries_with_quotes_come_back_as_they_were(tmp_path: Path) -> None:
    files = judged(tmp_path, ['a|24" monitor|', 'b|"plain"|', 'c|"""5"""" x 6"""|'], ["a|A|3", "b|B|3", "c|C|3"])
    before = [query.text for query in read_queries(files[0])]
    assert before == ['24" monitor', '"plain"', '"5"" x 6"']
    job.prepare(tmp_path / "out", [files])
    assert [query.text for query in read_queries(tmp_path / "out/queries.tsv")] == before


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["q1", "q2", "q3", "nobody"]), st.sampled_from("ABC"), st.sampled_from([0, 2, 3])),
        min_size=1,
        max_size=12,
        unique_by=lambda row: row[:2],
    )
)
def test_no_row_of_judgments_vanishes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    files = judged(folder, ["q1|red shoe|", "q2|RED SHOE|", "q3|红鞋|"], [f"{q}|{p}|{grade}" for q, p, grade in rows])
    if all(query == "nobody" for query, _, _ in rows):
        with pytest.raises(InputError, match=r"rejected\.jsonl"):
            job.prepare(folder / "out", [files], catalogue=None)
        return
    report = job.prepare(folder / "out", [files, files])
    assert_no_row_vanished(report)
    assert report.rows[f"qrels of {files[1]}"].read == 2 * len(rows)
    assert report.parts["all"].judgments == sum(map(len, read_qrels(folder / "out/qrels.tsv").values()))


# Splits


def test_a_split_that_the_file_gives_stays(tmp_path: Path) -> None:
    report = job.prepare(tmp_path, [(SHOP / "queries.tsv", SHOP / "qrels.tsv")])
    before = {query.id: query.columns["split"] for query in read_queries(SHOP / "queries.tsv")}
    after = {query.id: query.columns["split"] for query in read_queries(tmp_path / "queries.tsv")}
    assert after == before
    assert not report.leaks
    assert read_qrels(tmp_path / "qrels.tsv") == read_qrels(SHOP / "qrels.tsv")
    assert_no_row_vanished(report)


def test_every_language_is_shared_out_as_asked() -> None:
    there = entries(*(f"word{chr(97 + at) * 9}" for at in range(40)), *(chr(0x4E00 + at) for at in range(20)))
    for seed in range(10):
        splits = assign(there, [[key] for key in there], dev=0.15, test=0.2, seed=seed)
        for language, size in (("en", 40), ("zh", 20)):
            mine = [splits[key] for key, entry in there.items() if entry.language == language]
            assert len(mine) == size
            assert abs(mine.count("test") - 0.2 * size) <= 1
            assert abs(mine.count("dev") - 0.15 * size) <= 1


def test_the_seed_and_not_the_order_of_files_decides_splits() -> None:
    there = entries("red shoe", "blue hat", "保温杯", "蓝牙耳机", "laptop bag", "desk", "tent", "充电宝")
    turned = dict(reversed(there.items()))
    one = assign(there, [[key] for key in there], 0.25, 0.25, 1)
    assert one == assign(turned, [[key] for key in turned], 0.25, 0.25, 1)
    assert any(one != assign(there, [[key] for key in there], 0.25, 0.25, seed) for seed in range(2, 6))


def test_near_identical_queries_are_drawn_together() -> None:
    there = entries("red shoe", "red shoes", "保温杯 大", "保温杯大", *(f"thing{chr(97 + at) * 8}" for at in range(20)))
    together = groups(list(there), similar(list(there)))
    for seed in range(10):
        splits = assign(there, together, 0.3, 0.3, seed)
        assert splits["red shoe"] == splits["red shoes"]
        assert splits["保温杯 大"] == splits["保温杯大"]


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=30), seed=st.integers(0, 100))
def test_every_query_has_one_split_and_no_group_is_torn(sizes: list[int], seed: int) -> None:
    together = [[f"q{at}-{member}" for member in range(size)] for at, size in enumerate(sizes)]
    there = entries(*(key for group in together for key in group))
    splits = assign(there, together, 0.2, 0.2, seed)
    assert set(splits) == set(there)
    assert all(len({splits[key] for key in group}) == 1 for group in together)


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.6 and test 0\.5"):
        job.prepare(tmp_path, options=job.Options(dev_share=0.6, test_share=0.5))


# Leaks


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("running shoes for men", "mens running shoes"),
        ("laptop bag", "Laptop  Bags"),
        ("wireles earbuds", "wireless earbuds"),
        ("24oz bottle", "24 oz bottle"),
        ("红色 跑鞋", "红色的跑鞋"),
        ("儿童防水运动手表", "儿童防水运动手錶"),
        ("ＵＳＢ充电器", "usb 充电器"),
    ],
)
def test_near_identical_queries_are_found(one: str, other: str) -> None:
    keys = [query_key(one), "unrelated thing", query_key(other)]
    if keys[0] != keys[2]:
        assert [(pair.first, pair.second) for pair in similar(keys)] == [(keys[0], keys[2])]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("iphone 13 case", "iphone 14 case"),
        ("water bottle", "glass water bottle"),
        ("红色跑鞋", "蓝色跑鞋"),
        ("保温杯", "不锈钢保温杯"),
        ("5号电池", "7号电池"),
    ],
)
def test_different_queries_are_left_apart(one: str, other: str) -> None:
    assert similar([query_key(one), query_key(other)]) == []


@given(
    texts=st.lists(st.text(alphabet="abc红色鞋 1", min_size=1, max_size=8), min_size=2, max_size=15),
    threshold=st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]),
)
def test_the_fast_search_finds_what_comparing_all_pairs_finds(texts: list[str], threshold: float) -> None:
    keys = list(dict.fromkeys(query_key(f"x{text}") for text in texts))
    slow = set()
    for at, one in enumerate(keys):
        for other in keys[at + 1 :]:
            mine, yours = grams(one), grams(other)
            numbers = [{gram for gram in found if gram[0] == "#"} for found in (mine, yours)]
            if numbers[0] == numbers[1] and len(mine & yours) / len(mine | yours) >= threshold - 1e-9:
                slow.add((one, other))
    assert {(pair.first, pair.second) for pair in similar(keys, threshold)} == slow


def test_queries_with_the_same_answers_are_found() -> None:
    answers = {"A": 3, "B": 2, "C": 1}
    grades = {"sofa": {**answers, "X": 0}, "settee": {**answers, "Y": 0}, "沙发": {**answers, "C": 2}, "bed": {"Q": 3}}
    assert same_answers(grades) == [Alike("sofa", "settee", "products", 1.0)]


def test_the_later_of_two_queries_that_leak_moves_to_the_other(tmp_path: Path) -> None:
    files = judged(
        tmp_path,
        [
            "a|laptop bag|train",
            "b|laptop bags|test",
            "c|红色 跑鞋|test",
            "d|红色跑鞋|train",
            "e|desk|dev",
            "f|tent|test",
        ],
        [f"{each}|P{each}|{grade}" for each, grade in zip("abcdef", (3, 3, 3, 2, 3, 0), strict=True)],
    )
    left = job.prepare(tmp_path / "left", [files], options=job.Options(fix=False))
    assert splits_of(tmp_path / "left")["laptop bags"] == "test"
    assert any("leak between splits" in line for line in left.warnings)
    report = job.prepare(tmp_path / "out", [files])
    assert [(leak.first, leak.second) for leak in report.leaks] == [
        ("laptop bag", "laptop bags"),
        ("红色 跑鞋", "红色跑鞋"),
    ]
    splits = splits_of(tmp_path / "out")
    assert splits["laptop bags"] == "train"
    assert splits["红色跑鞋"] == "test"
    assert splits["desk"] == "dev"
    assert job.check([tmp_path / "out/queries.tsv"]) == []


def test_a_text_that_stands_in_two_splits_follows_the_first_and_is_reported(tmp_path: Path) -> None:
    files = judged(tmp_path, ["a|red shoe|test", "b|Red Shoe|train"], ["a|A|3", "b|B|3"])
    report = job.prepare(tmp_path / "out", [files])
    assert splits_of(tmp_path / "out") == {"red shoe": "test"}
    assert report.merges.split_conflicts == ["a"]
    assert any("stood in two splits" in line for line in report.warnings)


def test_check_finds_leaks_within_and_between_files(tmp_path: Path) -> None:
    one, _ = judged(tmp_path, ["a|red shoe|train", "b|Red shoe|test"], ["a|A|3"], "1")
    two, _ = judged(tmp_path, ["c|red shoes|dev", "d|杯子|test", "e|no split|"], ["a|A|3"], "2")
    found = {(leak.first_id, leak.second_id) for leak in job.check([one, two])}
    assert found == {("a", "b"), ("a", "c")}


def test_check_exits_with_1_only_when_something_leaks(tmp_path: Path) -> None:
    good = CliRunner().invoke(check, ["--queries", str(SHOP / "queries.tsv"), "--qrels", str(SHOP / "qrels.tsv")])
    assert good.exit_code == 0, good.output
    leaky, _ = judged(tmp_path, ["a|保温 杯|train", "b|保温杯|test"], ["a|A|3"])
    bad = CliRunner().invoke(check, ["--queries", str(leaky), "--json"])
    assert isinstance(bad.exception, ShelfrankError)
    assert bad.exception.exit_code == 1
    assert [leak["second"] for leak in msgspec.json.decode(bad.stdout)] == ["保温杯"]


# Report and command


def test_the_report_warns_of_what_hinders_training(tmp_path: Path) -> None:
    files = judged(
        tmp_path,
        ["a|red shoe|train", "b|保温杯|test"],
        [*(f"a|P{at}|3" for at in range(150)), "a|ODD|1", "b|C|2"],
    )
    told = "\n".join(job.prepare(tmp_path / "out", [files]).warnings)
    assert "There are 2 queries" in told
    assert "Grade 1 has 1 of 152 judgments" in told
    assert "The split dev has no query" in told
    assert "The split test has no exact product" in told
    assert "1 of 2 queries have judgments of one grade only" in told


def test_prepare_prints_a_report_and_writes_the_same(tmp_path: Path) -> None:
    arguments = ["--queries", SHOP / "queries.tsv", "--qrels", SHOP / "qrels.tsv", "--out", tmp_path / "out"]
    done = CliRunner().invoke(prepare, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == (tmp_path / "out/report.txt").read_text("utf-8").strip()
    again = CliRunner().invoke(prepare, [*map(str, arguments), "--json"])
    assert msgspec.json.decode(again.stdout) == msgspec.json.decode((tmp_path / "out/report.json").read_bytes())
    assert set(msgspec.json.decode(again.stdout)["parts"]) == {*SPLITS, "all"}


def test_the_same_call_writes_the_same_files(tmp_path: Path) -> None:
    bare = write(
        tmp_path / "q.tsv", "query_id\tquery", *(f"{q.id}\t{q.text}" for q in read_queries(SHOP / "queries.tsv"))
    )
    for name in ("one", "two"):
        job.prepare(tmp_path / name, [(bare, SHOP / "qrels.tsv")])
    for file in ("queries.tsv", "qrels.tsv", "report.json", "rejected.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert job.check([tmp_path / "one/queries.tsv"], [tmp_path / "one/qrels.tsv"]) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Nothing to prepare"),
        (["--queries", str(SHOP / "queries.tsv")], "the same number of times"),
        (["--thresholds", "0.1,0.3", "--purchases", str(SHOP / "catalog.csv")], "three numbers"),
        (["--weights", "1,x,3", "--purchases", str(SHOP / "catalog.csv")], "--weights is '1,x,3'"),
    ],
)
def test_a_wrong_call_says_what_to_give(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(prepare, ["--out", str(tmp_path), *arguments])
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)


def test_an_unknown_split_is_refused_by_name(tmp_path: Path) -> None:
    files = judged(tmp_path, ["a|red shoe|validation"], ["a|A|3"])
    with pytest.raises(InputError, match=r"'a' has the split 'validation'.*train, dev, test"):
        job.prepare(tmp_path / "out", [files])


def test_rejected_rows_beyond_a_limit_are_counted_in_one_line(tmp_path: Path) -> None:
    with Ledger(tmp_path / "rejected.jsonl") as ledger:
        ledger.read("here", LISTED + 5)
        for at in range(LISTED + 5):
            ledger.rejected("here", at, "bad", "x" * 1000)
    rows = rejected(tmp_path)
    assert len(rows) == LISTED + 1
    assert rows[-1] == {"place": "here", "reason": "bad", "more": 5}
    assert rows[0]["value"] == "x" * 200
    assert ledger.places["here"].balanced


def test_the_commands_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("queries.tsv", "qrels.tsv"):
        shutil.copy(SHOP / name, tmp_path / name)
    write(
        tmp_path / "catalog.csv",
        "product_id",
        *{product for pairs in read_qrels(SHOP / "qrels.tsv").values() for product in pairs},
    )
    write(tmp_path / "ubi_queries.ndjson", '{"query_id": "1", "user_query": "保温杯"}')
    write(tmp_path / "ubi_events.ndjson", '{"query_id": "1", "action_name": "search"}')
    write(tmp_path / "orders.csv", "query,product_id,quantity", "保温杯,BOT-01-1,1")
    page = (ROOT / "docs/judgments.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) >= 2
    for line in commands:
        _, group, name, *arguments = shlex.split(line)
        assert group == "train"
        done = CliRunner().invoke({"prepare": prepare, "check": check}[name], arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
