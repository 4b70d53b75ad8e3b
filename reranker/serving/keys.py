"""API keys: only their sha256 sums are kept, and a key file is read again when it changes, so keys can be rotated."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from indexer.errors import ConfigError

VARIABLE = "SHELFRANK_API_KEYS"
RIGHTS = ("search", "rerank", "write", "events", "admin")
MAX_SHARES = 1000
PREFIX = "sr_"
log = logging.getLogger("shelfrank")


class Key(msgspec.Struct, frozen=True):
    """Who may do what: `rights` are some of `RIGHTS`, `digest` is the sha256 of the key, and `shares` how much of the
    models is its due beside other keys."""

    name: str
    rights: frozenset[str]
    digest: bytes
    shares: int = 1


class Keys:
    """The keys of the environment and of a file, one a line: `NAME RIGHTS SHA256`, rights joined by commas, and perhaps
    `SHARES` behind them."""

    def __init__(self, environ: Mapping[str, str], file: str = "") -> None:
        """Raises ConfigError naming the line, never a key."""
        self._inline = parse(environ.get(VARIABLE, ""), VARIABLE)
        self._file = Path(file) if file else None
        self._stamp: tuple[int, int] | None = None
        self._from_file: tuple[Key, ...] = ()
        if self._file:
            self._read(self._file)

    @property
    def required(self) -> bool:
        return self._file is not None or bool(self._inline)

    def find(self, presented: str) -> Key | None:
        """The key that was presented. Every key is compared, each in constant time."""
        self._refresh()
        digest = hashlib.sha256(presented.encode()).digest()
        found = None
        for key in (*self._inline, *self._from_file):
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            if self._stamp_of(self._file) != self._stamp:
                self._read(self._file)
        except ConfigError as error:
            log.error("The old keys stay in use: %s", error)

    def _read(self, file: Path) -> None:
        self._stamp = self._stamp_of(file)
        try:
            self._from_file = parse(file.read_text("utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The key file {file} cannot be read: {error}. Check serve.keys_file.") from error

    def _stamp_of(self, file: Path) -> tuple[int, int] | None:
        try:
            about = file.stat()
        except OSError as error:
            raise ConfigError(f"The key file {file} cannot be read: {error}. Check serve.keys_file.") from error
        return about.st_mtime_ns, about.st_ino


def parse(text: str, origin: str) -> tuple[Key, ...]:
    """Keys of a text of lines (`;` ends a line too); empty ones and those that begin with # are passed over."""
    keys = []
    for number, line in enumerate(text.replace(";", "\n").splitlines(), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        parts = line.split()
        rights = frozenset(parts[1].split(",")) if len(parts) in (3, 4) else frozenset()
        shares = parts[3] if len(parts) == 4 else "1"
        if not rights or not rights <= set(RIGHTS) or len(parts[2]) != 64 or not _is_share(shares):
            raise ConfigError(
                f"{origin} line {number} is not a key; write NAME RIGHTS SHA256, with rights of {', '.join(RIGHTS)} "
                f"joined by commas, and perhaps its shares (1 to {MAX_SHARES}), as `shelfrank keys new` prints it."
            )
        try:
            keys.append(Key(parts[0], rights, bytes.fromhex(parts[2]), int(shares)))
        except ValueError:
            raise ConfigError(f"{origin} line {number} holds a sha256 that is not hexadecimal.") from None
    return tuple(keys)


def _is_share(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_SHARES


def new(name: str, rights: str, shares: int = 1) -> tuple[str, str]:
    """A new random key and the line that lets it in. Raises ConfigError for a name or rights that cannot be."""
    key = f"{PREFIX}{secrets.token_urlsafe(32)}"
    line = f"{name} {rights} {hashlib.sha256(key.encode()).hexdigest()}" + (f" {shares}" if shares != 1 else "")
    parse(line, "The new key")
    return key, line
