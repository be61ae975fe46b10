"""The declaration: what a pipeline is. Frozen, without I/O.

An argument of another kind is an error at once; all other mistakes are when the pipeline is compiled (compile/).
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MemberDescriptorType
from typing import Any, get_type_hints

from tailrace.alerting import DEFAULTS, Alerts
from tailrace.deadline import Budget
from tailrace.errors import CompileError, Problem
from tailrace.features.hop_order import in_hop_order
from tailrace.features.on_demand import OnDemandView
from tailrace.features.streams import Stream, StreamFeatureView
from tailrace.features.view_spec import Column
from tailrace.features.views import FeatureView, view_of
from tailrace.inference.composition.declarations import compositions_of
from tailrace.inference.declaration import StageDeclaration
from tailrace.inference.drift import DEFAULT_DRIFT, Drift
from tailrace.postprocess.bands import Bands, Labels
from tailrace.postprocess.rules import Rule
from tailrace.prediction_log import EVERYTHING, Log
from tailrace.request.coalesce import Coalesce
from tailrace.request.late_check import LateCheck
from tailrace.request.limit import NO_LIMIT, Limit
from tailrace.request.schema import Request
from tailrace.response.destinations import Destination
from tailrace.response.schema import Response

Feature = MemberDescriptorType | type[FeatureView] | Column | OnDemandView
"""What a pipeline's features may be: a request field (`Payment.amount`), a view, one column of a view
(`CustomerProfile.avg_amount_90d`), or an on-demand feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A decision service: request, features, model, decision, response, and the budget it keeps.

    features: in the order of the model's inputs. rules: what holds whatever the score. store: where materialised rows
    lie, a path or a URL (`lmdb:PATH`, `redis://HOST`); `--store` replaces it. rows_max: of one request with a
    list-valued entity key. time: the field of the request that says when it happened, a datetime or seconds since the
    epoch: windows look back from there; without it, from when the request came. record_requests: whether each request
    is an event itself, of every stream whose schema it is, that the next one sees. Relative paths are relative to the
    file that is loaded, whatever file declares it. top: of a request with such a key, how many rows it is answered with
    at most, the best by score; or the field of the request that says so. None: all, in their order.
    explain: how many of its largest contributions a score is explained by, or the field of the request that says so.
    limit: what all callers together may have of it. limit_per_key: what each API key may have.
    coalesce: that identical requests share one computation; None computes each. validate_later: what is checked of
    requests once they are answered.
    results: where the results of requests go that are accepted, whose callers do not wait. alerts: when its operator is
    told; None for never.
    drift: how what is predicted is watched for drift, where the server has an observer; None for not at all.
    log: what of its requests is kept, where the server keeps a log.
    Raises CompileError for arguments of another kind, all of them together.
    """

    name: str
    request: type[Request]
    response: type[Response]
    features: Sequence[Any]
    model: StageDeclaration
    budget: Budget
    decision: Bands | Labels | None = None
    rules: Sequence[Rule] = ()
    store: str = "lmdb:.tailrace/store"
    rows_max: int = 1_000
    time: str | None = None
    record_requests: bool = False
    top: Any = None
    explain: Any = None
    limit: Limit = NO_LIMIT
    limit_per_key: Limit = NO_LIMIT
    coalesce: Coalesce | None = None
    validate_later: Sequence[LateCheck] = ()
    results: Destination | None = None
    alerts: Alerts | None = DEFAULTS
    drift: Drift | None = DEFAULT_DRIFT
    log: Log = EVERYTHING
    base_dir: Path = field(default=Path(), compare=False)
    sources_dir: Path = field(default=Path(), compare=False)
    """Where the file and what belongs to it was read: `base_dir`, or a release's copy of it."""

    def __post_init__(self) -> None:
        if problems := list(_wrong_kinds(self)):
            raise CompileError(str(self.name), problems)

    @property
    def views(self) -> tuple[type[FeatureView], ...]:
        """The views that it reads, in the order in which it reads them.

        Those among the features, those that on-demand features or rules take by annotation, those that a stage goes by,
        and those that give the key of another.
        """
        found: dict[type[FeatureView], None] = {}
        for feature in self.features:
            taken = feature.parameters.values() if isinstance(feature, OnDemandView) else (feature,)
            found |= dict.fromkeys(filter(None, map(_view_of, taken)))
        for rule in self.rules:
            found |= dict.fromkeys(filter(None, map(_view_of, rule_parameters(rule).values())))
        for composition in compositions_of(self.model):
            found |= dict.fromkeys(filter(None, map(_view_of, composition.reads)))
        return in_hop_order(found)


def stream_views(pipeline: Pipeline) -> list[type[StreamFeatureView]]:
    """Return the views of a pipeline that look back over a stream."""
    return [view for view in pipeline.views if issubclass(view, StreamFeatureView)]


def is_event_of(pipeline: Pipeline, stream: Stream) -> bool:
    """Return whether a request of the pipeline is an event of a stream: of its schema, or one that extends it."""
    return isinstance(stream.schema, type) and issubclass(pipeline.request, stream.schema)


def _wrong_kinds(pipeline: Pipeline) -> Iterator[Problem]:
    """Give a problem for each argument that is not of its kind: what nobody who reads it could go on with."""
    kinds: list[tuple[str, Any, str]] = [
        ("name", str, 'name="fraud"'),
        ("features", Sequence, "features=[Payment.amount, …]"),
        ("model", StageDeclaration, 'model=tr.Model("fraud")'),
        ("budget", Budget, 'budget=tr.Budget("50ms")'),
        ("decision", Bands | Labels | None, 'decision=tr.bands("score", …), tr.labels() or None'),
        ("rules", Sequence, "rules=[tr.Rule(…)]"),
        ("store", str, 'store="lmdb:PATH"'),
        ("rows_max", int, "rows_max=1_000"),
        ("time", str | None, 'time="time", a field of the request'),
        ("record_requests", bool, "record_requests=True"),
        ("top", int | MemberDescriptorType | None, "top=20, or top=Ranking.limit"),
        ("explain", int | MemberDescriptorType | None, "explain=5, or explain=Payment.explain"),
        ("limit", Limit, 'limit=tr.Limit(rate="1000/s")'),
        ("limit_per_key", Limit, 'limit_per_key=tr.Limit(rate="100/s", concurrent=16)'),
        ("coalesce", Coalesce | None, 'coalesce=tr.Coalesce(), or tr.Coalesce(ttl="1s")'),
        ("log", Log, 'log=tr.Log(sample=0.1, keep=("failed",))'),
        ("drift", Drift | None, 'drift=tr.Drift("5m"), or None'),
        ("results", Destination | None, "results=tr.Webhook(…), tr.RedisStream(…) or None"),
        ("alerts", Alerts | None, "alerts=tr.Alerts(p99_over=3.0), or None"),
    ]
    for name, kind, example in kinds:
        value = getattr(pipeline, name)
        if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str)):
            yield Problem(_kind_of(value), name, f"write {example}")
    bases: tuple[tuple[str, type], ...] = (("request", Request), ("response", Response))
    for name, base in bases:
        value = getattr(pipeline, name)
        if not isinstance(value, type) or not issubclass(value, base):
            yield Problem(_kind_of(value), name, f"name a class that extends tr.{base.__name__}")
    yield from _wrong_checks(pipeline.validate_later)
    rules: Any = pipeline.rules
    for position, rule in enumerate(rules if isinstance(rules, Sequence) else ()):
        if not isinstance(rule, Rule):
            yield Problem(_kind_of(rule), f"rules[{position}]", "write tr.Rule(name, when, then)")


def _wrong_checks(checks: Any) -> Iterator[Problem]:
    """Give a problem for each late check that is none, or has the name of another."""
    if not isinstance(checks, Sequence):
        yield Problem(_kind_of(checks), "validate_later", "write validate_later=[tr.LateCheck(name, holds)]")
        return
    names: set[str] = set()
    for position, check in enumerate(checks):
        where = f"validate_later[{position}]"
        if not isinstance(check, LateCheck):
            yield Problem(_kind_of(check), where, "write tr.LateCheck(name, holds)")
        elif check.name in names:
            yield Problem(f"two late checks are called {check.name!r}", where, "give each its own name")
        else:
            names.add(check.name)


def _kind_of(value: Any) -> str:
    return f"{reprlib.repr(value)} is of type {type(value).__name__}"


def _view_of(item: Any) -> type[FeatureView] | None:
    """Return the view that an item is, or is a column of; None for anything else."""
    if isinstance(item, Column):
        return view_of(item)
    return item if isinstance(item, type) and issubclass(item, FeatureView) else None


def rule_parameters(rule: Rule) -> dict[str, Any]:
    """Return the parameters of a rule's function, in order, each with its annotated type; None where it has none.

    Empty for what is no function: the compiler reports it when it calls it.
    """
    function: Callable[..., Any] = rule.when
    try:
        names = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation may be any expression; without it the parameter's name must do
        hints = {}
    return {name: hints.get(name) for name in names}
