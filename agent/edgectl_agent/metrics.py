"""``/metrics``: what Prometheus reads. Names are frozen by a test; base units, no label per event.

Counters and gauges are read from the last report when Prometheus asks; only the histogram is kept as it happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgectl_agent import __version__
from edgectl_agent.core.messages import Report
from edgectl_agent.uplink.interface import LinkStatus

Rows = Mapping[tuple[str, ...], float]
"""Label values → value."""

_BUCKETS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 1.0)


class Metrics:
    """`report` gives the current state, `alerts` the acknowledged records by severity."""

    def __init__(
        self,
        report: Callable[[], Report],
        alerts: Callable[[], Mapping[str, int]],
        links: Callable[[], Sequence[LinkStatus]] = tuple,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series that nobody asks for
        self._registry = CollectorRegistry()
        self.inference = Histogram(
            "edgectl_inference_seconds", "One call of a model.", buckets=_BUCKETS, registry=self._registry
        )
        self._calls: deque[float] = deque()
        self.called: Callable[[float], None] = self._calls.append
        """Takes the seconds of one call of a model; `settle` puts them into the histogram."""
        self.action = Histogram(
            "edgectl_action_seconds", "From the alert to the beginning of its action.", ("action",),
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(_Current(report, alerts, links))

    def settle(self) -> None:
        """Count the calls since the last time; from any thread, and now and then."""
        with suppress(IndexError):
            while True:
                self.inference.observe(self._calls.popleft())

    def render(self) -> bytes:
        """The text format."""
        self.settle()
        return generate_latest(self._registry)


class _Current(Collector):
    def __init__(
        self,
        report: Callable[[], Report],
        alerts: Callable[[], Mapping[str, int]],
        links: Callable[[], Sequence[LinkStatus]],
    ) -> None:
        self._report, self._alerts, self._links = report, alerts, links

    def describe(self) -> list[Metric]:
        return []  # registering must not ask for a report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        yield _gauge("build_info", "This agent's version.", ("version",), {(__version__,): 1})
        yield _gauge("uptime_seconds", "Since this process started.", (), {(): report.uptime_s})
        yield _gauge("resident_memory_bytes", "Memory in use.", (), {(): report.rss_bytes})
        states = ("healthy", "warming", "degraded", "failed")
        yield _gauge("node_state", "1 for the state the node is in.",
                     ("state",), {(s,): int(report.state == s) for s in states})  # fmt: skip
        yield _counter("alerts", "Alert records on stable storage.", ("severity",),
                       {(severity,): n for severity, n in self._alerts().items()})  # fmt: skip
        yield from _sources(report)
        yield from _outbox(report)
        yield from _models(report)
        done: Rows = {(a.name, outcome): n for a in report.actions for outcome, n in a.outcomes.items()}
        yield _counter("actions", "Alerts that an action answered, or did not.", ("action", "outcome"), done)
        yield from _uplink(self._links())


def _sources(report: Report) -> Iterator[Metric]:
    rejected: dict[tuple[str, ...], float] = {}
    for source in report.sources:
        for reason, count in source.rejected.items():
            rejected[(reason,)] = rejected.get((reason,), 0) + count
    yield _counter("readings", "Readings accepted.", ("source",), {(s.name,): s.accepted for s in report.sources})
    yield _counter("input_rejected", "Records that are no readings.", ("reason",), rejected)
    newest: Rows = {(s.name,): s.newest_event_ns / 1e9 for s in report.sources if s.newest_event_ns}
    yield _gauge("source_newest_event_timestamp_seconds", "Newest event time seen.", ("source",), newest)


def _outbox(report: Report) -> Iterator[Metric]:
    outbox = report.outbox
    age = max(0.0, (report.clock_ns - outbox.oldest_ns) / 1e9) if outbox.records else 0.0
    yield _gauge("outbox_records", "Alert records that nobody has collected.", (), {(): outbox.records})
    yield _gauge("outbox_bytes", "Disk in use by them.", (), {(): outbox.bytes})
    yield _gauge("outbox_limit_bytes", "Disk that they may use.", (), {(): outbox.limit_bytes})
    yield _gauge("outbox_oldest_age_seconds", "Age of the oldest one.", (), {(): age})
    yield _counter("outbox_lost", "Records that storage damaged.", (), {(): outbox.lost})


def _models(report: Report) -> Iterator[Metric]:
    models = report.models
    info: Rows = {(m.recipe, m.version, m.bundle, m.variant): 1.0 for m in models}
    yield _gauge("model_info", "What runs.", ("recipe", "version", "bundle", "variant"), info)
    yield _counter("inferences", "Rows scored.", ("recipe",), {(m.recipe,): m.inferences for m in models})
    yield _gauge("streams", "Streams with state.", ("recipe",), {(m.recipe,): m.streams for m in models})
    yield _gauge(
        "streams_warming", "Streams too young to score.", ("recipe",), {(m.recipe,): m.warming for m in models}
    )
    refusing: Rows = {(m.recipe,): int(m.streams_full > 0) for m in models}
    yield _gauge("streams_refused", "1 while new streams are refused for want of room.", ("recipe",), refusing)
    yield _gauge(
        "readings_held", "Readings that wait for earlier ones.", ("recipe",), {(m.recipe,): m.held for m in models}
    )
    yield _gauge("open_alerts", "Alerts open now.", ("recipe",), {(m.recipe,): m.open_alerts for m in models})
    judged: Rows = {(m.recipe, outcome): count for m in models for outcome, count in m.counters.items()}
    yield _counter("detector_events", "What became of readings and alerts.", ("recipe", "event"), judged)


def _uplink(links: Sequence[LinkStatus]) -> Iterator[Metric]:
    successes: Rows = {(k.name,): k.last_success_ns / 1e9 for k in links if k.last_success_ns}
    yield _counter("uplink_attempts", "Tries to poll or to report.", ("link",), {(k.name,): k.attempts for k in links})
    yield _counter("uplink_failures", "Those that failed.", ("link",), {(k.name,): k.failures for k in links})
    yield _gauge("uplink_last_success_timestamp_seconds", "When the last one succeeded.", ("link",), successes)


def _gauge(name: str, help_: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"edgectl_{name}", help_, labels=labels)
    for row, value in rows.items():
        family.add_metric(row, value)
    return family


def _counter(name: str, help_: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(f"edgectl_{name}", help_, labels=labels)
    for row, value in rows.items():
        family.add_metric(row, value)
    return family
