"""What /metrics shows: the plain integers that others count with, read when somebody asks.

Nothing is counted here but the duration of commits, so the hot path pays nothing for metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

import posthouse
from posthouse.broker.counters import Counters
from posthouse.server.http import Document
from posthouse.server.snapshot import Snapshot
from posthouse.single_active.roles import Role

COMMIT_BOUNDS_S: Final = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.25,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
)
ROLES: Final = tuple(role.value for role in Role)


class CommitTimes:
    """How long commits took: a histogram of plain integers."""

    def __init__(self) -> None:
        self.counts = [0] * (len(COMMIT_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def took(self, seconds: float) -> None:
        """Count a commit."""
        self.counts[bisect_left(COMMIT_BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated, as Prometheus wants them."""
        total = 0
        found = []
        for bound, count in zip((*map(str, COMMIT_BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class MetricsPage:
    """The page: a registry of its own, so that nothing else of this process gets in."""

    def __init__(self, snapshot: Callable[[], Snapshot], commit_times: CommitTimes) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_RelayCollector(snapshot, commit_times))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def __call__(self) -> Document:
        """Everything as it is now."""
        return Document(generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)


class _RelayCollector(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot], commit_times: CommitTimes) -> None:
        self._snapshot = snapshot
        self._commit_times = commit_times

    def describe(self) -> Iterable[Metric]:
        """Nothing: to register must not mean to collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics of the relay."""
        snapshot = self._snapshot()
        yield from _of_this_member(snapshot)
        yield from _of_connections(snapshot)
        if snapshot.counters is not None:
            yield from _of_the_broker(snapshot.counters)
        yield HistogramMetricFamily(
            "posthouse_commit_seconds",
            "How long transactions of the store took, synced.",
            buckets=self._commit_times.buckets(),
            sum_value=self._commit_times.sum_s,
        )
        rejected: dict[str, int] = {}
        if snapshot.counters is not None:
            rejected.update(snapshot.counters.rejected)
        for (_, code), count in snapshot.refused.items():
            rejected[code] = rejected.get(code, 0) + count
        yield _labelled(
            "posthouse_rejected", "Messages and requests that were refused, by code.", "code", rejected
        )


def _of_this_member(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily("posthouse_build_info", "Always 1; the version is a label.", labels=["version"])
    info.add_metric([posthouse.__version__], 1)
    yield info
    role = GaugeMetricFamily("posthouse_role", "1 for the role that this member has.", labels=["role"])
    for name in ROLES:
        role.add_metric([name], float(name == snapshot.role))
    yield role
    yield _gauge("posthouse_epoch", "Epoch of the active instance.", snapshot.epoch)
    yield _gauge("posthouse_ready", "1 while /readyz answers 200.", snapshot.not_ready is None)
    yield _gauge("posthouse_store_healthy", "1 while the store takes writes.", snapshot.store_healthy)
    yield _counter(
        "posthouse_fenced", "Batches refused because another promotion came.", snapshot.times_fenced
    )
    yield _gauge("posthouse_store_messages", "Messages in the store.", snapshot.store_messages)
    yield _gauge("posthouse_store_bytes", "Bytes of ciphertext in the store.", snapshot.store_bytes)
    if snapshot.disk_free_bytes is not None:
        yield _gauge("posthouse_disk_free_bytes", "Free space on the store's disk.", snapshot.disk_free_bytes)
    yield _gauge(
        "posthouse_memory_watermark_bytes", "Above it nothing new is taken.", snapshot.memory_limit_bytes
    )
    yield _gauge("posthouse_overloaded", "1 while memory is above the watermark.", snapshot.overloaded)


def _of_connections(snapshot: Snapshot) -> Iterator[Metric]:
    counts = snapshot.counts
    yield _gauge("posthouse_connections", "WebSocket connections.", snapshot.connections)
    sessions = GaugeMetricFamily(
        "posthouse_sessions", "WebSocket connections, by dialect.", labels=["dialect"]
    )
    for dialect, count in snapshot.sessions.items():
        sessions.add_metric([dialect], count)
    yield sessions
    yield _gauge(
        "posthouse_handshakes_open", "Connections whose request is not complete.", snapshot.half_open
    )
    yield _counter("posthouse_connections_opened", "Handshakes accepted.", counts.opened)
    yield _counter(
        "posthouse_handshakes_crowded_out", "Half-open connections ended for newer.", counts.crowded_out
    )
    yield _counter("posthouse_tls_failures", "Connections ended for a fault of TLS.", counts.tls_failures)
    yield _counter("posthouse_received_bytes", "Bytes read from client sockets.", counts.bytes_received)
    yield _counter("posthouse_sent_bytes", "Bytes given to client sockets.", counts.bytes_sent)
    closed = {str(code): count for code, count in counts.closed.items()}
    yield _labelled("posthouse_connections_closed", "Connections ended, by close code.", "code", closed)
    answered = {str(status): count for status, count in counts.answered.items()}
    yield _labelled(
        "posthouse_http_answers", "HTTP answers on the client port, by status.", "status", answered
    )
    refused = CounterMetricFamily(
        "posthouse_session_refusals",
        "What sessions refused before it reached the broker.",
        labels=["dialect", "code"],
    )
    for (dialect, code), count in snapshot.refused.items():
        refused.add_metric([dialect, code], count)
    yield refused


def _of_the_broker(counters: Counters) -> Iterator[Metric]:
    yield _counter("posthouse_published", "Publishes that reached the broker.", counters.published)
    yield _labelled(
        "posthouse_results",
        "Results, by status.",
        "status",
        {
            "delivered": counters.delivered,
            "stored": counters.stored,
            "duplicate": counters.duplicates,
            "undeliverable": counters.undeliverable,
            "rejected": sum(counters.rejected.values()),
        },
    )
    yield _counter("posthouse_sent_messages", "Messages sent to readers, repeats included.", counters.sent)
    yield _counter("posthouse_acked", "Acks of owners that counted.", counters.acked)
    yield _counter("posthouse_marked", "Acks of bucket readers that counted.", counters.marked)
    yield _labelled("posthouse_nacked", "Nacks, by code.", "code", dict(counters.nacked))
    yield _counter("posthouse_elided", "Messages acked before they went to the store.", counters.elided)
    yield _counter("posthouse_store_appended", "Messages written to the store.", counters.appended)
    yield _counter("posthouse_store_deleted", "Deletions written to the store.", counters.deleted)
    yield _counter("posthouse_expired", "Messages whose time was over.", counters.expired)
    yield _counter(
        "posthouse_store_failures", "Batches that the store did not take.", counters.store_failures
    )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=float(value))


def _labelled(name: str, about: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, about, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
