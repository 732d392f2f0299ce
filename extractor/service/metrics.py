"""What the service counts, for Prometheus. Labels come from sets that are known at the start, or that grow to a bound."""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from extractor.errors import ShelfwiseError
from extractor.records import Extraction, Failure
from extractor.schema import AttributeSchema
from extractor.service.batching import Batcher
from extractor.service.tickets import Batch

INLINE = "(inline)"  # stands for the categories of schemas that came with a request
MOST_NEW = 1_000  # attributes of categories, of schemas that were saved while the service runs
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
AGAIN = 15.0  # seconds after which the store is asked again what waits
Waiting = Callable[[], Iterable[tuple[AttributeSchema | None, int]]]
CONFIDENCES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


class _Jobs(Collector):
    """Counted when somebody asks; where the store cannot be reached, there are the other metrics."""

    def __init__(self, counted: Callable[[], Mapping[str, int]]) -> None:
        self._counted = counted

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("shelfwise_jobs", "Jobs.", labels=["state"])

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("shelfwise_jobs", "Jobs.", labels=["state"])
        with suppress(ShelfwiseError):
            for state, n in self._counted().items():
                family.add_metric([state], n)
        yield family


class Metrics:
    def __init__(self, schemas: Iterable[AttributeSchema]) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        self._served: dict[str, str] = {}
        given = list(schemas)
        self._labels: set[tuple[str, str]] = set()
        self._most = sum(len(s.attributes) for s in given) + MOST_NEW
        self.follow(given)
        self.requests = prometheus.Counter(
            "shelfwise_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.latency = prometheus.Histogram(
            "shelfwise_request_seconds",
            "From the first byte to the last.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.engine_seconds = prometheus.Counter(
            "shelfwise_engine_seconds",
            "Time of the engine, and what prepares and reads its answers.",
            registry=registry,
        )
        self.batches = prometheus.Histogram(
            "shelfwise_batch_offers", "Offers of a round.", buckets=[2**i for i in range(11)], registry=registry
        )
        self.repeated = prometheus.Counter("shelfwise_engine_repeats", "Calls that were made again.", registry=registry)
        self.tokens = prometheus.Counter("shelfwise_tokens", "Tokens.", ["kind"], registry=registry)
        self.failures = prometheus.Counter(
            "shelfwise_failures", "Offers without a record.", ["reason"], registry=registry
        )
        asked = ["category", "attribute"]
        self.asked = prometheus.Counter("shelfwise_asked", "Attributes asked of offers.", asked, registry=registry)
        self.missing = prometheus.Counter("shelfwise_missing", "… that have no value.", asked, registry=registry)
        self.confidence = prometheus.Histogram(
            "shelfwise_confidence", "Of values.", asked, buckets=CONFIDENCES, registry=registry
        )

        self.reviews = prometheus.Counter(
            "shelfwise_reviews",
            "Values that people decided about, and what they made of them.",
            [*asked, "decision"],
            registry=registry,
        )
        self.job_rows = prometheus.Counter("shelfwise_job_rows", "Rows of jobs that are done.", registry=registry)

    def count(self, jobs: Callable[[], Mapping[str, int]]) -> None:
        """`jobs`: state -> how many."""
        self.registry.register(_Jobs(jobs))

    def watch(self, batcher: Batcher) -> None:
        for name, what, read in (
            ("shelfwise_queue_offers", "Offers that wait.", lambda: batcher.waiting),
            ("shelfwise_engine_offers", "Offers in the engine.", lambda: batcher.extracting),
            ("shelfwise_ready", "1 where the engine answers.", lambda: batcher.answering),
        ):
            prometheus.Gauge(name, what, registry=self.registry).set_function(read)

    def watch_queue(self, waiting: Waiting) -> None:
        self.registry.register(_Queue(waiting))

    def reviewed(self, schema: AttributeSchema | None, attribute: str, decision: str, n: int) -> None:
        known = schema is not None and any(a.name == attribute for a in schema.attributes)
        label = self._label(schema.category or "" if schema and known else None, attribute)
        self.reviews.labels(*label, decision).inc(n)

    def follow(self, schemas: Iterable[AttributeSchema]) -> None:
        """Count by these from now on; what is beyond the bound is counted as inline."""
        given = list(schemas)
        for label in ((s.category or "", a.name) for s in given for a in s.attributes):
            if len(self._labels) < self._most:
                self._labels.add(label)
        self._served = {s.reference: s.category or "" for s in given}

    def _label(self, category: str | None, attribute: str) -> tuple[str, str]:
        return (INLINE, "") if category is None or (category, attribute) not in self._labels else (category, attribute)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method, route, status).inc()
        self.latency.labels(route).observe(seconds)

    def seen(self, batch: Batch) -> None:
        self.engine_seconds.inc(batch.seconds)
        self.batches.observe(len(batch.offers))
        self._records(batch.records)

    def _records(self, records: Sequence[Extraction | Failure]) -> None:
        asked: Tally[tuple[str, str]] = Tally()
        missing: Tally[tuple[str, str]] = Tally()
        for record in records:
            if isinstance(record, Failure):
                self.failures.labels(record.failure.reason).inc()
                continue
            for kind in ("prompt", "cached", "output"):
                self.tokens.labels(kind).inc(getattr(record.usage, f"{kind}_tokens"))
            served = self._served.get(record.provenance.schema_)
            for name, values in record.attributes.items():
                label = self._label(served, name)
                asked[label] += 1
                missing[label] += not values
                for value in values:
                    if value.confidence is not None:
                        self.confidence.labels(*label).observe(value.confidence)
        for counter, tally in ((self.asked, asked), (self.missing, missing)):
            for label, n in tally.items():
                counter.labels(*label).inc(n)

    def written(self) -> bytes:
        return prometheus.generate_latest(self.registry)


class _Queue(Collector):
    """Values that wait for review, by category: looked up now and then, for a scrape must not cost what a large store does."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting, self._until, self._known = waiting, 0.0, Tally[str]()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + AGAIN
            self._known = self._looked_up()
        gauge = GaugeMetricFamily("shelfwise_review_queue", "Values that wait for review.", labels=["category"])
        for category, waiting in self._known.items():
            gauge.add_metric([category], waiting)
        yield gauge

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def _looked_up(self) -> Tally[str]:
        found: Tally[str] = Tally()
        try:
            for schema, waiting in self._waiting():
                found[INLINE if schema is None else schema.category or ""] += waiting
        except ShelfwiseError:  # the other figures are wanted all the more when the store is gone
            found.clear()
        return found
