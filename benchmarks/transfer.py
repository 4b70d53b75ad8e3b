"""How far fine-tuning of the encoder carries, and what mined negatives add to it.

    python benchmarks/transfer.py --work runs/transfer --options deploy/models/encoder.toml \
        --shop models-untrained-esci graded.queries.tsv graded.qrels.tsv \
        --people models-untrained-esci queries.tsv qrels.tsv

Each row is the untrained base, fine-tuned on as many judged queries as the others (split train of `--shop`): those of
one shop, of some of its categories, or with the best products alone, as clicks and purchases give them. What is
measured is exact search among products of the same shop, on the queries of its splits dev and test and on those of
`--people`, which no row reads. Domains are the top categories of the first shop's best products, put together into
three of like size. Differences are nDCG@10 with 95 % intervals over queries (paired bootstrap). A stopped run goes on
with the row that it was at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from lastmile import told
from numpy.typing import NDArray

from indexer.han import has_han
from reranker.bundle import load
from reranker.evaluation.compare import ESCI_GAINS
from reranker.training import contrastive, encoders, export, nearest, recipes
from reranker.training.base import PACKAGED
from reranker.training.mining import Judged
from reranker.training.workbench import open_base, read_options

DOMAINS = 3
NOTHING, ALL, FIRST, OTHERS = "nothing", "all shops", "the first shop", "the other shops"
BEST, MINED = "all shops, the best products alone", "and mined negatives"
Catalogue = Mapping[str, Mapping[str, object]]


class Asked(msgspec.Struct, frozen=True):
    """A query that is measured: of which shop, and whether people judged it."""

    index: str
    judged: Judged
    people: bool


class Row(msgspec.Struct, frozen=True):
    """What one encoder reads, and the shops that it is measured on."""

    name: str
    read: Sequence[Judged]
    options: contrastive.Options
    shops: Sequence[str]


class Domains:
    """Some categories of the first shop each, put together to be of like size."""

    def __init__(self, read: Sequence[Judged], products: Catalogue) -> None:
        self._products = products
        counts = Counter(map(self._category, read))
        self._number: dict[str, int] = {}
        sizes = [0] * DOMAINS
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            self._number[name] = int(np.argmin(sizes))
            sizes[self._number[name]] += count

    def of(self, each: Judged) -> int:
        """The domain of a query; -1 for a category that nothing was read of."""
        return self._number.get(self._category(each), -1)

    def named(self, domain: int) -> str:
        return ", ".join(name for name, number in self._number.items() if number == domain)

    def _category(self, each: Judged) -> str:
        """The top category that most of a query's best products have."""
        paths = [self._products[key].get("category") for key in best_of(each)]
        tops = Counter(str(path[0]) if isinstance(path, list) and path else "none" for path in paths)
        return tops.most_common(1)[0][0]


def best_of(each: Judged) -> dict[str, float]:
    most = max(each.gains.values())
    return {key: gain for key, gain in each.gains.items() if gain == most}


def of_shop(asked: Sequence[Asked], index: str) -> list[Judged]:
    return [each.judged for each in asked if each.index == index]


def drawn(judged: Sequence[Judged], count: int) -> list[Judged]:
    """So many of the queries at random, seeded; the same ones again where there are fewer."""
    order = np.random.default_rng(13).permutation(len(judged))
    return [judged[int(at)] for at in np.resize(order, count)]


def read_shops(
    given: argparse.Namespace, indexes: Sequence[str], products: Catalogue
) -> tuple[dict[str, list[Judged]], list[Asked]]:
    """What may be learned from, by shop, and what is measured, shop by shop."""
    read: dict[str, list[Judged]] = {index: [] for index in indexes}
    asked: list[Asked] = []
    for index, queries, qrels in given.shop:
        judged, held = encoders.read_judged([(index, Path(queries), Path(qrels))], products, ESCI_GAINS)
        read[index] += judged
        asked += [Asked(index, each, False) for each in held.get(index, [])]
    for index, queries, qrels in given.people:
        judged, _ = encoders.read_judged([(index, Path(queries), Path(qrels))], products, ESCI_GAINS)
        asked += [Asked(index, each, True) for each in judged]
    return read, sorted(asked, key=lambda each: indexes.index(each.index))


def rows_of(
    read: Mapping[str, Sequence[Judged]], domains: Domains, count: int, options: contrastive.Options
) -> list[Row]:
    first, *others = indexes = list(read)
    mining = msgspec.structs.replace(options, mined_negatives=options.products)
    every = [each for index in indexes for each in drawn(read[index], count // len(indexes))]
    bare = [Judged(each.query, best_of(each)) for each in every]
    return [
        Row(NOTHING, [], options, indexes),
        Row(ALL, every, options, indexes),
        Row(FIRST, drawn(read[first], count), options, indexes),
        Row(OTHERS, drawn([each for index in others for each in read[index]], count), options, indexes),
        *(
            Row(without(at), drawn([each for each in read[first] if domains.of(each) != at], count), options, [first])
            for at in range(DOMAINS)
        ),
        Row(BEST, bare, options, indexes),
        Row(f"{BEST}, {MINED}", bare, mining, indexes),
        Row(f"{ALL}, {MINED}", every, mining, indexes),
    ]


def without(domain: int) -> str:
    return f"{FIRST} without domain {domain + 1}"


def measured(
    row: Row, base: Path, products: Catalogue, asked: Sequence[Asked], searched: Mapping[str, Catalogue], work: Path
) -> dict[str, list[float]]:
    """nDCG@10 of each query of each shop that the row is measured on; what is there already is not made again."""
    folder = work / re.sub(r"\W+", "-", row.name)
    kept = folder / "values.json"
    if not kept.is_file():

        def progress(step: int, steps: int, loss: float) -> None:
            if step % 20 == 0:
                print(f"{row.name}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

        model = base
        if row.read:
            model = contrastive.finetune_encoder(
                base, row.read, products, recipes.ENCODER, folder / "model", row.options, progress
            )
        bundle = export.export(model, folder / "bundle", load("", "encoder").description)
        values = {index: nearest.values(bundle, of_shop(asked, index), searched[index]) for index in row.shops}
        kept.write_bytes(msgspec.json.encode({index: found.tolist() for index, found in values.items()}))
    return msgspec.json.decode(kept.read_bytes(), type=dict[str, list[float]])


def show_sets(asked: Sequence[Asked], first: str, found: Mapping[str, NDArray[np.float64]]) -> None:
    """A table of the rows that are measured everywhere, for each set of queries."""
    own = np.array([each.index == first for each in asked])
    people = np.array([each.people for each in asked])
    chinese = np.array([has_han(each.judged.query) for each in asked])
    sets = {
        "first shop, judged by people": own & people,
        "first shop, graded by a language model": own & ~people,
        "other shops, English": ~own & ~chinese,
        "other shops, Chinese": ~own & chinese,
    }
    for title, chosen in sets.items():
        if not chosen.any():
            continue
        print(f"\n{title}: {int(chosen.sum())} queries\n| read | nDCG@10 | minus nothing (95 %) |\n|---|---|---|")
        for name, values in found.items():
            if len(values) == len(asked):
                print(f"| {name} | {values[chosen].mean():.3f} | {told(values[chosen], found[NOTHING][chosen])} |")
        for name in (BEST, ALL):
            gained = told(found[f"{name}, {MINED}"][chosen], found[name][chosen])
            print(f"| {name}: what mined negatives add | | {gained} |")


def show_domains(
    asked: Sequence[Asked], domains: Domains, first: str, found: Mapping[str, NDArray[np.float64]]
) -> None:
    """A table of the first shop's domains: what reading the other ones alone is worth there."""
    own = [each for each in asked if each.index == first]
    within = np.array([domains.of(each.judged) for each in own])
    print(
        "\n| domain of the first shop | queries | nothing | minus nothing: all domains | minus nothing: without this |"
    )
    print("|---|---|---|---|---|")
    for at in range(DOMAINS):
        chosen = within == at
        none, every, rest = (found[name][: len(own)][chosen] for name in (NOTHING, FIRST, without(at)))
        gained = f"{told(every, none)} | {told(rest, none)}"
        print(f"| {at + 1}: {domains.named(at)} | {int(chosen.sum())} | {none.mean():.3f} | {gained} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shop", nargs=3, action="append", required=True, metavar=("INDEX", "QUERIES", "QRELS"))
    parser.add_argument("--people", nargs=3, action="append", default=[], metavar=("INDEX", "QUERIES", "QRELS"))
    for name in ("work", "options"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=480, help="that each row reads")
    parser.add_argument(
        "--products", type=int, default=3000, help="of a shop that are searched, the judged ones included"
    )
    given = parser.parse_args()
    options = msgspec.convert(read_options(given.options).get("encoder", {}), contrastive.Options)
    indexes = list(dict.fromkeys(index for index, _, _ in given.shop))
    products = encoders.read_catalogue(indexes)
    texts = (" ".join(map(str, product.values())) for product in products.values())
    base, _, _ = open_base(PACKAGED, given.work / "base", "encoder", texts)

    read, asked = read_shops(given, indexes, products)
    domains = Domains(read[indexes[0]], products)
    searched = {index: nearest.sample(index, of_shop(asked, index), products, given.products) for index in indexes}
    found: dict[str, NDArray[np.float64]] = {}
    for row in rows_of(read, domains, given.queries, options):
        values = measured(row, base, products, asked, searched, given.work)
        found[row.name] = np.concatenate([values[index] for index in row.shops])

    sizes = ", ".join(str(len(each)) for each in searched.values())
    print(f"{given.queries} queries read in {options.rounds} rounds; {sizes} products searched")
    show_sets(asked, indexes[0], found)
    show_domains(asked, domains, indexes[0], found)


if __name__ == "__main__":
    main()
