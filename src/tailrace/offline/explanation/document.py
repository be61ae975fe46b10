"""What is told of a request: the document that `tailrace explain --json` prints and the console's page shows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec


class NotSearched(NamedTuple):
    """A file of the log that could not be searched, and why. file: under the log's directory."""

    file: str
    why: str


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """Where the request was looked for. rows: of the whole files, where nothing was found; drafts: still written."""

    log: str
    pipelines: list[str]
    files: int
    rows: int | None
    drafts: int
    first_hour: str
    last_hour: str
    passed_over: list[NotSearched]


class Feature(msgspec.Struct, kw_only=True):
    """One input of the model. view: that it is a column of, "" for none; provenance, event_time: of that view's row.

    age_s: from the event time of that row to the answer; None where none is known. is_redacted: the log does not have
    it. adds: its contribution to the raw score, None where that is not known.
    """

    name: str
    value: Any = None
    view: str = ""
    provenance: str = ""
    event_time: datetime | None = None
    age_s: float | None = None
    is_redacted: bool = False
    adds: float | None = None


class Row(msgspec.Struct, kw_only=True):
    """One row of a request: what was decided, and of what. unexplained: why features have no contributions."""

    row: int
    failed: bool
    score: Any
    decision: str | None
    reasons: list[str]
    degraded: list[str]
    branches: dict[str, str | None]
    features: list[Feature]
    unexplained: str = ""


class LayerTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long a layer took for the batch of the request. budget_us: None where that is not known, 0 for none."""

    layer: str
    took_us: int
    budget_us: int | None = None


class ModelTold(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the release. version: of its files; registered: its version in a registry, "" for none."""

    name: str
    version: str
    backend: str
    registered: str = ""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that the store gives another value of now."""

    name: str
    then: Any
    now: Any


class Again(msgspec.Struct, kw_only=True):
    """A row scored again. changed: the features that differ from what was served."""

    row: int
    score: Any
    decision: str | None
    reasons: list[str]
    is_equal: bool
    changed: list[Changed] = []


class Rescored(msgspec.Struct, kw_only=True):
    """The request scored again by its release. fault: why it could not be, "" where it could.

    is_equal: whether every row has the same score, to the bit, the same decision and the same reasons. why: what may
    account for what differs.
    """

    rows: list[Again] = []
    is_equal: bool = False
    why: list[str] = []
    fault: str = ""


class Replay(msgspec.Struct, kw_only=True):
    """The request scored again: from the features that were served, and from those that the store has now.

    store: which store that is, without its password.
    """

    logged: Rescored
    now: Rescored
    store: str = ""


class Answered(msgspec.Struct, kw_only=True):
    """A request as it was answered once. copies: how often the log has it; files: where.

    item, items: its place among the requests of one call that was an array. coalesced: how it came to be answered by
    another's computation, "" where it was not; then it has no rows, and answer is what it was answered. redacted: paths
    in the request that are masked. budget_us: of the pipeline. release_note: why its release does not speak here, ""
    where it does.
    """

    pipeline: str
    release: str
    time: datetime | None
    files: list[str]
    copies: int
    item: int
    items: int
    trace: str
    client: str
    slot: int | None
    error: str
    coalesced: str
    answer: Any
    request: Any
    redacted: list[str]
    wait_us: int
    layers: list[LayerTime]
    whole_us: int
    budget_us: int | None
    models: list[ModelTold]
    rows: list[Row]
    release_note: str = ""
    replay: Replay | None = None


class Explanation(msgspec.Struct, kw_only=True):
    """All that is told of a request id. answered: each time that it was, the oldest first; empty where it never was."""

    request_id: str
    searched: Searched
    answered: list[Answered]
