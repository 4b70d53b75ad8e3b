"""The command `train weights`: a bundle's last mile fitted to a shop's own judged queries, without torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from indexer import settings as config
from indexer.errors import InputError, UsageError
from indexer.terminal import emit_json, err, progress
from reranker.blend import FIRST_STAGE
from reranker.bundle import Bundle, fingerprint, write_description
from reranker.cache import Cache
from reranker.evaluation.compare import ESCI_GAINS, Gain, parse_gains
from reranker.evaluation.judgments import of_split, read_qrels, read_queries
from reranker.evaluation.metrics import bootstrap_interval
from reranker.languages import is_latin
from reranker.search import Searcher
from reranker.training import lastmile
from reranker.training.shops import KEPT_SCORES, Source, paired, window_of, words_window_of

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDS = 5


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--index", "indexes", multiple=True, required=True, help="Index of the shop; may be given again.")
@click.option(
    "--queries", type=_FILE, multiple=True, required=True, help="TSV: query_id, query, split if there is one."
)
@click.option("--qrels", type=_FILE, multiple=True, required=True, help="TSV: query_id, product_id, grade.")
@click.option("--split", help="Only queries whose column `split` says so.")
@click.option("--english", is_flag=True, help="Of the reranker for English queries.")
@click.option("--anew", is_flag=True, help="Start from nothing, not from the weights that the bundle has.")
@click.option("--name", help="Name of the new bundle; default: the old one's.")
@click.option("--gains", default=ESCI_GAINS, show_default=True, help="Gain of each grade.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the bundle.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def weights(
    indexes: tuple[str, ...],
    queries: tuple[Path, ...],
    qrels: tuple[Path, ...],
    split: str | None,
    english: bool,
    anew: bool,
    name: str | None,
    gains: str,
    out: Path,
    as_json: bool,
) -> None:
    """Fit the weights of the current reranker's last mile to judged queries that it was not trained on.

    The model stays as it is; what changes is how much the first stage, the model and each signal count. Some fifty
    judged queries are enough, because the new weights hold on to the old ones unless held-out queries speak against
    them. Takes a minute or two, and needs no training library. `shelfrank models promote` puts the result to use.

    \b
    Example:
      shelfrank train weights --index shop --queries queries.tsv --qrels qrels.tsv --out bundles/ours
    """
    settings = config.load()
    sources = []
    for index, query_file, qrels_file in paired(indexes, queries, qrels):
        judged = read_queries(query_file)
        chosen = of_split(judged, split, query_file) if split else judged
        grades = read_qrels(qrels_file)
        chosen = [query for query in chosen if query.id in grades and (not english or is_latin(query.text, ()))]
        sources.append(Source(index, chosen, grades, {}))
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out} is not empty. Name a new folder.")
    searcher = Searcher.connect(settings, waits=True)
    assert searcher.reranker is not None
    fitted = searcher.reranker.english if english else searcher.reranker
    if fitted is None:
        raise UsageError("There is no reranker for English queries: promote one, or name it in models.reranker_en.")
    fitted.english, searcher.reranker = None, fitted
    with progress() as bar:
        task = bar.add_task("weights", total=sum(len(source.queries) for source in sources))
        bundle, report = fit_weights(
            sources, searcher, parse_gains(gains), settings.search.window, out, anew, name, lambda: bar.advance(task)
        )
    if as_json:
        about = {name: getattr(bundle.description, name) for name in ("weights", "vector_weights")}
        emit_json({"bundle": str(bundle.folder), "id": bundle.id, **about, **report})
    else:
        err.print(f"{bundle.id} written to {bundle.folder}", report)


def fit_weights(
    sources: Sequence[Source],
    searcher: Searcher,
    gain: Gain,
    window: int,
    out: Path,
    anew: bool = False,
    name: str | None = None,
    on_query: Callable[[], None] = lambda: None,
) -> tuple[Bundle, dict[str, Any]]:
    """A copy of the searcher's reranker bundle with fitted weights, and how they do on queries left out.

    Raises InputError when too few windows are judged.
    """
    assert searcher.reranker is not None
    bundle = searcher.reranker.bundle
    card = bundle.description
    rows, words = [], []
    searcher.reranker.cache = searcher.reranker.cache or Cache(KEPT_SCORES)
    for source in sources:
        for query in source.queries:
            rows.append(window_of(source, searcher, query, gain, window))
            words += words_window_of(source, searcher, query, gain, window)
            on_query()
    near, before = lastmile.know_cosines(rows), None if anew else card
    found = lastmile.fitter(before, cosines=False)([*rows, *words])
    fitted = lastmile.fitter(before, near)
    if not found or len(rows) < 2 * _FOLDS:
        raise InputError(
            f"{len(rows)} judged queries are too few to fit weights on; {2 * _FOLDS} is the least, 50 is a start."
        )
    held_out = lastmile.held_out_values(rows, _FOLDS, seed=0, fitted=fitted)
    before_it = {"first stage": lastmile.values(rows, {FIRST_STAGE: 1.0})}
    if not anew:  # else the old weights may be of these very queries
        before_it["old weights"] = lastmile.values(rows, card.last_mile(near))
    report: dict[str, Any] = {"queries": len(rows)}
    for what, values in {**before_it, "new weights, held out": held_out}.items():
        report[f"ndcg@10 {what}"] = round(float(values.mean()), 4)
    for what, values in before_it.items():
        gained = bootstrap_interval(held_out - values, np.random.default_rng(0))
        report[f"gain over {what}"] = {key: round(getattr(gained, key), 4) for key in ("mean", "low", "high")}
    out.mkdir(parents=True, exist_ok=True)
    for file in card.files:
        shutil.copyfile(bundle.folder / file, out / file)
    seen = {fingerprint(query.text) for source in sources for query in source.queries}
    changed = msgspec.structs.replace(
        card,
        name=name or card.name,
        weights=found,
        vector_weights=fitted(rows) if near else {},
        quality={**card.quality, "weights": report},
        weighed_on=tuple(sorted(seen if anew else {*card.weighed_on, *seen})),
    )
    return write_description(out, changed), report
