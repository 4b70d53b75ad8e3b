"""The queries that a run answers worst, with what it shows first: where to look for the next improvement.

    python benchmarks/errors.py --run runs/relevance/esci/rerank-tuned.run \
        --baseline runs/relevance/esci-untrained/fusion-tuned.run \
        --queries queries.tsv --qrels qrels.tsv --products products.jsonl --title product_title --id product_id

Prints a table in Markdown: nDCG@10 of the run and of the baseline, the grades of the run's first five hits (- for a
product that nobody judged), how many products of the best grade there are and how many of them the run's list has, and
the first hit that is not of the best grade.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import msgspec

from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.evaluation.metrics import gains_of, ndcg


def ranking(path: Path) -> dict[str, list[str]]:
    """Query id -> product ids, best first, of a TREC run that was written in that order."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text("utf-8").splitlines():
        query, _, product, *_ = line.split()
        found[query].append(product)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "baseline", "queries", "qrels", "products"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--id", default="id")
    parser.add_argument("--title", default="title")
    parser.add_argument("--worst", type=int, default=20)
    options = parser.parse_args()
    run, baseline = ranking(options.run), ranking(options.baseline)
    qrels, gain = read_qrels(options.qrels), parse_gains(ESCI_GAINS)
    rows = (msgspec.json.decode(line) for line in options.products.read_bytes().splitlines())
    titles = {row[options.id]: row[options.title] for row in rows}
    rated = []
    for query in read_queries(options.queries):
        gains = gains_of(qrels.get(query.id, {}), gain)
        rated.append((ndcg(run[query.id], gains, 10), ndcg(baseline[query.id], gains, 10), query))
    print("| query | run | baseline | first five | best, found | first hit that is not of the best grade |")
    print("|---|---|---|---|---|---|")
    for value, before, query in sorted(rated, key=lambda each: each[0])[: options.worst]:
        grades = qrels.get(query.id, {})
        best = {product for product, grade in grades.items() if grade == max(grades.values())}
        first = " ".join(str(grades.get(product, "-")) for product in run[query.id][:5])
        wrong = next((product for product in run[query.id] if product not in best), "")
        title = titles.get(wrong, "")[:70].replace("|", "/")
        told = f"{title} ({grades.get(wrong, '-')})"
        found = len(best & set(run[query.id]))
        print(f"| {query.text} | {value:.3f} | {before:.3f} | {first} | {len(best)}, {found} | {told} |")


if __name__ == "__main__":
    main()
