"""The command `train`: an encoder bundle from a base model, a reranker bundle from judged queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.progress import Progress, TaskID

from indexer import client as clusters
from indexer import settings as config
from indexer.errors import ConfigError, UsageError
from indexer.terminal import emit_json, err, progress
from reranker.bundle import Bundle, Description, Kind, Layout, fingerprint
from reranker.bundle import load as load_bundle
from reranker.training.prepare.command import check, prepare
from reranker.training.shops import Source, open_shop, paired, read_products
from reranker.training.weights import weights

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_HELP = {"help_option_names": ["-h", "--help"]}
CURRENT = "current"  # as a base: the bundle in use
_LIGHT = ("prepare", "check", "weights")  # these need no training library
_BASE = click.option(
    "--base",
    default="multilingual-e5-small",
    show_default=True,
    help="Base model: the packaged one, a folder, a hub name, or `current` to go on from the bundle in use.",
)
_WORK = click.option(
    "--work", type=_FOLDER, default="runs/base", show_default=True, help="Folder for the prepared base."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@click.group(context_settings=_HELP)
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


@train.command(context_settings=_HELP)
@click.option("--out", type=_FOLDER, required=True, help="Folder for the bundle.")
@click.option("--name", help="Name of the bundle; default: the base's, or the folder's when it was fine-tuned.")
@_BASE
@click.option("--texts", type=_FILE, multiple=True, help="Text files whose words the vocabulary must keep.")
@click.option("--whole-vocabulary", is_flag=True, help="Keep every piece of the base's vocabulary.")
@click.option("--index", "indexes", multiple=True, help="Fine-tune on this shop's judged queries; may be given again.")
@click.option(
    "--queries", type=_FILE, multiple=True, help="TSV: query_id, query; only `train` where split is a column."
)
@click.option("--qrels", type=_FILE, multiple=True, help="TSV: query_id, product_id, grade.")
@click.option("--gains", default="3:1,2:0.1,1:0.01,0:0", show_default=True, help="Gain of each grade.")
@click.option("--options", type=_FILE, help="TOML with [encoder] settings of fine-tuning.")
@_WORK
@_JSON
def encoder(
    out: Path,
    name: str | None,
    base: str,
    texts: tuple[Path, ...],
    whole_vocabulary: bool,
    indexes: tuple[str, ...],
    queries: tuple[Path, ...],
    qrels: tuple[Path, ...],
    gains: str,
    options: Path | None,
    work: Path,
    as_json: bool,
) -> None:
    """Export a base model as an encoder bundle, its vocabulary cut to English and Chinese product text.

    With --index, --queries and --qrels it is fine-tuned on judged queries first. Compare the two on queries that
    neither has seen: `shelfrank models promote` does, on an index of each.

    \b
    Example:
      shelfrank train encoder --texts products.jsonl --out bundles/encoder
      shelfrank train encoder --index shop --queries queries.tsv --qrels qrels.tsv --out bundles/tuned
    """
    from reranker.training import export, recipes

    folder, licence, before = open_base(base, work, "encoder", _lines(texts), whole_vocabulary)
    learned: tuple[str, ...] = ()
    chosen: Mapping[str, object] = {}
    if indexes or queries or qrels:
        chosen = _options(options).get("encoder", {})
        folder, learned = _tune_encoder(
            folder, paired(indexes, queries, qrels), gains, chosen, out.with_name(f"{out.name}-model")
        )
    seen = before.description.trained_on if before else ()
    about = Description(
        format=1,
        kind="encoder",
        name=name or (out.name if learned else folder.name),
        base_model=before.description.base_model if before else base,
        base_licence=licence,
        licence="Apache-2.0",
        languages=("en", "zh"),
        recipe=recipes.ENCODER,
        layout=Layout((), (), (), 0, False),
        files={},
        dimension=export.hidden_size(folder),
        training={
            "fine_tuned": bool(learned),
            "vocabulary": export.vocabulary_size(folder),
            **({"judged_queries": len(learned), "encoder": dict(chosen)} if learned else {}),
            **({"before": {"bundle": before.id, **before.description.training}} if before else {}),
        },
        trained_on=tuple(sorted({*learned, *seen})),
    )
    _done(export.export(folder, out, about), as_json)


@train.command(context_settings=_HELP)
@click.option("--index", "indexes", multiple=True, required=True, help="Index of the shop; may be given again.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for the new base; a stopped run goes on from it.")
@_BASE
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1))
@_WORK
@click.option("--seed", default=13, show_default=True)
@_JSON
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

    client = clusters.connect(config.load())
    err.print("Reading the catalogues …")
    products = [
        product
        for index in indexes
        for product in read_products(client, index, ("title", "bullets", "description")).values()
    ]
    folder, _ = prepare_base(base, work, (" ".join(map(str, product.values())) for product in products))
    with progress() as bar:
        losses = read(folder, products, out, Options(epochs=epochs, seed=seed), partial(_on_step(bar), "read"))
    if as_json:
        emit_json({"base": str(out), "products": len(products), **msgspec.to_builtins(losses)})
    else:
        for name, found in losses.items():
            err.print(f"{name}: hidden words {found.masked}, pairs {found.pair} ({found.pair_right:.0%} told right)")


@train.command(context_settings=_HELP)
@click.option("--index", "indexes", multiple=True, required=True, help="Index of the shop; may be given again.")
@click.option(
    "--queries", type=_FILE, multiple=True, required=True, help="TSV: query_id, query, split if there is one."
)
@click.option("--qrels", type=_FILE, multiple=True, required=True, help="TSV: query_id, product_id, grade.")
@click.option("--out", type=_FOLDER, required=True, help="Run folder; a stopped run goes on from it.")
@_BASE
@click.option("--name", default="reranker", show_default=True, help="Name on the bundle's card.")
@click.option("--gains", default="3:1,2:0.1,1:0.01,0:0", show_default=True, help="Gain of each grade.")
@click.option("--options", type=_FILE, help="TOML with [data] and [finetune] settings.")
@click.option("--dev-share", default=0.15, show_default=True, help="Queries for choosing the blend.")
@click.option("--test-share", default=0.25, show_default=True, help="Queries kept for the figures.")
@click.option("--refit", is_flag=True, help="After measuring, train again on all queries and keep that.")
@_WORK
@click.option("--seed", default=13, show_default=True)
@_JSON
def reranker(
    indexes: tuple[str, ...],
    queries: tuple[Path, ...],
    qrels: tuple[Path, ...],
    out: Path,
    base: str,
    name: str,
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

    chosen = _options(options)
    sources = []
    for index, query_file, qrels_file in paired(indexes, queries, qrels):
        judged = read_queries(query_file)
        named = {query.id: query.columns["split"] for query in judged if "split" in query.columns}
        split = named or make_splits(sorted(query.id for query in judged), dev_share, test_share, seed)
        sources.append(Source(index, judged, read_qrels(qrels_file), split, sealed=bool(named)))
    settings = config.load()
    err.print("Reading the catalogues …")
    shops = [open_shop(source, settings) for source in sources]
    texts = (" ".join(map(str, product.values())) for shop in shops for product in shop.products.values())
    folder, licence, before = open_base(base, work, "reranker", texts)
    plan = run.Plan(
        name=name,
        base=before.description.base_model if before else base,
        base_licence=licence,
        gain=parse_gains(gains),
        data=msgspec.convert(chosen.get("data", {}) | {"seed": seed}, data.Options),
        finetune=msgspec.convert(chosen.get("finetune", {}) | {"seed": seed}, finetune.Options),
        refit=refit,
        window=settings.search.window,
        before=before,
    )
    with progress() as bar:
        bundle = run.train(shops, folder, plan, out, _on_step(bar))
    _done(bundle, as_json)


def _tune_encoder(
    base: Path, shops: Sequence[tuple[str, Path, Path]], gains: str, chosen: Mapping[str, object], out: Path
) -> tuple[Path, tuple[str, ...]]:
    """Fine-tune an encoder on the shops' training queries: the new model's folder, and what it has seen."""
    from reranker.evaluation.compare import parse_gains
    from reranker.evaluation.judgments import read_qrels, read_queries
    from reranker.evaluation.metrics import gains_of
    from reranker.training import contrastive, recipes

    client, gain = clusters.connect(config.load()), parse_gains(gains)
    fields = [field.name for field in recipes.ENCODER.fields]
    products: dict[str, dict[str, object]] = {}
    judged = []
    for index, query_file, qrels_file in shops:
        found = read_products(client, index, fields)
        products |= {f"{index}/{key}": product for key, product in found.items()}
        grades = read_qrels(qrels_file)
        for query in read_queries(query_file):
            if query.columns.get("split", "train") == "train" and query.id in grades:
                known = {key: grade for key, grade in grades[query.id].items() if key in found}
                worth = gains_of(known, gain)
                judged.append(contrastive.Judged(query.text, {f"{index}/{key}": worth.get(key, 0.0) for key in known}))
    with progress() as bar:
        options = msgspec.convert(dict(chosen), contrastive.Options)
        folder = contrastive.finetune_encoder(
            base, judged, products, recipes.ENCODER, out, options, partial(_on_step(bar, 20), "encoder")
        )
    return folder, tuple(sorted({fingerprint(each.query) for each in judged}))


def _on_step(bar: Progress, every: int = 100) -> Callable[[str, int, int, float], None]:
    """Shows the steps of each phase: a bar, and a line now and then where there is no terminal to draw one on."""
    tasks: dict[str, TaskID] = {}

    def on_step(phase: str, step: int, steps: int, loss: float) -> None:
        if phase not in tasks:
            tasks[phase] = bar.add_task(phase, total=steps)
        bar.update(tasks[phase], completed=step, description=f"{phase} (loss {loss:.3f})")
        if not err.is_terminal and step % every == 0:
            err.print(f"{phase}: step {step} of {steps}, loss {loss:.3f}")

    return on_step


def open_base(
    base: str, work: Path, kind: Kind, texts: Iterable[str], whole: bool = False
) -> tuple[Path, str, Bundle | None]:
    """`prepare_base`, or the bundle in use as a folder where `base` is `current`, and then that bundle too."""
    if base != CURRENT:
        return *prepare_base(base, work, texts, whole), None
    from reranker.training.reopen import reopen

    models = config.load().models
    bundle = load_bundle(getattr(models, kind), kind, models.home)
    shaped_as, licence = prepare_base(bundle.description.base_model, work, texts, whole=True)
    return reopen(bundle, shaped_as, work / bundle.id), licence, bundle


def prepare_base(base: str, work: Path, texts: Iterable[str], whole: bool = False) -> tuple[Path, str]:
    """A Hugging Face folder to start from, and its licence.

    The packaged base is written and its vocabulary cut once; a folder is taken as it is; any other name is looked up on
    the model hub, safetensors only. Raises InputError when there is no such model or no hub.
    """
    from reranker.training.base import PACKAGED, fetch_from_hub, prune_vocabulary, write_packaged_e5

    if base != PACKAGED:
        folder = Path(base) if (Path(base) / "config.json").is_file() else fetch_from_hub(base, work / "hub")
        return folder, f"see {base}"
    full, pruned = work / PACKAGED, work / f"{PACKAGED}-enzh"
    if not (full / "tokenizer_config.json").is_file():
        write_packaged_e5(full)
    if whole:
        return full, "MIT"
    if not (pruned / "tokenizer_config.json").is_file():
        before, kept = prune_vocabulary(full, pruned, texts)
        err.print(f"Vocabulary: {kept:,} of {before:,} pieces kept.")
    return pruned, "MIT"


def _lines(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def make_splits(query_ids: Sequence[str], dev_share: float, test_share: float, seed: int) -> dict[str, str]:
    """A seeded split by query: query id -> train, dev or test."""
    if not (dev_share >= 0 and test_share >= 0 and dev_share + test_share < 1):
        raise UsageError(f"dev {dev_share} and test {test_share} leave nothing to train on; their sum must be below 1.")
    order = np.random.default_rng(seed).permutation(len(query_ids))
    dev, test = round(len(order) * dev_share), round(len(order) * test_share)
    names = ["dev"] * dev + ["test"] * test + ["train"] * (len(order) - dev - test)
    return {query_ids[at]: name for at, name in zip(order, names, strict=True)}


def _options(file: Path | None) -> dict[str, dict[str, object]]:
    if file is None:
        return {}
    try:
        return msgspec.toml.decode(file.read_bytes(), type=dict[str, dict[str, object]])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} is not a training options file: {error}") from error


def _done(bundle: Bundle, as_json: bool) -> None:
    size = sum(path.stat().st_size for path in bundle.folder.iterdir()) / 1e6
    quality = bundle.description.quality
    if as_json:
        emit_json({"bundle": str(bundle.folder), "id": bundle.id, "megabytes": round(size, 1), "quality": quality})
    else:
        err.print(f"{bundle.id} written to {bundle.folder} ({size:.1f} MB)", quality or "")
