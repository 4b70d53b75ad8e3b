"""Ids of searches that prove themselves: that this service gave them, to which client, and until when.

An id is 64 hexadecimal digits: when it ends (4 bytes, seconds since 1970), random ones (12 bytes), and half of the
HMAC-SHA256 of these and of the name that the client gave itself. Every process with the same secret checks it, and
none keeps it.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping

from indexer.errors import ConfigError
from indexer.settings import Serve

VARIABLE = "SHELFRANK_SIGNING_SECRET"
MIN_CHARACTERS = 32
_END_BYTES, _RANDOM_BYTES, _PROOF_BYTES = 4, 12, 16
_ID = re.compile(rf"[0-9a-f]{{{2 * (_END_BYTES + _RANDOM_BYTES + _PROOF_BYTES)}}}")
# So that nothing else that is ever signed with the secret passes for an id.
_PURPOSE = b"shelfrank query id\0"
log = logging.getLogger("shelfrank")


class QueryIds:
    """Gives ids to searches and checks them by the secrets of the environment, of which the first signs."""

    def __init__(self, environ: Mapping[str, str], serve: Serve, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError for a secret that is too short, without repeating it."""
        self._secrets = _secrets(environ)
        if not self._secrets:
            self._secrets = [secrets.token_bytes(32)]
            if serve.ubi:
                log.warning(
                    "%s is not set: events are taken by the process alone that gave their query_id, until it ends. "
                    "Make one for all with `shelfrank keys secret`.",
                    VARIABLE,
                )
        self._hours, self._clock = serve.events_hours, clock

    def new(self, client_id: str) -> str:
        """An id for a search of this client."""
        end = math.ceil(self._clock() + self._hours * 3600)
        head = end.to_bytes(_END_BYTES, "big") + os.urandom(_RANDOM_BYTES)
        return (head + _proof(self._secrets[0], head, client_id)).hex()

    def fault(self, query_id: str, client_id: str) -> str:
        """Why an id is none that this client may name; empty where it is one."""
        if not _ID.fullmatch(query_id):
            return "This query_id is not one that this service gives."
        given = bytes.fromhex(query_id)
        head, proof = given[:-_PROOF_BYTES], given[-_PROOF_BYTES:]
        if not any(hmac.compare_digest(proof, _proof(secret, head, client_id)) for secret in self._secrets):
            return "This query_id was not given by this service to a search with this client_id."
        if int.from_bytes(head[:_END_BYTES], "big") <= self._clock():
            return f"This query_id has ended: events are taken for {self._hours:g} hours (serve.events_hours)."
        return ""


def new_secret() -> str:
    """A random secret, as the variable takes it."""
    return secrets.token_urlsafe(48)


def _secrets(environ: Mapping[str, str]) -> list[bytes]:
    """The secrets of the environment, the one that signs first."""
    given = [each.strip() for each in environ.get(VARIABLE, "").split(";")]
    found = [each for each in given if each]
    for number, each in enumerate(found, start=1):
        if len(each) < MIN_CHARACTERS:
            raise ConfigError(
                f"Secret {number} in {VARIABLE} has {len(each)} characters, and needs {MIN_CHARACTERS} at least. Make "
                "one with `shelfrank keys secret`."
            )
    return [each.encode("utf-8", "surrogateescape") for each in found]


def _proof(secret: bytes, head: bytes, client_id: str) -> bytes:
    return hmac.digest(secret, _PURPOSE + head + client_id.encode(), "sha256")[:_PROOF_BYTES]
