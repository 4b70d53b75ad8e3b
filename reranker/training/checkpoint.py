"""Where a stopped training run goes on: weights and optimiser state as safetensors, never pickled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "checkpoint.safetensors"
Floats = NDArray[np.float32]


def store(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, key: str) -> None:
    """Write the state after `step`; `key` names the run's settings and data. Replaces the last one in one move."""
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    for at, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{at}.{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{FILE}.part"
    save_file(tensors, scratch, metadata={"step": str(step), "key": key})
    os.replace(scratch, folder / FILE)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> int:
    """Load what `store` wrote for the same `key` and return its step; 0 when there is nothing to go on from."""
    from safetensors import safe_open

    file = folder / FILE
    if not file.is_file():
        return 0
    with safe_open(file, "pt") as opened:
        about: dict[str, str] = opened.metadata() or {}
    if about.get("key") != key:
        return 0
    tensors = load_file(file)
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    states: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, at, part = name.split(".", 2)
            states.setdefault(int(at), {})[part] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(about["step"])


def fingerprint(model: nn.Module) -> str:
    """Names a model's weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def array(folder: Path, name: str, of: object, make: Callable[[], Floats]) -> Floats:
    """An array that is made once for a run: a run that goes on finds it beside its checkpoint, if it is still of this.

    `of` is what it was made of, as msgspec encodes it.
    """
    file = folder / f"checkpoint-{name}-{hashlib.sha256(msgspec.json.encode(of)).hexdigest()[:32]}.npy"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".part")
        with scratch.open("wb") as opened:
            np.save(opened, make(), allow_pickle=False)
        os.replace(scratch, file)
    return np.asarray(np.load(file, allow_pickle=False), np.float32)


def remove(folder: Path) -> None:
    """Forget the checkpoint of a finished run, and the arrays beside it."""
    for file in (folder / FILE, *folder.glob("checkpoint-*.npy"), *folder.glob("checkpoint-*.part")):
        file.unlink(missing_ok=True)
