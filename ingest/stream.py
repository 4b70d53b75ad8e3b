"""Where documents are made: in this process, or on the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.errors import UsageError
from indexer.settings import Models
from ingest.documents import Maker, Stream
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder


@contextmanager
def opened(encoder: Encoder, tokens: CrossEncoder, models: Models, workers: int) -> Iterator[Stream]:
    """What makes documents of batches, on so many Ray workers; 0 is this process, without Ray.

    Raises UsageError without the extra `distributed`, WorkerError when the Ray cluster cannot be used.
    """
    if not workers:
        yield Maker(encoder, tokens).stream
        return
    # Ray reads these when it is imported. One that is started here listens to the network: with a token, then.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is told by exceptions
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        from ingest.distributed import Workers
    except ImportError as error:
        raise UsageError(
            f"{workers} workers need Ray, which is not installed: pip install 'shelfrank[distributed]', or ask for 0 "
            "workers (--workers, ingest.workers) to embed in this process."
        ) from error
    with Workers(encoder.bundle, tokens.bundle, models, workers) as found:
        yield found.stream
