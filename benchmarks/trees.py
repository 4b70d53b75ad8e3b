"""Whether gradient boosted trees earn their place in the last mile: LambdaMART beside the weighted sum, same features.

    pip install lightgbm==4.7.0
    python benchmarks/trees.py --windows runs/supervision/made/windows.json

Takes the windows that `supervision.py` keeps, of queries that the current reranker has not read. Both are fitted on
four fifths of the queries, or a part of those, and measured on the fifth; how many leaves and trees is chosen within
the four. LightGBM (MIT) is used here and nowhere else. Differences are nDCG@10 with 95 % intervals over queries (paired
bootstrap).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import lightgbm
import numpy as np
from lastmile import told
from numpy.typing import NDArray
from supervision import read_windows

from reranker.blend import FIRST_STAGE
from reranker.training import lastmile
from reranker.training.lastmile import Window

LEAVES, TREES = (3, 6, 12), (50, 100, 200)
SHARES = (0.25, 0.5, 1.0)
FOLDS = 5


def trees(fitted: Sequence[Window], leaves: int, count: int) -> lightgbm.Booster:
    """LambdaMART (Burges 2010) on the judged candidates of the windows."""
    kept = [(window, np.isfinite(window.targets())) for window in fitted]
    kept = [(window, known) for window, known in kept if known.any()]
    gains = np.concatenate([window.targets()[known] for window, known in kept])
    scale = sorted(set(gains.tolist()))
    data = lightgbm.Dataset(
        np.concatenate([window.features[known] for window, known in kept]),
        np.searchsorted(scale, gains),
        group=[int(known.sum()) for _, known in kept],
    )
    settings = {
        "objective": "lambdarank",
        "label_gain": scale,
        "lambdarank_truncation_level": 15,
        "num_leaves": leaves,
        "learning_rate": 0.05,
        "min_data_in_leaf": 20,
        "deterministic": True,
        "num_threads": 2,
        "seed": 13,
        "verbose": -1,
    }
    return lightgbm.train(settings, data, count)


def ordered(booster: lightgbm.Booster, measured: Sequence[Window]) -> NDArray[np.float64]:
    """nDCG@10 of each window."""
    return np.array([each.value(np.asarray(booster.predict(each.features))) for each in measured])


def chosen(fitted: Sequence[Window]) -> tuple[int, int]:
    """Leaves and trees with the best mean nDCG@10 on the folds left out."""
    order = np.random.default_rng(13).permutation(len(fitted))
    means = {}
    for leaves, count in itertools.product(LEAVES, TREES):
        found = []
        for part in np.array_split(order, FOLDS):
            others = [fitted[at] for at in np.setdiff1d(order, part)]
            found.append(ordered(trees(others, leaves, count), [fitted[at] for at in part]))
        means[leaves, count] = float(np.concatenate(found).mean())
    return max(means, key=lambda key: means[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=Path, required=True)
    windows = [each for each in read_windows(parser.parse_args().windows) if each.ids]
    values: dict[str, NDArray[np.float64]] = {}
    picked = []
    order = np.random.default_rng(13).permutation(len(windows))
    for fold, part in enumerate(np.array_split(order, FOLDS)):
        measured, others = [windows[at] for at in part], np.setdiff1d(order, part)
        drawn = np.random.default_rng(fold).permutation(others)
        leaves, count = chosen([windows[at] for at in others])
        picked.append(f"{count} trees of {leaves} leaves")
        for share in SHARES:
            fitted = [windows[at] for at in drawn[: round(share * len(drawn))]]
            rows = {
                "first stage": lastmile.values(measured, {FIRST_STAGE: 1.0}),
                f"weighted sum, {share:.0%} of four fifths": lastmile.values(measured, lastmile.fit(fitted)),
                f"trees, {share:.0%} of four fifths": ordered(trees(fitted, leaves, count), measured),
            }
            for name, found in rows.items():
                values.setdefault(name, np.zeros(len(windows)))[part] = found
    whole = values["weighted sum, 100% of four fifths"]
    print(f"{len(windows)} queries, {FOLDS} folds; chosen within them: {', '.join(picked)}\n")
    print("| last mile | nDCG@10 | minus the weighted sum (95 %) |\n|---|---|---|")
    for name, found in values.items():
        print(f"| {name} | {found.mean():.4f} | {told(found, whole)} |")


if __name__ == "__main__":
    main()
