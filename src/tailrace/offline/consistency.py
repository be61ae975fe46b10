"""Whether what was served is what training would have: sampled requests are computed again from history, and compared.

samples --page by page--> the features as of each request's time --by feature--> equal, or by how much and why not
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Provenance
from tailrace.compile.wiring import Origin, Wire, Wiring
from tailrace.errors import SetupError
from tailrace.features.events import event_times
from tailrace.features.sources import Source
from tailrace.features.streams import StreamFeatureView
from tailrace.monitor.redacting import redacted_fields
from tailrace.monitor.samples import StoredSample, read_samples, sample_files
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.request_pages import RequestPage
from tailrace.offline.training_set import NO_SOURCES, TrainingSet
from tailrace.pipeline import Pipeline
from tailrace.request.columns import columns_type

if TYPE_CHECKING:
    from tailrace.monitor.log.listing import PassedOver

SAMPLES_TOGETHER: Final = 32_768
EXAMPLES_MAX: Final = 3
"""Differences of one feature that are told in full."""
CLOSE: Final = 1e-9
"""Floats this near, relative to the larger one (from 1 on), were added up in another order, and are no difference."""
LATE_EVENT: Final = "late event"
UNKNOWN: Final = "unknown"
_FRESH: Final = Provenance.FRESH.name.lower()


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs. time: of the request, ns since the epoch."""

    time_ns: int
    served: Any
    computed: Any
    reason: str


@dataclass(slots=True, kw_only=True)
class FeatureComparison:
    """One feature. exact: equal values; close: all but, see `CLOSE`; differing: by reason; largest: difference.

    A reason is the provenance of the view where that is not fresh (`stale`, `default`, `timeout`), `late event` where
    the history has more events than had come when the request was served, else `unknown`.
    """

    exact: int = 0
    close: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    largest: float = 0.0
    examples: list[Difference] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """How many values were compared."""
        return self.exact + self.close + sum(self.differing.values())

    @property
    def share(self) -> float:
        """The share of values that differ."""
        return sum(self.differing.values()) / max(self.compared, 1)


@dataclass(slots=True, kw_only=True)
class ConsistencyReport:
    """What a sample came to.

    rows: that were compared. unread: lines that are no sample. others: samples of another pipeline, or of a release
    that had other features or requests. passed_over: files of a log that were not read.
    """

    pipeline: str
    rows: int = 0
    unread: int = 0
    others: int = 0
    features: dict[str, FeatureComparison] = field(default_factory=dict)
    passed_over: list[PassedOver] = field(default_factory=list)

    @property
    def share_max(self) -> float:
        """The largest share of values of a feature that differ."""
        return max((each.share for each in self.features.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Logged:
    """The lines of a prediction log, in the place of a sample. since_ns, until_ns: of answers, since the epoch."""

    root: Path
    since_ns: int | None = None
    until_ns: int | None = None


def compare_samples(
    pipeline: Pipeline,
    samples: Path | Logged,
    *,
    sources: Mapping[str, Source] = NO_SOURCES,
    limits: DatabaseLimits | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ConsistencyReport:
    """Compute sampled requests again, and compare every feature with what was served.

    samples: as `--sample-requests` wrote it, or what is logged: a request without a score is then no sample. sources:
    of streams, by name, in place of the declared ones.
    Raises what `TrainingSet` raises, and SetupError where there is no sample of the pipeline.
    """
    report = ConsistencyReport(pipeline=pipeline.name)
    training_set = TrainingSet(
        pipeline, sources=sources, limits=limits, on_view=lambda view: on_progress(f"sorting {view}", 0, 0)
    )
    report.features = {name: FeatureComparison() for name in training_set.names}
    found = _samples(training_set, samples, report)
    with training_set:
        comparing = _Comparing(training_set, report)
        own = comparing.own(found)
        while page := list(islice(own, SAMPLES_TOGETHER)):
            comparing.compare(page)
            on_progress("comparing", report.rows, 0)
    if not report.rows:
        what = f"no sample is of pipeline {pipeline.name!r} as it is declared"
        where = str(samples.root if isinstance(samples, Logged) else samples)
        raise SetupError(f"{what}: {report.others:,} are others, {report.unread:,} lines are none",
                         where=where, next="serve it with --sample-requests FILE, and compare that")  # fmt: skip
    return report


def _samples(
    training_set: TrainingSet, samples: Path | Logged, report: ConsistencyReport
) -> Iterator[StoredSample | None]:
    """Return what was served. Raises SetupError for a log without a field that features are made of."""
    if isinstance(samples, Path):
        return read_samples(sample_files(samples))
    from tailrace.monitor.log.reader import LogReader
    from tailrace.offline.log.samples import log_samples

    pipeline, wiring = training_set.pipeline, training_set.wiring
    if lacking := sorted(redacted_fields(pipeline.request) & _fields_used(wiring)):
        raise SetupError(f"{lacking[0]!r} is redacted, and features are made of it: the log does not have it",
                         where=str(samples.root), next="compare a sample: serve --sample-requests FILE")  # fmt: skip
    reader = LogReader(samples.root, pipeline.name, since_ns=samples.since_ns, until_ns=samples.until_ns)
    report.passed_over = reader.passed_over
    return log_samples(reader, expands=wiring.expanded is not None)


def _fields_used(wiring: Wiring) -> set[str]:
    """Return the fields of requests that features are made of by name, and those of keys."""
    wires = [*wiring.features.values(), *(each for _, taken in wiring.on_demand.values() for each in taken)]
    keys = {part for entity in wiring.entities for part in entity.parts if isinstance(part, str)}
    return keys | {each.name for each in wires if each.origin is Origin.REQUEST}


class _Comparing:
    """Compares page by page into a report."""

    def __init__(self, training_set: TrainingSet, report: ConsistencyReport) -> None:
        self._set = training_set
        self._report = report
        self._wiring = wiring = training_set.wiring
        self._columns = columns_type(training_set.pipeline.request, wiring.expanded)
        self._decode = msgspec.json.Decoder(training_set.pipeline.request).decode
        self._views_of = {name: _views_of(each, wiring) for name, each in wiring.features.items()}
        self._counts_of = {place: _count_columns(place, wiring) for place in range(len(wiring.views))}

    def own(self, samples: Iterator[StoredSample | None]) -> Iterator[tuple[StoredSample, Any]]:
        """Give the samples that can be compared, each with its request; count the others."""
        names, views = set(self._set.names), {view.__name__ for view in self._wiring.views}
        for sample in samples:
            if sample is None:
                self._report.unread += 1
                continue
            is_own = sample.pipeline == self._set.pipeline.name and names == sample.features.keys()
            if is_own and views <= sample.provenance.keys():
                try:
                    yield sample, self._decode(sample.request)
                    continue
                except msgspec.DecodeError:
                    pass
            self._report.others += 1

    def compare(self, samples: Sequence[tuple[StoredSample, Any]]) -> None:
        """Compute some samples again, and note what differs."""
        page = self._page([request for _, request in samples])
        served = {name: _flat(self._wiring, [each.features[name] for each, _ in samples]) for name in self._set.names}
        provenances = [
            _flat(self._wiring, [each.provenance[view.__name__] for each, _ in samples]) for view in self._wiring.views
        ]
        computed = self._set.columns(page)
        lacking = [self._lacking(place, served, computed) for place in range(len(self._wiring.views))]
        self._report.rows += page.rows
        for name, column in computed.items():
            comparison = self._report.features[name]
            for row in _compare(comparison, served[name], column.tolist()):
                reason = _reason(row, self._views_of[name], provenances, lacking)
                comparison.differing[reason] = comparison.differing.get(reason, 0) + 1
                if len(comparison.examples) < EXAMPLES_MAX:
                    value = column[row : row + 1].tolist()[0]
                    found = Difference(int(page.times_ns[row]), served[name][row], value, reason)
                    comparison.examples.append(found)

    def _page(self, requests: list[Any]) -> RequestPage:
        """Return requests as a page, with the columns that they have while serving."""
        row_request = None
        expanded = self._wiring.expanded
        if expanded is not None:
            row_request = np.repeat(np.arange(len(requests)), [len(getattr(each, expanded)) for each in requests])
        columns = self._columns(requests, row_request)
        times_ns = event_times(getattr(columns, self._set.time))
        return RequestPage(len(times_ns), columns, times_ns, None, 0)

    def _lacking(
        self, place: int, served: Mapping[str, list[Any]], computed: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.bool_] | None:
        """Return for which rows a stream view was served without events that its history has; None if that is unknown.

        A count tells it: it is larger now.
        """
        found = None
        for name in self._counts_of[place]:
            more = computed[name] > np.array([np.inf if each is None else each for each in served[name]], np.float64)
            found = more if found is None else found | more
        return found


def _compare(comparison: FeatureComparison, served: list[Any], computed: list[Any]) -> list[int]:
    """Count equal values; return the rows of the others."""
    differing = []
    for row, (one, other) in enumerate(zip(served, computed, strict=True)):
        if _is_same(one, other):
            comparison.exact += 1
            continue
        gap, size = _gap(one, other)
        if gap is not None and gap <= CLOSE * size:
            comparison.close += 1
            continue
        comparison.largest = max(comparison.largest, gap or 0.0)
        differing.append(row)
    return differing


def _is_same(one: Any, other: Any) -> bool:
    """Return whether a served value is the computed one; of vectors each number of it."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other) or (one is None and _is_no_number(other))


def _is_no_number(value: Any) -> bool:
    """Return whether JSON has null for a value."""
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def _gap(one: Any, other: Any) -> tuple[float | None, float]:
    """Return how far two numbers are apart, or two vectors where they are furthest, and how large they are, 1 at least.

    None where one of them is no number.
    """
    numbers = [each if isinstance(each, list) else [each] for each in (one, other)]
    are_numbers = all(isinstance(each, int | float) and np.isfinite(each) for part in numbers for each in part)
    if not are_numbers or len(numbers[0]) != len(numbers[1]):
        return None, 1.0
    left, right = (np.array(part, np.float64) for part in numbers)
    return float(np.abs(left - right).max(initial=0.0)), float(np.abs([left, right]).max(initial=1.0))


def _reason(
    row: int, views: Sequence[int], provenances: Sequence[list[Any]], lacking: Sequence[NDArray[np.bool_] | None]
) -> str:
    """Return why a value of a row differs, which is computed from some views."""
    for view in views:
        if provenances[view][row] != _FRESH:
            return str(provenances[view][row])
    return LATE_EVENT if any((late := lacking[view]) is not None and late[row] for view in views) else UNKNOWN


def _views_of(wire: Wire, wiring: Wiring) -> list[int]:
    """Return the views that a feature is computed from, those that give their keys first."""
    if wire.origin is Origin.VIEW:
        return [*wiring.key_views(wire.view), wire.view]
    if wire.origin is not Origin.ON_DEMAND:
        return []
    _, taken = wiring.on_demand[wire.name]
    return sorted({view for each in taken for view in _views_of(each, wiring)})


def _count_columns(place: int, wiring: Wiring) -> list[str]:
    """Return the features that are counts of a stream view."""
    view = wiring.views[place]
    if not issubclass(view, StreamFeatureView):
        return []
    names = [f"{view.__name__}.{name}" for name, each in view.spec.aggregates.items() if each.kind == "count"]
    return [name for name in names if name in wiring.features]


def _flat(wiring: Wiring, values: list[Any]) -> list[Any]:
    """Return a value for each row: where requests make many rows, each sample has a list."""
    return values if wiring.expanded is None else [item for each in values for item in each]
