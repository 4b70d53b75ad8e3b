"""The command `train encoder`: an encoder bundle from a base model, a teacher and judged queries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from indexer import client as clusters
from indexer import settings as config
from indexer.errors import UsageError
from indexer.lines import TooLong, raw_lines
from indexer.patience import patient
from indexer.terminal import err, progress
from reranker.bundle import Bundle, Description, Layout, fingerprint, write_description
from reranker.training.shops import paired, read_products
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
    prepare_teacher,
    read_options,
)

if TYPE_CHECKING:
    from reranker.training.mining import Judged

_HELD_OUT = ("dev", "test")


@click.command(context_settings=HELP)
@click.option("--out", type=FOLDER, required=True, help="Folder for the bundle.")
@click.option("--name", help="Name of the bundle; default: the base's, or the folder's when it was fine-tuned.")
@BASE
@click.option("--texts", type=FILE, multiple=True, help="Text files whose words the vocabulary must keep.")
@click.option("--whole-vocabulary", is_flag=True, help="Keep every piece of the base's vocabulary.")
@click.option("--teacher", help="Another encoder that it learns from: bge-small-en-v1.5, a folder, or a hub name.")
@click.option("--read", type=FILE, multiple=True, help="Text files, a text a line, that are read with the teacher.")
@click.option("--index", "indexes", multiple=True, help="A shop to learn from; may be given again.")
@click.option("--queries", type=FILE, multiple=True, help="TSV: query_id, query, split if there is one.")
@click.option("--qrels", type=FILE, multiple=True, help="TSV: query_id, product_id, grade.")
@click.option("--gains", default="3:1,2:0.1,1:0.01,0:0", show_default=True, help="Gain of each grade.")
@click.option("--options", type=FILE, help="TOML with [distill] and [encoder] settings.")
@WORK
@JSON
def encoder(
    out: Path,
    name: str | None,
    base: str,
    texts: tuple[Path, ...],
    whole_vocabulary: bool,
    teacher: str | None,
    read: tuple[Path, ...],
    indexes: tuple[str, ...],
    queries: tuple[Path, ...],
    qrels: tuple[Path, ...],
    gains: str,
    options: Path | None,
    work: Path,
    as_json: bool,
) -> None:
    """Export a base model as an encoder bundle, its vocabulary cut to English and Chinese product text.

    With --teacher and --index it first learns from another encoder how near texts are, on products' texts, texts
    like queries made of their titles, and those of --read; that takes no judgments. With --index, --queries and
    --qrels it is then fine-tuned on judged queries, and where a column `split` keeps some of them out of that (dev,
    test), how well it finds what they ask for goes on its card. `shelfrank models promote` compares it with the one in
    use, on an index of each.

    \b
    Example:
      shelfrank train encoder --texts products.jsonl --out bundles/encoder
      shelfrank train encoder --base current --teacher bge-small-en-v1.5 --index shop --out bundles/taught
      shelfrank train encoder --index shop --queries queries.tsv --qrels qrels.tsv --out bundles/tuned
    """
    from reranker.training import export, recipes

    if read and not teacher:
        raise UsageError("--read names texts that are read with a teacher. Name one (--teacher), or leave it out.")
    if teacher and not indexes:
        raise UsageError("A teacher is learned from on a shop's products. Name its index (--index).")
    shops = paired(indexes, queries, qrels) if queries or qrels or not teacher else []
    chosen = read_options(options)
    start, licence, before = open_base(base, work, "encoder", _lines(texts), whole_vocabulary)
    folder = start
    catalogue = read_catalogue(indexes) if indexes else {}
    judged, held = read_judged(shops, catalogue, gains)
    # Queries that are all held out measure what a teacher gave; without one there must be something to learn.
    tuned = bool(judged) or (bool(shops) and not teacher)
    lessons: dict[str, object] = {"fine_tuned": tuned}
    if teacher:
        wise, teacher_licence = prepare_teacher(teacher, work)
        to = out.with_name(f"{out.name}-taught")
        folder = _learn_from(wise, folder, catalogue, _lines(read), chosen.get("distill", {}), to)
        lessons |= {"teacher": teacher, "teacher_licence": teacher_licence, "distill": chosen.get("distill", {})}
    learned = {fingerprint(each.query) for each in judged}
    if tuned:
        folder = _tune(folder, judged, catalogue, chosen.get("encoder", {}), out.with_name(f"{out.name}-model"))
        lessons |= {"judged_queries": len(learned), "encoder": chosen.get("encoder", {})}
    if before:
        lessons |= {"before": {"bundle": before.id, **before.description.training}}
    about = Description(
        format=1,
        kind="encoder",
        name=name or (out.name if shops or teacher else folder.name),
        base_model=before.description.base_model if before else base,
        base_licence=licence,
        licence="Apache-2.0",
        languages=("en", "zh"),
        recipe=recipes.ENCODER,
        layout=Layout((), (), (), 0, False),
        files={},
        dimension=export.hidden_size(folder),
        training={"vocabulary": export.vocabulary_size(folder), **lessons},
        trained_on=tuple(sorted({*learned, *(before.description.trained_on if before else ())})),
    )
    bundle = export.export(folder, out, about)
    if held:
        bundle = _measured(bundle, before, start, held, catalogue)
    done(bundle, as_json)


def read_catalogue(indexes: Sequence[str]) -> dict[str, dict[str, object]]:
    """The products of all indexes, as the encoder reads them, by INDEX/ID."""
    from reranker.training import recipes

    settings = config.load()
    client = patient(clusters.connect(settings), settings.ingest.patience_s)
    fields = [field.name for field in recipes.ENCODER.fields]
    return {
        f"{index}/{key}": product for index in indexes for key, product in read_products(client, index, fields).items()
    }


def _learn_from(
    teacher: Path,
    base: Path,
    catalogue: Mapping[str, dict[str, object]],
    texts: Iterator[str],
    chosen: Mapping[str, object],
    out: Path,
) -> Path:
    """Teach a base what a teacher knows: the new model's folder."""
    from reranker.training import distill, recipes

    options = msgspec.convert(dict(chosen), distill.Options)
    lines = [line.strip() for line in texts if line.strip()]
    with progress() as bar:
        on_step = on_step_of(bar)
        told = partial(on_step, "teacher"), partial(on_step, "reading")
        return distill.distill(base, teacher, catalogue, lines, recipes.ENCODER, out, options, *told)


def read_judged(
    shops: Sequence[tuple[str, Path, Path]], catalogue: Mapping[str, Mapping[str, object]], gains: str
) -> tuple[list[Judged], dict[str, list[Judged]]]:
    """The shops' judged queries: those to learn from, and by index those that are held out of it."""
    from reranker.evaluation.compare import parse_gains
    from reranker.evaluation.judgments import read_qrels, read_queries
    from reranker.evaluation.metrics import gains_of
    from reranker.training.mining import Judged

    gain = parse_gains(gains)
    judged: list[Judged] = []
    held: dict[str, list[Judged]] = {}
    for index, query_file, qrels_file in shops:
        grades = read_qrels(qrels_file)
        for query in read_queries(query_file):
            known = {key: grade for key, grade in grades.get(query.id, {}).items() if f"{index}/{key}" in catalogue}
            if known:
                each = Judged(query.text, {f"{index}/{key}": worth for key, worth in gains_of(known, gain).items()})
                split = query.columns.get("split", "train")
                if split == "train":
                    judged.append(each)
                elif split in _HELD_OUT:
                    held.setdefault(index, []).append(each)
    return judged, held


def _tune(
    base: Path,
    judged: Sequence[Judged],
    catalogue: Mapping[str, dict[str, object]],
    chosen: Mapping[str, object],
    out: Path,
) -> Path:
    """Fine-tune an encoder on judged queries: the new model's folder."""
    from reranker.training import contrastive, recipes

    options = msgspec.convert(dict(chosen), contrastive.Options)
    with progress() as bar:
        on_step = on_step_of(bar)
        told = partial(on_step, "encoder"), partial(on_step, "reading")
        return contrastive.finetune_encoder(base, judged, catalogue, recipes.ENCODER, out, options, *told)


def _measured(
    bundle: Bundle,
    before: Bundle | None,
    base: Path,
    held: Mapping[str, Sequence[Judged]],
    catalogue: Mapping[str, Mapping[str, Any]],
) -> Bundle:
    """The bundle with what it finds of the held-out queries on its card, beside what its base finds."""
    from reranker.training import export
    from reranker.training.nearest import measure

    err.print("Measuring on the queries held out …")
    with tempfile.TemporaryDirectory() as scratch:
        old = before or export.export(base, Path(scratch), bundle.description)
        quality = measure(bundle, old, held, catalogue)
    return write_description(bundle.folder, msgspec.structs.replace(bundle.description, quality=quality))


def _lines(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        for raw in raw_lines(file):
            yield (raw.start if isinstance(raw, TooLong) else raw).decode("utf-8", "replace")
