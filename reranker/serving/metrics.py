"""What the service counts, for Prometheus. Labels are few and fixed: none comes from a request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One registry for one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("shelfrank_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.in_flight = Gauge("shelfrank_requests_in_flight", "Requests being answered.", registry=registry)
        self.connections = Gauge("shelfrank_connections", "Open connections.", ["listener"], registry=registry)
        self.ended = Counter(
            "shelfrank_connections_ended",
            "Connections that the service ended: the client was idle or slow to send, did not read (unread), made room "
            "for another one (displaced), or found none (refused).",
            ["listener", "why"],
            registry=registry,
        )
        self.seconds = Histogram(
            "shelfrank_request_seconds", "Time to answer a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.phase = Histogram(
            "shelfrank_phase_seconds",
            "Time by phase: first_stage and rerank of the gateway, queue, search, explain, embed.",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rerank = Counter(
            "shelfrank_rerank", "Windows by what came of them.", ["index", "status"], registry=registry
        )
        self.window = Histogram(
            "shelfrank_window_hits",
            "Hits in a window.",
            buckets=(1, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=registry,
        )
        self.waiting = Gauge("shelfrank_queue", "Rerankings that wait for a worker.", registry=registry)
        self.breaker = Gauge("shelfrank_breaker_open", "1 while a model is left alone.", ["bundle"], registry=registry)
        self.cache = Counter(
            "shelfrank_cache",
            "Results of models (scores, query_vectors) looked up in the cache: hit, or miss.",
            ["what", "result"],
            registry=registry,
        )
        self.ubi_dropped = Counter(
            "shelfrank_ubi_dropped",
            "Rows of user behaviour that were not written: there was no room (full), the cluster did not take them "
            "(cluster), or the service ended (stop).",
            ["why"],
            registry=registry,
        )
        self.tokens = Histogram(
            "shelfrank_batch_tokens",
            "Padded tokens of a micro-batch.",
            buckets=(64, 128, 256, 384, 512, 1024),
            registry=registry,
        )

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
