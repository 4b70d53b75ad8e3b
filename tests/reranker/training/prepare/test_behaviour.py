"""Clicks and purchases as training data, on logs whose truth is known."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from indexer.errors import InputError, UsageError
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.training.prepare import job
from reranker.training.prepare.clicks import Options as ClickOptions
from reranker.training.prepare.position import attractiveness, estimate
from reranker.training.prepare.report import Report


def lines(path: Path, documents: list[dict[str, Any]], bulk: bool = False) -> Path:
    """JSON lines, or the bulk format with its action lines."""
    out = []
    for document in documents:
        if bulk:
            out.append(b'{"index": {"_index": "ubi"}}')
        out.append(msgspec.json.encode(document))
    data = b"\n".join(out) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def search(query_id: str, text: str, hits: list[str] | None = None) -> dict[str, Any]:
    return {"query_id": query_id, "user_query": text, "application": "shop", "query_response_hit_ids": hits or []}


def event(action: str, query_id: str, product: str, ordinal: int | None, session: str = "s") -> dict[str, Any]:
    position = {} if ordinal is None else {"position": {"ordinal": ordinal}}
    attributes = {"object": {"object_id": product}, **position}
    return {
        "action_name": action,
        "query_id": query_id,
        "application": "shop",
        "session_id": session,
        "event_attributes": attributes,
    }


def seen(query_id: str, products: str, clicked: str = "", session: str = "s") -> list[dict[str, Any]]:
    """One result page: a letter a product, from position 1, and what of it was clicked."""
    shown = [event("impression", query_id, product, at, session) for at, product in enumerate(products, start=1)]
    return shown + [event("click", query_id, product, products.index(product) + 1, session) for product in clicked]


def assert_no_row_vanished(report: Report) -> None:
    for place, count in report.rows.items():
        assert count.balanced, (place, count)


def grades(folder: Path) -> dict[str, dict[str, int]]:
    texts = {query.id: query.text for query in read_queries(folder / "queries.tsv")}
    return {texts[query]: judged for query, judged in read_qrels(folder / "qrels.tsv").items()}


def simulate(seed: int, eta: float, searches: int = 8000) -> tuple[np.ndarray, np.ndarray]:
    """Clicks of shoppers who look at position k with probability k ** -eta, on pages ranked roughly by what they like.

    Returns the true curve and rows of pair, position, impressions, clicks.
    """
    rng = np.random.default_rng(seed)
    queries, size = 200, 10
    theta = np.arange(1, size + 1) ** -eta
    gamma = rng.beta(1, 4, size=(queries, size))
    counts: dict[tuple[int, int], list[int]] = {}
    for _ in range(searches):
        query = int(rng.integers(queries))
        order = np.argsort(-(gamma[query] + rng.normal(0, 0.15, size)))
        clicked = rng.random(size) < theta * gamma[query][order]
        for at, product in enumerate(order):
            count = counts.setdefault((query * size + int(product), at), [0, 0])
            count[0] += 1
            count[1] += int(clicked[at])
    return theta, np.array([(*key, *count) for key, count in counts.items()])


# Position


@pytest.mark.parametrize(("seed", "eta"), [(1, 0.5), (2, 0.8), (3, 1.2)])
def test_the_curve_that_shoppers_look_by_is_recovered_to_within_8_points(seed: int, eta: float) -> None:
    theta, rows = simulate(seed, eta)
    curve = estimate(rows[:, 0], rows[:, 1], rows[:, 2].astype(float), rows[:, 3].astype(float))
    assert curve.estimated
    assert np.abs(np.array(curve.theta) - theta).max() < 0.08
    # Clicks by position alone would be far off: what ranks high is also liked more.
    naive = np.bincount(rows[:, 1], rows[:, 3]) / np.bincount(rows[:, 1], rows[:, 2])
    assert np.abs(naive / naive[0] - theta).max() > 2 * np.abs(np.array(curve.theta) - theta).max()


def test_clicks_that_cannot_tell_a_curve_say_so() -> None:
    one_position_each = np.arange(10), np.arange(10), np.full(10, 100.0), np.full(10, 50.0)
    curve = estimate(*one_position_each)
    assert not curve.estimated
    assert curve.linked == 0.0
    assert curve.theta[:3] == [1, 1 / 2, 1 / 3]


def test_a_click_far_down_counts_more_than_one_at_the_top() -> None:
    clicks, shown, theta = np.array([10.0, 10.0]), np.array([100.0, 100.0]), np.array([1.0, 0.25])
    top, low = attractiveness(clicks, shown * theta, strength=5.0)
    assert 0.1 < top < 0.13
    assert 0.35 < low < 0.4


# Clicks


def test_a_product_is_not_punished_for_its_place(tmp_path: Path) -> None:
    """The best product stands last on most pages and gets fewer clicks than the first one, which is worse."""
    rng = np.random.default_rng(5)
    like, look = {"A": 0.3, "B": 0.15, "C": 0.9}, (1.0, 0.4, 0.2)
    events: list[dict[str, Any]] = []
    for at in range(3000):
        page = "ABC" if rng.random() < 0.8 else "".join(rng.permutation(list("ABC")))
        clicked = "".join(each for place, each in enumerate(page) if rng.random() < look[place] * like[each])
        events += [*seen(f"q{at}", page, clicked, session=f"s{at}")]
    searches = [search(f"q{at}", "保温杯") for at in range(3000)]
    files = [lines(tmp_path / "queries.ndjson", searches, bulk=True), lines(tmp_path / "events.ndjson", events)]
    options = job.Options(clicks=ClickOptions(thresholds=(0.6, 0.22, 0.05)))
    report = job.prepare(tmp_path / "out", logs=files, options=options)
    assert grades(tmp_path / "out") == {"保温杯": {"A": 2, "B": 1, "C": 3}}
    assert report.clicks is not None
    assert report.clicks.curve is not None
    assert report.clicks.curve.theta == pytest.approx(look, abs=0.06)
    assert_no_row_vanished(report)


def test_seen_too_seldom_is_no_judgment_and_never_touched_is_grade_0(tmp_path: Path) -> None:
    events = [each for at in range(10) for each in seen(f"q{at}", "AB", "A", f"s{at}")] + seen("q0", "XYC", "C")
    searches = [search(f"q{at}", "red shoe") for at in range(10)]
    logs = [lines(tmp_path / "q.ndjson", searches), lines(tmp_path / "e.ndjson", events)]
    report = job.prepare(tmp_path / "out", logs=logs)
    assert grades(tmp_path / "out") == {"red shoe": {"A": 3, "B": 0}}
    assert report.rows["pairs of query and product in clicks"].reasons == {"fewer than 10 impressions": 3}
    assert any("1 / position is assumed" in line for line in report.warnings)
    assert_no_row_vanished(report)


def test_carts_and_purchases_count_more_than_clicks(tmp_path: Path) -> None:
    events = [each for at in range(20) for each in seen(f"q{at}", "ABC", "ABC" if at < 2 else "", f"s{at}")]
    events += [event("add_to_cart", "q0", "B", 2), event("purchase", "q0", "C", 3), event("purchase", "q1", "C", None)]
    searches = [search(f"q{at}", "tent") for at in range(20)]
    logs = [lines(tmp_path / "all.ndjson.gz", searches + events, bulk=True)] * 2
    options = job.Options(clicks=ClickOptions(thresholds=(0.7, 0.4, 0.1)))
    report = job.prepare(tmp_path / "out", logs=logs, options=options)
    judged = grades(tmp_path / "out")["tent"]
    assert judged["A"] < judged["B"] < judged["C"] == 3
    assert_no_row_vanished(report)


@pytest.mark.parametrize("first", [0, 1])
def test_positions_may_count_from_0_or_from_1(tmp_path: Path, first: int) -> None:
    events = [
        event("impression", f"q{at}", product, first + place) for at in range(10) for place, product in enumerate("AB")
    ]
    events += [event("click", f"q{at}", "B", first + 1) for at in range(5)]
    logs = [lines(tmp_path / "q.ndjson", [search(f"q{at}", "tent") for at in range(10)])]
    report = job.prepare(tmp_path / "out", logs=[*logs, lines(tmp_path / "e.ndjson", events)])
    assert report.clicks is not None
    assert report.clicks.curve is not None
    assert len(report.clicks.curve.theta) == 2


def test_result_lists_stand_for_impressions_that_were_not_logged(tmp_path: Path) -> None:
    searches = [search(f"q{at}", "蓝牙耳机", ["A", "B", "C"]) for at in range(12)]
    events = [event("click", f"q{at}", "B", 2, f"s{at}") for at in range(6)]
    logs = [lines(tmp_path / "q.ndjson", [*searches, searches[0]]), lines(tmp_path / "e.ndjson", events)]
    report = job.prepare(tmp_path / "out", logs=logs)
    assert grades(tmp_path / "out") == {"蓝牙耳机": {"A": 0, "B": 3, "C": 0}}
    assert report.clicks is not None
    assert report.clicks.shown_by == {"shop": "result lists"}
    assert any("No impressions were logged by shop" in line for line in report.warnings)
    assert report.rows[f"UBI rows of {logs[0]}"].merged == 1
    assert_no_row_vanished(report)


def test_clicks_alone_make_only_positives(tmp_path: Path) -> None:
    events = [event("click", f"q{at}", "A", None, f"s{at}") for at in range(3)]
    events += [
        event("click", "q0", "B", None),
        event("add_to_cart", "q1", "C", None),
        event("purchase", "q2", "D", None),
    ]
    logs = [lines(tmp_path / "q.ndjson", [search(f"q{at}", "雨伞") for at in range(3)])]
    report = job.prepare(tmp_path / "out", logs=[*logs, lines(tmp_path / "e.ndjson", events)])
    assert grades(tmp_path / "out") == {"雨伞": {"A": 2, "C": 2, "D": 3}}
    assert any("Neither impressions nor result lists" in line for line in report.warnings)
    assert_no_row_vanished(report)


def test_a_session_that_clicks_too_much_is_left_out(tmp_path: Path) -> None:
    people = [each for at in range(12) for each in seen(f"q{at}", "AB", "A", f"s{at}")]
    robot = [event("click", f"q{at}", "B", 2, "robot") for at in range(12)]
    logs = [lines(tmp_path / "q.ndjson", [search(f"q{at}", "tent") for at in range(12)])]
    options = job.Options(clicks=ClickOptions(max_session_clicks=11))
    report = job.prepare(tmp_path / "out", logs=[*logs, lines(tmp_path / "e.ndjson", people + robot)], options=options)
    assert grades(tmp_path / "out") == {"tent": {"A": 3, "B": 0}}
    assert report.clicks is not None
    assert report.clicks.bot_sessions == 1
    assert report.rows[f"UBI rows of {tmp_path / 'e.ndjson'}"].rejected == 12
    assert_no_row_vanished(report)


def test_every_odd_row_of_a_log_is_named(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "log.ndjson", [search("q", "雨伞"), *(each for _ in range(2) for each in seen("q", "A", "A"))]
    )
    with path.open("ab") as file:
        file.write(b'{"broken\n[1, 2]\n{"action_name": "scroll", "query_id": "q"}\n{"user_query": "no id"}\n\xff\xfe\n')
        for odd in (
            event("click", "unknown", "A", 1),
            event("click", "q", "", 1),
            event("click", "q", "B", -4),
            {"action_name": "click", "event_attributes": None},
            search("r", " "),
        ):
            file.write(msgspec.json.encode(odd) + b"\n")
    report = job.prepare(tmp_path / "out", logs=[path], options=job.Options(clicks=ClickOptions(min_impressions=1)))
    count = report.rows[f"UBI rows of {path}"]
    assert (count.read, count.used, count.merged, count.rejected) == (15, 3, 2, 10)
    told = [msgspec.json.decode(line) for line in (tmp_path / "out/rejected.jsonl").read_bytes().splitlines()]
    assert [row["line"] for row in told] == list(range(6, 16))
    assert_no_row_vanished(report)


def test_a_query_id_that_is_not_logged_is_made_up_for_by_the_events_own_text(tmp_path: Path) -> None:
    events = [{**each, "user_query": "Red  shoe"} for at in range(10) for each in seen(f"q{at}", "AB", "B")]
    job.prepare(tmp_path / "out", logs=[lines(tmp_path / "e.ndjson", events)])
    assert list(grades(tmp_path / "out")) == ["Red shoe"]


def test_judgments_outrank_purchases_and_purchases_clicks(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("query_id\tquery\nj1\tTent\n", "utf-8")
    (tmp_path / "r.tsv").write_text("query_id\tproduct_id\tgrade\nj1\tA\t1\n", "utf-8")
    (tmp_path / "p.csv").write_text("query,product_id,quantity\ntent,A,1\ntent,B,2\ntent,B,1\n", "utf-8")
    events = [each for at in range(10) for each in seen(f"q{at}", "ABC")]
    logs = [lines(tmp_path / "l.ndjson", [*(search(f"q{at}", "tent") for at in range(10)), *events])]
    report = job.prepare(tmp_path / "out", [(tmp_path / "q.tsv", tmp_path / "r.tsv")], logs, [tmp_path / "p.csv"])
    assert grades(tmp_path / "out") == {"Tent": {"A": 1, "B": 3, "C": 0}}
    assert report.merges.overruled == 2
    assert report.judgments_by_source == {"judgments": 1, "purchases": 1, "clicks": 1}
    assert_no_row_vanished(report)


def test_thresholds_must_fall(tmp_path: Path) -> None:
    options = job.Options(clicks=ClickOptions(thresholds=(0.1, 0.3, 0.03)))
    with pytest.raises(UsageError, match="must fall"):
        job.prepare(tmp_path, logs=[lines(tmp_path / "q.ndjson", [search("q", "tent")])], options=options)


# Purchases


def test_a_purchase_after_a_query_is_an_exact_answer_the_surer_the_more_often(tmp_path: Path) -> None:
    rows = ["query,product_id,quantity,time", "保温杯,A,1,x", "保温杯,A,9,x", "保温杯,B,1,x", "保温杯,C,-1,x", "tent,D"]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n", "utf-8")
    report = job.prepare(tmp_path / "out", bought=[tmp_path / "p.csv"])
    assert grades(tmp_path / "out") == {"保温杯": {"A": 3, "B": 3}}
    told = (tmp_path / "out/qrels.tsv").read_text("utf-8").splitlines()[1:]
    assert [line.split("\t")[1:] for line in told] == [
        ["A", "3", "0.6667", "purchases"],
        ["B", "3", "0.5", "purchases"],
    ]
    count = report.rows[f"purchases of {tmp_path / 'p.csv'}"]
    assert (count.read, count.used, count.merged, count.rejected) == (5, 2, 1, 2)


def test_baskets_without_a_query_give_pairs_and_no_judgment(tmp_path: Path) -> None:
    baskets = {"1": "AB", "2": "ABC", "3": "C", "4": "D"}
    rows = [f"{basket},{product},1" for basket, products in baskets.items() for product in products]
    (tmp_path / "t.csv").write_text(
        "\n".join(["basket_id,product_id,quantity", *rows, "1,A,1", "5,A,0"]) + "\n", "utf-8"
    )
    report = job.prepare(tmp_path / "out", bought=[tmp_path / "t.csv"])
    # A and B are together in 2 of 4 baskets, and each is in 2: twice what chance gives.
    assert (tmp_path / "out/pairs.tsv").read_text("utf-8").splitlines()[1:] == ["A\tB\t2\t2.0000"]
    assert any("none is a judgment" in line for line in report.warnings)
    count = report.rows[f"purchases of {tmp_path / 't.csv'}"]
    assert (count.read, count.used, count.merged, count.rejected) == (9, 7, 1, 1)


def test_purchases_without_the_needed_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("product_id,price\nA,1\n", "utf-8")
    with pytest.raises(InputError, match="query or basket_id"):
        job.prepare(tmp_path / "out", bought=[tmp_path / "p.csv"])


# The public samples


def test_public_samples_of_clicks_and_purchases_are_read_whole(tmp_path: Path) -> None:
    data = os.environ.get("SHELFRANK_DATA", "")
    ubi, bought = Path(data, "ubi/ubi_queries_events.ndjson"), Path(data, "purchases/transactions.csv")
    if not (data and ubi.is_file() and bought.is_file()):
        pytest.skip("SHELFRANK_DATA names no folder with ubi/ and purchases/")
    options = job.Options(clicks=ClickOptions(min_impressions=3))
    report = job.prepare(tmp_path, logs=[ubi, ubi], bought=[bought], options=options)
    assert_no_row_vanished(report)
    assert report.rows[f"UBI rows of {ubi}"].read == 3921
    assert report.rows[f"purchases of {bought}"].read == 63335
    assert report.parts["all"].judgments > 100
    assert report.together > 100
