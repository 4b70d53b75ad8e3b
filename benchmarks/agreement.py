"""How far the grades of a language model agree with those of ESCI's human judges.

    python benchmarks/agreement.py

Reads deploy/models/graded/agreement.tsv, pairs that were graded from their text by deploy/models/graded/instruction.md
before the human grades were looked at, in two rounds: the instruction was mended between them, by other queries. Needs
$SHELFRANK_DATA/esci. Prints Cohen's kappa, weighed by the square of the distance for the four grades, with an interval
of 95 % by bootstrap over queries, and how the grades meet.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.evaluation.judgments import read_qrels

GRADED = Path(__file__).resolve().parent.parent / "deploy" / "models" / "graded" / "agreement.tsv"
GRADES = (0, 1, 2, 3)
_DRAWS = 1000
Pairs = NDArray[np.int64]


def meeting(pairs: Pairs) -> Pairs:
    """How often each grade of the one (row) met each of the other (column)."""
    found = np.zeros((len(GRADES), len(GRADES)), np.int64)
    np.add.at(found, tuple(pairs.T), 1)
    return found


def kappa(met: NDArray[np.float64], costs: NDArray[np.float64]) -> float:
    """Cohen's kappa (1968): 1 less the cost of what was found over that of chance."""
    by_chance = np.outer(met.sum(1), met.sum(0)) / met.sum()
    return float(1 - (costs * met).sum() / max(float((costs * by_chance).sum()), 1e-12))


def quadratic(pairs: Pairs) -> float:
    return kappa(meeting(pairs).astype(float), np.subtract.outer(GRADES, GRADES).astype(float) ** 2)


def exact(pairs: Pairs) -> float:
    return kappa(meeting((pairs == GRADES[-1]).astype(np.int64)).astype(float), 1 - np.eye(len(GRADES)))


def main() -> None:
    human = read_qrels(Path(os.environ["SHELFRANK_DATA"]) / "esci" / "qrels.tsv")
    rounds: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for line in GRADED.read_text("utf-8").splitlines()[1:]:
        number, query, product, grade = line.split("\t")
        rounds[number][query].append((int(grade), int(human[query][product])))
    rng = np.random.default_rng(0)
    print("| round | queries, pairs | kappa of four grades (95 %) | kappa of 3 and the rest (95 %) | same grade |")
    print("|---|---|---|---|---|")
    for number, by_query in rounds.items():
        parts = [np.array(pairs) for pairs in by_query.values()]
        whole = np.concatenate(parts)
        cells = []
        for measure in (quadratic, exact):
            drawn = [
                measure(np.concatenate([parts[at] for at in rng.integers(len(parts), size=len(parts))]))
                for _ in range(_DRAWS)
            ]
            low, high = np.percentile(drawn, [2.5, 97.5])
            cells.append(f"{measure(whole):.3f} ({low:.3f} to {high:.3f})")
        same = float((whole[:, 0] == whole[:, 1]).mean())
        print(f"| {number} | {len(parts)}, {len(whole)} | {' | '.join(cells)} | {same:.3f} |")
    for number, by_query in rounds.items():
        whole = np.concatenate([np.array(pairs) for pairs in by_query.values()])
        print(f"\nRound {number}, rows these grades, columns people's, 0 to 3:")
        print(meeting(whole))


if __name__ == "__main__":
    main()
