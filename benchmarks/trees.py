"""Whether gradient boosted trees earn their place in the last mile: LambdaMART beside the weighted sum, same features.

    pip install lightgbm==4.7.0
    python benchmarks/trees.py --fit models-esci graded.queries.tsv graded.qrels.tsv dev \
        --test models-esci graded.queries.tsv graded.qrels.tsv spare

Both are fitted to the `--fit` queries, which name a split; how many leaves and trees is chosen there too, by five folds
over queries. LightGBM (MIT) is used here and nowhere else. A learning curve follows: both fitted to a part of those
queries, drawn three times. Differences are nDCG@10 on the `--test` queries with 95 % intervals (paired bootstrap).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import lightgbm
import numpy as np
from lastmile import told, windows
from numpy.typing import NDArray

from indexer import settings as config
from reranker.blend import FIRST_STAGE
from reranker.search import Searcher
from reranker.training import lastmile
from reranker.training.lastmile import Window

LEAVES, TREES = (3, 6, 12), (50, 100, 200)
PARTS = (0.25, 0.5)
DRAWS = 3


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
    return np.array([each.value(np.asarray(booster.predict(each.features))) if each.ids else 0.0 for each in measured])


def chosen(fitted: Sequence[Window]) -> tuple[int, int]:
    """Leaves and trees with the best mean nDCG@10 on the folds left out."""
    order = np.random.default_rng(13).permutation(len(fitted))
    means = {}
    for leaves, count in itertools.product(LEAVES, TREES):
        found = [
            ordered(trees([fitted[at] for at in np.setdiff1d(order, part)], leaves, count), [fitted[at] for at in part])
            for part in np.array_split(order, 5)
        ]
        means[leaves, count] = float(np.concatenate(found).mean())
        print(f"{leaves} leaves, {count} trees: {means[leaves, count]:.4f} on the folds left out", flush=True)
    return max(means, key=lambda key: means[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fit", "test"):
        parser.add_argument(
            f"--{name}", nargs=4, action="append", required=True, metavar=("INDEX", "QUERIES", "QRELS", "SPLIT")
        )
    options = parser.parse_args()
    settings = config.load()
    searcher = Searcher.connect(settings)
    window = settings.search.window
    fitted = [each for *shop, split in options.fit for each in windows(shop, split, window, searcher)]
    print(f"fitted to {len(fitted)} queries")
    held_out = lastmile.held_out_values(fitted).mean()
    print(f"weighted sum: {held_out:.4f} on the folds left out")
    leaves, count = chosen(fitted)
    tested = {
        f"{Path(shop[1]).parent.name} {split}": windows(shop, split, window, searcher) for *shop, split in options.test
    }
    for name, measured in tested.items():
        first = lastmile.values(measured, {FIRST_STAGE: 1.0})
        linear = lastmile.values(measured, lastmile.fit(fitted))
        boosted = ordered(trees(fitted, leaves, count), measured)
        print(
            f"\n{name}: {len(measured)} queries\n| last mile | nDCG@10 | minus the weighted sum (95 %) |\n|---|---|---|"
        )
        print(f"| first stage | {first.mean():.4f} | {told(first, linear)} |")
        print(f"| weighted sum | {linear.mean():.4f} | |")
        print(f"| {count} trees of {leaves} leaves | {boosted.mean():.4f} | {told(boosted, linear)} |")
        for part in PARTS:
            drawn = [np.random.default_rng(draw).permutation(len(fitted)) for draw in range(DRAWS)]
            some = [[fitted[at] for at in order[: round(part * len(fitted))]] for order in drawn]
            sums = np.mean([lastmile.values(measured, lastmile.fit(each)) for each in some], axis=0)
            grown = np.mean([ordered(trees(each, leaves, count), measured) for each in some], axis=0)
            print(f"| weighted sum, {len(some[0])} queries | {sums.mean():.4f} | {told(sums, linear)} |")
            print(f"| trees, {len(some[0])} queries | {grown.mean():.4f} | {told(grown, linear)} |", flush=True)


if __name__ == "__main__":
    main()
