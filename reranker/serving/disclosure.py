"""What a client may read of a failure: what happened, and what to do about it. Where the cluster is, who the service
is there and where its models lie is for the log."""

from __future__ import annotations

import logging

from indexer.errors import ClusterError, ConfigError, InputError, ShelfrankError, UsageError
from reranker.serving.turns import BusyError

UNTOLD = "The service cannot do this now; its log says why."
MODEL_FAILED = "the model failed; the service's log says why"
NOT_LOADED = "it cannot be loaded; the service's log says why"
log = logging.getLogger("shelfrank")


def told(error: Exception) -> str:
    """The words for a client: of an error that is about its request or was written for it, those of the error."""
    if isinstance(error, ClusterError):
        return error.outward or UNTOLD
    is_for_clients = _is_about_the_request(error) or isinstance(error, BusyError) or type(error) is ShelfrankError
    return str(error) if is_for_clients else UNTOLD


def reason(status: str, why: str) -> str:
    """Why a model's work came to a status, for a client: the words of an exception are for the log."""
    if status != "error":
        return why
    log.error("A model failed: %s", why)
    return MODEL_FAILED


def untold(error: Exception) -> str:
    """What the log says of a failure; empty where the client was told all of it."""
    if told(error) != str(error):
        return str(error)
    cause = error.__cause__
    return "" if cause is None or _is_about_the_request(error) else f"{type(cause).__name__}: {cause}"


def _is_about_the_request(error: Exception) -> bool:
    return isinstance(error, InputError | UsageError) and not isinstance(error, ConfigError)
