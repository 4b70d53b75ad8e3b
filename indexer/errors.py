"""The few exception types of shelfrank. Each message says what was expected, what came and what to do."""

from __future__ import annotations


class ShelfrankError(Exception):
    """A failure that a user can understand and act on; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(ShelfrankError):
    """The request itself is wrong (a bad flag, an impossible combination); exits with 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A settings or mapping file holds something that is not allowed; names file, place and value."""


class InputError(ShelfrankError):
    """Data that a user handed in cannot be used (unreadable file, wrong format, wrong type)."""


class NodeError(ShelfrankError):
    """The embedded OpenSearch node cannot be fetched, started or reached."""


class ClusterError(ShelfrankError):
    """The cluster answered with an error, or lacks what the request needs. The message is for the operator; `outward`
    is what a stranger may read of it: no address, user or file, and nothing where it is empty."""

    def __init__(self, message: str, outward: str = "") -> None:
        super().__init__(message)
        self.outward = outward


class BundleError(ShelfrankError):
    """A model bundle is missing, incomplete, corrupt or not of the kind that is needed."""


class ProviderError(ShelfrankError):
    """The execution provider asked for (CUDA, say) is not available or not active."""


class WorkerError(ShelfrankError):
    """The Ray cluster that embeds a catalogue, or a worker on it, cannot do its part."""
