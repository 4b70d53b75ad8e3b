"""Train, dev and test by query, never by pair: near-identical queries go together, strata are spread evenly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from indexer.errors import UsageError
from reranker.training.prepare.collection import SPLITS, Entry


def check_shares(dev: float, test: float) -> None:
    if not (dev >= 0 and test >= 0 and dev + test < 1):
        raise UsageError(f"dev {dev} and test {test} leave nothing to train on; their sum must be below 1.")


def assign(
    entries: Mapping[str, Entry], groups: Sequence[Sequence[str]], dev: float, test: float, seed: int
) -> dict[str, str]:
    """A split for every query key; `groups` are the keys that belong together, each key in one group.

    A query's own `split` column stays as it is, and the rest of its group follows the first that has one. The others
    are drawn stratum by stratum (language and source), each time for the split that lacks most, so that every stratum
    is shared out as asked, to within one group. The same queries and seed give the same splits in whatever order.
    """
    check_shares(dev, test)
    splits: dict[str, str] = {}
    free: dict[tuple[str, str], list[Sequence[str]]] = {}
    for group in groups:
        given = next((entries[key].columns["split"] for key in group if "split" in entries[key].columns), "")
        if given:
            splits.update({key: entries[key].columns.get("split", given) for key in group})
        else:
            first = entries[min(group)]
            free.setdefault((first.language, first.source), []).append(group)
    shares = dict(zip(SPLITS, (1 - dev - test, dev, test), strict=True))
    rng = np.random.default_rng(seed)
    drawn, filled = 0, dict.fromkeys(SPLITS, 0)
    for stratum in sorted(free):
        waiting = sorted(free[stratum], key=min)
        for at in rng.permutation(len(waiting)):
            group = waiting[at]
            drawn += len(group)
            split = max(SPLITS, key=lambda name: shares[name] * drawn - filled[name])
            filled[split] += len(group)
            splits.update(dict.fromkeys(group, split))
    return {key: splits[key] for key in entries}
