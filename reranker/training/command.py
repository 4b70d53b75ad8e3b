"""The command `train`: its group, and a base that has read a catalogue, and a reranker from judged queries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec
import numpy as np

from indexer import client as clusters
from indexer import settings as config
from indexer.errors import UsageError
from indexer.patience import patient
from indexer.terminal import emit_json, err, progress
from reranker import bundle as bundles
from reranker.bundle import Kind
from reranker.training.encoders import encoder
from reranker.training.prepare.command import check, prepare
from reranker.training.shops import Source, open_shop, paired, read_products
from reranker.training.weights import weights
from reranker.training.workbench import (
    BASE,
    FILE,
    FOLDER,
    HELP,
    JSON,
    WORK,
    done,
    on_step_of,
    open_base,
    prepare_base,
    read_options,
)

_LIGHT = ("prepare", "check", "weights")  # these need no training library


@click.group(context_settings=HELP)
@click.pass_context
def train(context: click.Context) -> None:
    """Make model bundles. All but prepare, check and weights need the `train` extra; serving does not.

    \b
    Examples:
      shelfrank train encoder --out bundles/encoder
      shelfrank train pretrain --index shop --out runs/read
      shelfrank train reranker --index shop --queries queries.tsv --qrels qrels.tsv --out runs/shop
    """
    if context.invoked_subcommand in _LIGHT:
        return
    if find_spec("torch") is None or find_spec("optimum") is None:
        raise UsageError("Training needs torch and optimum: pip install 'shelfrank[train]'")


train.add_command(prepare)
train.add_command(check)
train.add_command(weights)
train.add_command(encoder)


@train.command(context_settings=HELP)
@click.option("--index", "indexes", multiple=True, required=True, help="Index of the shop; may be given again.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the new base; a stopped run goes on from it.")
@BASE
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1))
@WORK
@click.option("--seed", default=13, show_default=True)
@JSON
def pretrain(indexes: tuple[str, ...], out: Path, base: str, epochs: int, work: Path, seed: int, as_json: bool) -> None:
    """Let a base model read the catalogue: hidden words, and which text belongs to which title.

    The result is another base, for --base of the other commands. Losses are measured on products held out.

    \b
    Example:
      shelfrank train pretrain --index shop --out runs/read
      shelfrank train reranker --base runs/read --index shop --queries queries.tsv --qrels qrels.tsv --out runs/shop
    """
    from reranker.training.pretrain import Options
    from reranker.training.pretrain import pretrain as read

    settings = config.load()
    client = patient(clusters.connect(settings), settings.ingest.patience_s)
    err.print("Reading the catalogues …")
    products = [
        product
        for index in indexes
        for product in read_products(client, index, ("title", "bullets", "description")).values()
    ]
    folder, _ = prepare_base(base, work, (" ".join(map(str, product.values())) for product in products))
    with progress() as bar:
        losses = read(folder, products, out, Options(epochs=epochs, seed=seed), partial(on_step_of(bar), "read"))
    if as_json:
        emit_json({"base": str(out), "products": len(products), **msgspec.to_builtins(losses)})
    else:
        for name, found in losses.items():
            err.print(f"{name}: hidden words {found.masked}, pairs {found.pair} ({found.pair_right:.0%} told right)")


@train.command(context_settings=HELP)
@click.option("--index", "indexes", multiple=True, required=True, help="Index of the shop; may be given again.")
@click.option("--queries", type=FILE, multiple=True, required=True, help="TSV: query_id, query, split if there is one.")
@click.option("--qrels", type=FILE, multiple=True, required=True, help="TSV: query_id, product_id, grade.")
@click.option("--out", type=FOLDER, required=True, help="Run folder; a stopped run goes on from it.")
@BASE
@click.option("--name", default="reranker", show_default=True, help="Name on the bundle's card.")
@click.option(
    "--teacher", "teachers", multiple=True, type=FOLDER, help="Bundle whose scores are the targets; may be given again."
)
@click.option(
    "--unjudged", multiple=True, nargs=2, metavar="INDEX FILE", help="Queries that teachers score hits of, one a line."
)
@click.option("--english", is_flag=True, help="For English queries alone, in the place of the one for all.")
@click.option("--gains", default="3:1,2:0.1,1:0.01,0:0", show_default=True, help="Gain of each grade.")
@click.option("--options", type=FILE, help="TOML with [data] and [finetune] settings.")
@click.option("--dev-share", default=0.15, show_default=True, help="Queries for choosing the blend.")
@click.option("--test-share", default=0.25, show_default=True, help="Queries kept for the figures.")
@click.option("--refit", is_flag=True, help="After measuring, train again on all queries and keep that.")
@WORK
@click.option("--seed", default=13, show_default=True)
@JSON
def reranker(
    indexes: tuple[str, ...],
    queries: tuple[Path, ...],
    qrels: tuple[Path, ...],
    out: Path,
    base: str,
    name: str,
    teachers: tuple[Path, ...],
    unjudged: tuple[tuple[str, str], ...],
    english: bool,
    gains: str,
    options: Path | None,
    dev_share: float,
    test_share: float,
    refit: bool,
    work: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Fine-tune a cross-encoder on judged queries, with negatives from the catalogue.

    Queries are split by query; a `split` column (train, dev, test) in the queries file decides where there is one,
    and its test queries are never trained on.

    \b
    Example:
      shelfrank train reranker --index shop --queries queries.tsv --qrels qrels.tsv --out runs/shop --refit
    """
    from reranker.evaluation.compare import parse_gains
    from reranker.evaluation.judgments import read_qrels, read_queries
    from reranker.training import data, finetune, run

    chosen = read_options(options)
    sources = []
    for index, query_file, qrels_file in paired(indexes, queries, qrels):
        judged = read_queries(query_file)
        named = {query.id: query.columns["split"] for query in judged if "split" in query.columns}
        split = named or make_splits(sorted(query.id for query in judged), dev_share, test_share, seed)
        sources.append(Source(index, judged, read_qrels(qrels_file), split, sealed=bool(named)))
    if unjudged and not teachers:
        raise UsageError(
            "Queries without judgments teach nothing by themselves: give a --teacher that scores their hits."
        )
    settings = config.load()
    err.print("Reading the catalogues …")
    shops = [open_shop(source, settings, _read_unjudged(source, unjudged, sources)) for source in sources]
    texts = (" ".join(map(str, product.values())) for shop in shops for product in shop.products.values())
    kind: Kind = "reranker-en" if english else "reranker"
    folder, licence, before = open_base(base, work, kind, texts)
    plan = run.Plan(
        name=name,
        base=before.description.base_model if before else base,
        base_licence=licence,
        gain=parse_gains(gains),
        data=msgspec.convert(chosen.get("data", {}) | {"seed": seed}, data.Options),
        finetune=msgspec.convert(
            {"loss": "teacher" if teachers else "listnet"} | chosen.get("finetune", {}) | {"seed": seed},
            finetune.Options,
        ),
        refit=refit,
        window=settings.search.window,
        before=before,
        kind=kind,
        teachers=tuple(bundles.verify(folder, "reranker") for folder in teachers),
    )
    with progress() as bar:
        bundle = run.train(shops, folder, plan, out, on_step_of(bar))
    done(bundle, as_json)


def _read_unjudged(source: Source, unjudged: Sequence[tuple[str, str]], sources: Sequence[Source]) -> list[str]:
    """The queries to be searched in a source's index; where several sources share it, the first has them."""
    if source is not next(each for each in sources if each.index == source.index):
        return []
    files = [Path(file) for index, file in unjudged if index == source.index]
    lines = (line.strip() for file in files for line in file.read_text("utf-8").splitlines())
    return list(dict.fromkeys(filter(None, lines)))


def make_splits(query_ids: Sequence[str], dev_share: float, test_share: float, seed: int) -> dict[str, str]:
    """A seeded split by query: query id -> train, dev or test."""
    if not (dev_share >= 0 and test_share >= 0 and dev_share + test_share < 1):
        raise UsageError(f"dev {dev_share} and test {test_share} leave nothing to train on; their sum must be below 1.")
    order = np.random.default_rng(seed).permutation(len(query_ids))
    dev, test = round(len(order) * dev_share), round(len(order) * test_share)
    names = ["dev"] * dev + ["test"] * test + ["train"] * (len(order) - dev - test)
    return {query_ids[at]: name for at, name in zip(order, names, strict=True)}
