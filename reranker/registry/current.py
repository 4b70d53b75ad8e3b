"""Which bundle of a kind is current: one small file of the registry, read whenever a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs

from indexer.errors import BundleError

SHIPPED_ID = "shipped"  # stands for whatever bundle the installed version ships; no bundle's own id looks like it
FILENAME = "current"


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of what is current. `forced` is the reason that overrode the checks named in `failed`."""

    action: Literal["promoted", "rolled back"]
    id: str
    at: str  # UTC, ISO 8601
    figures: dict[str, Any] = {}
    forced: str = ""
    failed: tuple[str, ...] = ()


class Current(msgspec.Struct, frozen=True):
    """What `HOME/<kind>/current` holds; `previous` and `log` have the newest first."""

    id: str
    previous: tuple[str, ...] = ()
    log: tuple[Event, ...] = ()


def home_of(configured: str | Path) -> Path:
    """The registry's folder; empty means the user's data folder."""
    return Path(configured).expanduser() if configured else Path(platformdirs.user_data_dir("shelfrank")) / "models"


def read(home: str | Path, kind: str) -> Current | None:
    """What is current of a kind, None when nothing was ever promoted. Raises BundleError."""
    file = home_of(home) / kind / FILENAME
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Current)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise BundleError(
            f"{file} may not be read by this user. Allow it, or name another folder in models.home "
            "(SHELFRANK_MODELS_HOME)."
        ) from error
    except (msgspec.DecodeError, OSError) as error:
        raise BundleError(
            f"{file} cannot be read: {error}. `shelfrank models rollback --kind {kind} --to ID` writes it again; "
            "`shelfrank models list` shows the ids."
        ) from error
    for name in (found.id, *found.previous):
        if Path(name).name != name:
            raise BundleError(f"{file} names {name!r}, which lies outside of the registry.")
    return found
