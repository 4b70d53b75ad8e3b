"""How far fine-tuning carries: an encoder that reads one shop, or some of its categories, measured on the others.

    python benchmarks/transfer.py --work runs/transfer --options deploy/models/encoder.toml \
        --shop models-untrained-esci graded.queries.tsv graded.qrels.tsv \
        --people models-untrained-esci queries.tsv qrels.tsv

Each row is the untrained base, fine-tuned on as many judged queries as the others (split train of `--shop`). What is
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

from reranker.bundle import load
from reranker.evaluation.compare import ESCI_GAINS
from reranker.training import contrastive, encoders, export, nearest, recipes
from reranker.training.base import PACKAGED
from reranker.training.mining import Judged
from reranker.training.workbench import open_base, read_options

DOMAINS = 3
_HAN = re.compile(r"[一-鿿]")


def category_of(each: Judged, products: Mapping[str, Mapping[str, object]]) -> str:
    """The top category that most of a query's best products have."""
    best = [key for key, gain in each.gains.items() if gain == max(each.gains.values())]
    paths = [products[key].get("category") for key in best]
    tops = Counter(str(path[0]) if isinstance(path, list) and path else "none" for path in paths)
    return tops.most_common(1)[0][0]


def grouped(counts: Mapping[str, int], groups: int) -> dict[str, int]:
    """The group of each name: the largest first, each into the group that is the smallest so far."""
    sizes, found = [0] * groups, {}
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        found[name] = int(np.argmin(sizes))
        sizes[found[name]] += count
    return found


def drawn(judged: Sequence[Judged], count: int) -> list[Judged]:
    """So many of the queries at random, seeded; the same ones again where there are fewer."""
    order = np.random.default_rng(13).permutation(len(judged))
    return [judged[int(at)] for at in np.resize(order, count)]


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
    about = load("", "encoder").description

    read: dict[str, list[Judged]] = {index: [] for index in indexes}
    asked: dict[str, list[Judged]] = {index: [] for index in indexes}
    for index, queries, qrels in given.shop:
        judged, held = encoders.read_judged([(index, Path(queries), Path(qrels))], products, ESCI_GAINS)
        read[index] += judged
        asked[index] += held.get(index, [])
    by_people: set[str] = set()
    for index, queries, qrels in given.people:
        judged, _ = encoders.read_judged([(index, Path(queries), Path(qrels))], products, ESCI_GAINS)
        by_people |= {each.query for each in judged}
        asked[index] += judged

    first, *others = indexes
    tops = {each.query: category_of(each, products) for each in [*read[first], *asked[first]]}
    number = grouped(Counter(tops[each.query] for each in read[first]), DOMAINS)
    domain = {query: number.get(top, -1) for query, top in tops.items()}
    rows: dict[str, list[Judged]] = {
        "nothing": [],
        "all shops": [each for index in indexes for each in drawn(read[index], given.queries // len(indexes))],
        "the first shop": drawn(read[first], given.queries),
        "the others": drawn([each for index in others for each in read[index]], given.queries),
    }
    for at in range(DOMAINS):
        rest = [each for each in read[first] if domain[each.query] != at]
        rows[f"the first shop without domain {at + 1}"] = drawn(rest, given.queries)

    searched = {index: nearest.sample(index, asked[index], products, given.products) for index in indexes}
    found: dict[str, NDArray[np.float64]] = {}
    for name, judged in rows.items():
        folder = given.work / re.sub(r"\W+", "-", name)
        kept = folder / "values.json"
        if not kept.is_file():

            def progress(step: int, steps: int, loss: float, name: str = name) -> None:
                if step % 20 == 0:
                    print(f"{name}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

            model = base
            if judged:
                model = contrastive.finetune_encoder(
                    base, judged, products, recipes.ENCODER, folder / "model", options, progress
                )
            bundle = export.export(model, folder / "bundle", about)
            values = [nearest.values(bundle, asked[index], searched[index]) for index in indexes]
            kept.write_bytes(msgspec.json.encode(np.concatenate(values).tolist()))
        found[name] = np.array(msgspec.json.decode(kept.read_bytes()))

    order = [(index, each.query) for index in indexes for each in asked[index]]
    own = np.array([index == first for index, _ in order])
    people = np.array([query in by_people for _, query in order])
    chinese = np.array([bool(_HAN.search(query)) for _, query in order])
    within = np.array([domain.get(query, -1) if index == first else -1 for index, query in order])
    sets = {
        "first shop, judged by people": own & people,
        "first shop, graded by a language model": own & ~people,
        "other shops, English": ~own & ~chinese,
        "other shops, Chinese": ~own & chinese,
    }
    print(f"{given.queries} queries read in {options.rounds} rounds, {given.products} products searched")
    for title, chosen in sets.items():
        if not chosen.any():
            continue
        print(f"\n{title}: {int(chosen.sum())} queries\n| read | nDCG@10 | minus nothing (95 %) |\n|---|---|---|")
        for name in list(rows)[:4]:
            print(
                f"| {name} | {found[name][chosen].mean():.3f} | {told(found[name][chosen], found['nothing'][chosen])} |"
            )
    print(
        "\n| domain of the first shop | queries | nothing | all domains | without this one | minus all domains (95 %) |"
    )
    print("|---|---|---|---|---|---|")
    for at in range(DOMAINS):
        inside = ", ".join(top for top, where in number.items() if where == at)
        chosen = within == at
        nothing, whole, without = (
            found[name][chosen] for name in ("nothing", "the first shop", f"the first shop without domain {at + 1}")
        )
        means = " | ".join(f"{values.mean():.3f}" for values in (nothing, whole, without))
        print(f"| {at + 1}: {inside} | {int(chosen.sum())} | {means} | {told(without, whole)} |")


if __name__ == "__main__":
    main()
