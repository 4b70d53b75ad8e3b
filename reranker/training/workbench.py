"""What the training commands have in common: where they start, how they show progress and what they end with."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import click
import msgspec
from rich.progress import Progress, TaskID

from indexer import settings as config
from indexer.errors import ConfigError
from indexer.terminal import emit_json, err
from reranker.bundle import Bundle, Kind
from reranker.bundle import load as load_bundle

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
HELP = {"help_option_names": ["-h", "--help"]}
_QUIET_S = 15  # between two lines of a run that no terminal watches
CURRENT = "current"  # as a base: the bundle in use
BASE = click.option(
    "--base",
    default="multilingual-e5-small",
    show_default=True,
    help="Base model: the packaged one, a folder, a hub name, or `current` to go on from the bundle in use.",
)
WORK = click.option("--work", type=FOLDER, default="runs/base", show_default=True, help="Folder for the prepared base.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


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

    A packaged base is written once, and the vocabulary of multilingual-e5-small cut; a folder is taken as it is; any
    other name is looked up on the model hub, safetensors only. Raises InputError when there is no such model or no hub.
    """
    from reranker.training.base import (
        MINILM,
        MINILM_LICENCE,
        PACKAGED,
        fetch_from_hub,
        prune_vocabulary,
        write_packaged_e5,
        write_packaged_minilm,
    )

    if base == MINILM:
        if not (work / MINILM / "tokenizer_config.json").is_file():
            write_packaged_minilm(work / MINILM)
        return work / MINILM, MINILM_LICENCE
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


def prepare_teacher(name: str, work: Path) -> tuple[Path, str]:
    """The Hugging Face folder of an encoder to learn from, and its licence. Raises as `prepare_base` does."""
    from reranker.training.base import BGE, write_packaged_bge

    if name != BGE:
        return prepare_base(name, work, (), whole=True)
    folder = work / BGE
    if not (folder / "1_Pooling" / "config.json").is_file():
        write_packaged_bge(folder, config.load().node.repository)
    return folder, "MIT"


class OnStep(Protocol):
    """What is told of a phase's steps; those that only read have no loss."""

    def __call__(self, phase: str, step: int, steps: int, loss: float | None = None) -> None: ...


def on_step_of(bar: Progress) -> OnStep:
    """Shows the steps of each phase: a bar, and a line now and then where there is no terminal to draw one on."""
    tasks: dict[str, TaskID] = {}
    said = float("-inf")

    def on_step(phase: str, step: int, steps: int, loss: float | None = None) -> None:
        nonlocal said
        if phase not in tasks:
            tasks[phase] = bar.add_task(phase)
        word, worth = ("", "") if loss is None else ("step ", f", loss {loss:.3f}")
        bar.update(tasks[phase], completed=step, total=steps, description=f"{phase}{worth}")
        if not err.is_terminal and (time.monotonic() - said > _QUIET_S or step == steps):
            said = time.monotonic()
            err.print(f"{phase}: {word}{step} of {steps}{worth}")

    return on_step


def read_options(file: Path | None) -> dict[str, dict[str, object]]:
    if file is None:
        return {}
    try:
        return msgspec.toml.decode(file.read_bytes(), type=dict[str, dict[str, object]])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} is not a training options file: {error}") from error


def done(bundle: Bundle, as_json: bool) -> None:
    size = sum(path.stat().st_size for path in bundle.folder.iterdir()) / 1e6
    quality = bundle.description.quality
    if as_json:
        emit_json({"bundle": str(bundle.folder), "id": bundle.id, "megabytes": round(size, 1), "quality": quality})
    else:
        err.print(f"{bundle.id} written to {bundle.folder} ({size:.1f} MB)", quality or "")
