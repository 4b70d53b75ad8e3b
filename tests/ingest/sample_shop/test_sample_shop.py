"""The sample shop is what it says: complete, judged by facts, messy where it should be, and reproducible."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import ftfy
import msgspec
import pytest
from click.testing import CliRunner

from indexer.errors import InputError
from ingest.sample_shop import generate
from ingest.sample_shop.catalogue import FOLDER, Product, product_types, products
from ingest.sample_shop.judging import EXACT, IRRELEVANT, Query, grade, near_misses, queries
from ingest.sample_shop.messy import KINDS, LONG, kept_products, messy_rows
from ingest.schema import check_columns, load_mapping
from ingest.sources import Row, open_catalogue


@pytest.fixture(scope="module")
def clean() -> list[Product]:
    return products()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    text = (FOLDER / "catalog.csv").read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((FOLDER / name).read_text("utf-8").splitlines(), delimiter="\t"))


def query(**changes: object) -> Query:
    base = Query(id="q", text="flask", language="en", kind="plain", split="dev", exact=("type=bottle",))
    return msgspec.structs.replace(base, **changes)


def product(lang: str = "en", **facts: object) -> Product:
    values = dict.fromkeys(Product.__struct_fields__, "") | {"bullets": (), "facts": facts}
    return Product(**values | {"id": "p", "title": "Steel flask", "lang": lang})


def test_generating_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    result = CliRunner().invoke(generate.main, ["--folder", str(tmp_path)])
    assert result.exit_code == 0
    for name in ("catalog.csv", "catalog.toml", "queries.tsv", "qrels.tsv"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_the_catalogue_is_large_varied_and_about_half_chinese(clean: list[Product]) -> None:
    languages = Counter(item.lang for item in clean)
    assert len(clean) >= 650
    assert 0.4 < languages["en"] / len(clean) < 0.6
    assert 0.4 < languages["zh"] / len(clean) < 0.6
    assert languages["both"] >= 10
    assert len({item.category.split(" > ")[0] for item in clean if item.lang == "en"}) >= 14
    assert len(product_types()) >= 100


def test_clean_ids_are_unique_and_texts_are_there(clean: list[Product]) -> None:
    assert len({item.id for item in clean}) == len(clean)
    assert all(item.title and item.text and item.brand for item in clean)
    assert all("{" not in item.title + item.text for item in clean)


def test_no_two_clean_listings_have_the_same_title(clean: list[Product]) -> None:
    titles = Counter(item.title for item in clean)
    assert [title for title, count in titles.items() if count > 1] == []


def test_the_mapping_is_needed_and_fits_the_catalogue(rows: list[dict[str, str]]) -> None:
    mapping = load_mapping(str(FOLDER / "catalog.toml"))
    assert check_columns(mapping, rows[0], "catalog.csv") == ["bin"]
    assert "title" not in rows[0]
    assert "id" not in rows[0]


def test_every_row_of_the_catalogue_is_read_by_ingest(rows: list[dict[str, str]]) -> None:
    catalogue = open_catalogue(FOLDER / "catalog.csv", load_mapping(str(FOLDER / "catalog.toml")))
    read = [row for row in catalogue.rows() if isinstance(row, Row)]
    assert [row.values["item_no"] for row in read] == [row["item_no"] for row in rows]


def test_every_kind_of_messy_row_is_in_the_catalogue(rows: list[dict[str, str]]) -> None:
    wrong = messy_rows()
    assert {row.kind for row in wrong} == set(KINDS)
    assert len(wrong) >= 40
    present = Counter((row["item_no"], row["headline"], row["unit_price"]) for row in rows)
    for row in wrong:
        if not row.copy_of:
            headline, price = row.columns.get("headline", ""), row.columns["unit_price"]
            assert present[row.item_no, headline, price] == 1, row


def test_messy_rows_are_wrong_in_the_way_that_their_kind_says(rows: list[dict[str, str]]) -> None:
    by_kind = {row.kind: row.columns for row in messy_rows()}
    assert len(by_kind["long_description"]["body"]) == LONG
    assert "２５６" in by_kind["full_width"]["headline"]
    assert ftfy.fix_text(by_kind["mojibake"]["headline"]) == "乐垚拼图 1000片 雪山日出"
    ids = Counter(row["item_no"] for row in rows)
    assert sorted(item for item, count in ids.items() if count > 1) == ["", "AUD-11-1", "BOT-01-1", "PET-03-1"]


def test_there_are_enough_queries_of_both_languages_in_every_split() -> None:
    judged = queries()
    assert len(judged) >= 70
    assert len({item.id for item in judged}) == len(judged)
    assert len({item.text for item in judged}) == len(judged)
    sizes = Counter((item.split, item.language) for item in judged)
    for language in ("en", "zh"):
        total = sum(count for (_, lang), count in sizes.items() if lang == language)
        for split, share in (("train", 0.5), ("dev", 0.2), ("test", 0.3)):
            assert sizes[split, language] / total == pytest.approx(share, abs=0.05)


def test_every_split_has_negations_accessories_sizes_and_gifts() -> None:
    for split in ("train", "dev", "test"):
        kinds = {item.kind for item in queries() if item.split == split}
        assert {"accessory", "constraint", "gift", "misspelling", "negation", "plain", "size", "synonym"} <= kinds


def test_every_query_has_two_to_forty_exact_products_in_the_clean_part(clean: list[Product]) -> None:
    for item in queries():
        exact = [found for found in clean if grade(item, found) == EXACT]
        assert 2 <= len(exact) <= 40, (item.id, item.text, len(exact))


def test_many_exact_products_lack_the_words_of_the_query(clean: list[Product]) -> None:
    lacking = total = 0
    for item in queries():
        for found in clean:
            if grade(item, found) == EXACT:
                total += 1
                words = item.text.lower().split() if item.language == "en" else [item.text]
                text = f"{found.title} {found.text}".lower()
                lacking += not all(word in text for word in words)
    assert lacking / total > 0.5


def test_the_judgments_file_holds_known_ids_and_grades() -> None:
    indexed = {item.id for item in products()} | {item.id for item in kept_products(products())}
    asked = {line["query_id"] for line in table("queries.tsv")}
    lines = table("qrels.tsv")
    assert {line["query_id"] for line in lines} == asked
    assert {line["product_id"] for line in lines} <= indexed
    assert {line["grade"] for line in lines} == {"0", "1", "2", "3"}
    assert len({(line["query_id"], line["product_id"]) for line in lines}) == len(lines)


def test_the_judgments_file_leaves_out_no_relevant_product() -> None:
    listed = {(line["query_id"], line["product_id"]): int(line["grade"]) for line in table("qrels.tsv")}
    everything = products() + kept_products(products())
    for item in queries():
        for found in everything:
            assert listed.get((item.id, found.id), IRRELEVANT) == grade(item, found)


def test_no_product_is_judged_by_its_words() -> None:
    words = product(type="bottle", straw=True)
    renamed = msgspec.structs.replace(words, title="without straw", text="without straw")
    asked = query(text="bottle without straw", exact=("type=bottle straw=false",), substitute=("type=bottle",))
    assert grade(asked, words) == grade(asked, renamed) == 2


def test_the_first_grade_whose_condition_holds_decides() -> None:
    asked = query(
        exact=("type=bottle ml>=700", "type=jug"), substitute=("type=bottle",), complement=("accessory_of=bottle|jug",)
    )
    assert grade(asked, product(type="bottle", ml=750)) == 3
    assert grade(asked, product(type="bottle", ml=500)) == 2
    assert grade(asked, product(type="jug")) == 3
    assert grade(asked, product(type="straw", accessory_of=["bottle"])) == 1
    assert grade(asked, product(type="phone", accessory_of=[])) == 0


def test_a_listing_in_the_other_language_counts_one_grade_lower() -> None:
    chinese, both = product("zh", type="bottle"), product("both", type="bottle")
    assert grade(query(), chinese) == 2
    assert grade(query(), both) == 3
    assert grade(query(kind="cross-language"), chinese) == 3


def test_a_condition_on_an_unstated_fact_is_an_error_not_a_guess() -> None:
    with pytest.raises(InputError, match=r"'straw', which p \(Steel flask\) does not state"):
        grade(query(exact=("type=bottle straw=false",)), product(type="bottle"))


def test_a_misspelt_condition_is_an_error() -> None:
    with pytest.raises(InputError, match="is no term"):
        grade(query(exact=("type:bottle",)), product(type="bottle"))
    with pytest.raises(InputError, match="not a number"):
        grade(query(exact=("type>3",)), product(type="bottle"))


def test_conditions_name_only_types_that_the_shop_has() -> None:
    for item in queries():
        for condition in (*item.exact, *item.substitute, *item.complement):
            for term in condition.split():
                name, _, values = term.partition("=")
                if name in ("type", "accessory_of"):
                    assert set(values.split("|")) <= set(product_types()), (item.id, term)


def test_near_misses_share_words_and_are_irrelevant() -> None:
    flask = product(type="bottle")
    brush = msgspec.structs.replace(product(type="brush"), id="b", title="Flask brush")
    phone = msgspec.structs.replace(product(type="phone"), id="c", title="Phone")
    assert [item.id for item in near_misses(query(), [flask, brush, phone])] == ["b"]
