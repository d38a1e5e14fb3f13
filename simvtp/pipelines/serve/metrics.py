"""Figures for Prometheus: requests, latencies, batches, queues, errors, the process itself."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What one server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter(
            "simvtp_http_requests", "answered requests", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "simvtp_http_request_seconds",
            "from the first byte of a request to the last of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "simvtp_http_requests_in_flight", "requests under way", registry=registry
        )
        self.errors = Counter(
            "simvtp_http_errors", "refused requests", ("route", "code"), registry=registry
        )
        self.inputs = Counter(
            "simvtp_inputs", "rows that were computed", ("task",), registry=registry
        )
        self.batch_rows = Histogram(
            "simvtp_batch_rows",
            "rows of a forward pass",
            ("task",),
            buckets=_SIZES,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "simvtp_batch_seconds",
            "of a forward pass",
            ("task",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Gauge(
            "simvtp_queue_rows", "rows that wait for a pass", ("task",), registry=registry
        )
        self.decoding = Gauge(
            "simvtp_videos_decoding", "videos at or before the decoder", registry=registry
        )
        self.decode_seconds = Histogram(
            "simvtp_decode_seconds",
            "of a video, with its wait for a process",
            buckets=_SECONDS,
            registry=registry,
        )

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
