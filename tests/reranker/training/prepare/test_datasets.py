"""Public collections, in the form in which their authors publish them, become a catalogue and split judgments."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from ingest.clean import Cleaned, clean
from ingest.schema import load_mapping
from ingest.sources import Row, open_catalogue
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.training.prepare.command import prepare

LABELS = {3: "E", 2: "S", 1: "C", 0: "I"}


def published_esci(folder: Path, examples: Sequence[Mapping[str, Any]], products: Sequence[Mapping[str, Any]]) -> Path:
    """The two Parquet files of ESCI, in the folder of its repository."""
    there = folder / "esci-data" / "shopping_queries_dataset"
    there.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(examples)), there / "shopping_queries_dataset_examples.parquet")
    pq.write_table(pa.Table.from_pylist(list(products)), there / "shopping_queries_dataset_products.parquet")
    return there.parent


def example(number: int, product: str, label: str = "E", **changed: Any) -> dict[str, Any]:
    row = {"example_id": 1, "query": f"thing number {number}", "query_id": number, "product_id": product}
    row |= {"product_locale": "us", "esci_label": label, "small_version": 1, "large_version": 1, "split": "train"}
    return row | changed


def product(key: str, **changed: Any) -> dict[str, Any]:
    row = {"product_id": key, "product_title": f"Thing {key}", "product_description": None}
    row |= {"product_bullet_point": "good\nand cheap", "product_brand": None, "product_color": "red"}
    return {**row, "product_locale": "us", **changed}


def published_wands(folder: Path, labels: Sequence[str]) -> Path:
    there = folder / "WANDS" / "dataset"
    there.mkdir(parents=True)
    write = "\t".join
    (there / "query.csv").write_text(
        "\n".join([write(["query_id", "query", "query_class"]), write(["0", "salon chair", "Chairs"])])
    )
    head = ["product_id", "product_name", "product_class", "category hierarchy", "product_description"]
    head += ["product_features", "rating_count", "average_rating", "review_count"]
    row = ["7", "a chair", "Chairs", "Furniture / Chairs", 'sits "well"', "color : red|weight : 3", "5", "4.5", "4"]
    (there / "product.csv").write_text("\n".join([write(head), write(row)]))
    rows = [
        write(["id", "query_id", "product_id", "label"]),
        *(f"{n}\t0\t{7 + n}\t{label}" for n, label in enumerate(labels)),
    ]
    (there / "label.csv").write_text("\n".join(rows))
    return there.parent


def run(out: Path, *flags: str) -> Result:
    return CliRunner().invoke(prepare, [*flags, "--out", str(out), "--json"])


def cleaned(path: Path) -> list[dict[str, Any]]:
    """What `ingest --mapping esci` makes of a catalogue; nothing of it is rejected."""
    mapping = load_mapping("esci")
    rows = list(open_catalogue(path, mapping).rows())
    found = [clean(row, mapping) for row in rows if isinstance(row, Row)]
    assert len(found) == len(rows)
    assert all(isinstance(each, Cleaned) for each in found)
    return [each.product for each in found if isinstance(each, Cleaned)]


def test_esci_becomes_a_catalogue_and_judgments_that_keep_its_test_split(tmp_path: Path) -> None:
    examples = [example(number, f"P{number}", split="test" if number % 4 == 0 else "train") for number in range(40)]
    examples += [example(1, "P2", "S"), example(1, "P3", "C"), example(1, "P4", "I")]
    examples += [example(99, "ES", product_locale="es"), example(98, "EASY", small_version=0)]
    products = [product(f"P{number}") for number in range(40)]
    products += [product("ES", product_locale="es"), product("EASY"), product("UNJUDGED")]
    folder = published_esci(tmp_path, examples, products)
    result = run(tmp_path / "out", "--dataset", "esci", "--path", str(folder))
    assert result.exit_code == 0, result.output
    queries = {query.id: query for query in read_queries(tmp_path / "out" / "queries.tsv")}
    assert set(queries) == {str(number) for number in range(40)}
    splits = {key: query.columns["split"] for key, query in queries.items()}
    assert {key for key, split in splits.items() if split == "test"} == {str(number) for number in range(0, 40, 4)}
    assert 0 < sum(split == "dev" for split in splits.values()) < 10
    assert read_qrels(tmp_path / "out" / "qrels.tsv")["1"] == {"P1": 3, "P2": 2, "P3": 1, "P4": 0}
    found = cleaned(tmp_path / "out" / "products.jsonl")
    assert [each["id"] for each in found] == [f"P{number}" for number in range(40)]


def test_of_esci_another_locale_and_the_easier_queries_can_be_had(tmp_path: Path) -> None:
    examples = [
        example(1, "A", product_locale="jp", query="黒い傘"),
        example(2, "B", product_locale="jp", small_version=0),
    ]
    products = [product(key, product_locale="jp") for key in "AB"]
    folder = published_esci(tmp_path, examples, products)
    flags = ["--dataset", "esci", "--path", str(folder), "--locale", "jp"]
    assert run(tmp_path / "small", *flags).exit_code == 0
    assert run(tmp_path / "large", *flags, "--large").exit_code == 0
    assert [query.text for query in read_queries(tmp_path / "small" / "queries.tsv")] == ["黒い傘"]
    assert len(read_queries(tmp_path / "large" / "queries.tsv")) == 2


def test_wands_becomes_a_catalogue_and_judgments(tmp_path: Path) -> None:
    folder = published_wands(tmp_path, ["Exact", "Partial", "Irrelevant", "Perhaps"])
    result = run(tmp_path / "out", "--dataset", "wands", "--path", str(folder))
    assert result.exit_code == 0, result.output
    assert read_qrels(tmp_path / "out" / "qrels.tsv") == {"0": {"7": 3, "8": 2, "9": 0}}
    (found,) = cleaned(tmp_path / "out" / "products.jsonl")
    assert (found["id"], found["category"]) == ("7", ["Furniture", "Chairs"])
    rejected = [msgspec.json.decode(line) for line in (tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()]
    assert [(row["line"], row["value"]) for row in rejected] == [(4, "Perhaps")]
    assert "one of exact, partial, irrelevant" in rejected[0]["reason"]
    report = msgspec.json.decode(result.stdout)
    assert all(each["read"] == each["used"] + each["merged"] + each["rejected"] for each in report["rows"].values())


def test_texts_of_any_kind_come_through(tmp_path: Path) -> None:
    texts = ['"quoted"', "tab\there", "line\nend", " ", None, "= formula", "没有 把手"]
    examples = [example(number, f"P{number}", query=text) for number, text in enumerate(texts)]
    folder = published_esci(tmp_path, examples, [product(f"P{number}") for number in range(len(texts))])
    assert run(tmp_path / "out", "--dataset", "esci", "--path", str(folder)).exit_code == 0
    found = [query.text for query in read_queries(tmp_path / "out" / "queries.tsv")]
    assert found == ['"quoted"', "tab here", "line end", "= formula", "没有 把手"]


def test_what_is_not_the_collection_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    pointer = published_esci(tmp_path / "pointer", [example(1, "A")], [product("A")])
    (pointer / "shopping_queries_dataset" / "shopping_queries_dataset_products.parquet").write_text(
        "version https://git-lfs\n"
    )
    narrow = published_esci(tmp_path / "narrow", [{"query": "a", "query_id": 1}], [product("A")])
    other = published_esci(tmp_path / "other", [example(1, "A", product_locale="es")], [product("A")])
    for folder, said in (
        (empty, "holds no shopping_queries_dataset_examples.parquet"),
        (pointer, "Git LFS"),
        (narrow, "has no column product_id"),
        (other, "judges nothing of the locale 'us'"),
    ):
        result = run(tmp_path / "out", "--dataset", "esci", "--path", str(folder))
        assert result.exit_code != 0
        assert said in str(result.exception)


@pytest.mark.parametrize("flags", [["--dataset", "esci"], ["--path", "."]])
def test_a_collection_is_named_with_its_folder(tmp_path: Path, flags: list[str]) -> None:
    result = run(tmp_path / "out", *flags)
    assert "Give --dataset and --path together" in str(result.exception)


def test_more_of_esci_in_the_form_of_the_original(tmp_path: Path) -> None:
    data = Path(os.environ.get("SHELFRANK_DATA", "")) / "esci-more"
    if not (data / "qrels.tsv").is_file():
        pytest.skip("SHELFRANK_DATA names no folder with esci-more/qrels.tsv")
    with (data / "qrels.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    examples = [
        example(at, row["product_id"], LABELS[int(row["grade"])], query=row["query"], query_id=row["query_id"])
        for at, row in enumerate(rows)
    ]
    products = []
    for line in (data / "products.jsonl").read_bytes().splitlines():
        each = msgspec.json.decode(line)
        texts = {f"product_{name}": str(each.get(name) or "") for name in ("title", "description", "brand", "color")}
        products.append(product(each["product_id"], **texts, product_bullet_point=str(each.get("bullet_points") or "")))
    folder = published_esci(tmp_path, examples, products)
    result = run(tmp_path / "out", "--dataset", "esci", "--path", str(folder))
    assert result.exit_code == 0, result.output
    report = msgspec.json.decode(result.stdout)
    assert report["leaks_fixed"]
    judged = read_qrels(tmp_path / "out" / "qrels.tsv")
    assert sum(map(len, judged.values())) == len({(row["query"].casefold(), row["product_id"]) for row in rows})
    assert {each["id"] for each in cleaned(tmp_path / "out" / "products.jsonl")} == {row["product_id"] for row in rows}
