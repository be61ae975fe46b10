"""How the names of a declaration resolve: which column fills which model input, rule argument and response field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import numpy as np

from tailrace.errors import Problem
from tailrace.features.hop_order import hop_of
from tailrace.features.on_demand import OnDemandView
from tailrace.features.view_spec import Column, Entity
from tailrace.features.views import FeatureView
from tailrace.inference.composition.declarations import Composition
from tailrace.request.schema import FieldSpec
from tailrace.response.schema import Embedding

_WORD_BEGINS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

SUGGESTIONS_MAX: Final = 8


class Origin(Enum):
    """Where a column comes from."""

    REQUEST = "request"
    VIEW = "view"
    ON_DEMAND = "on_demand"
    SCORE = "score"
    DECISION = "decision"
    REASONS = "reasons"
    PROBABILITIES = "probabilities"
    VARIANT = "variant"
    EXPLANATION = "explanation"
    UNEXPLAINED = "unexplained"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Wire:
    """One column, or (name "") all columns of an origin. view: the index of the view, for Origin.VIEW.

    width: of a vector; 1 for any other column. embedding: how the model's vector is sent, for Origin.EMBEDDING, and
    is_packed: as bytes.
    """

    origin: Origin
    name: str = ""
    view: int = -1
    dtype: np.dtype[Any] | None = None
    width: int = 1
    embedding: Embedding | None = None
    is_packed: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the column holds texts or other objects; False where that is not known before it is computed."""
        return self.dtype is not None and self.dtype.kind in "OUST"


@dataclass(slots=True)
class Wiring:
    """A pipeline with its names resolved. problems: every mistake found; a wiring with one cannot be run.

    views: in the order in which they are read: those that give the key of another before it. features: the wire of each
    model input by canonical name, in the pipeline's order. entities: of each view. expanded: the list-valued key field
    that makes rows, if any. on_demand: each on-demand feature with the wires of its arguments, in an order in which
    they can be computed. chosen_by: what each stage that goes by something of a row goes by. splits: their
    names and variants. top: how many rows of a request are answered with, or the field that says so; None for all.
    explain: by how many contributions a score is explained, likewise. compared: the fields by which requests are told
    apart that share answers; None where none do.
    """

    fields: dict[str, FieldSpec]
    views: tuple[type[FeatureView], ...]
    entities: list[Entity] = field(default_factory=list)
    expanded: str | None = None
    features: dict[str, Wire] = field(default_factory=dict)
    on_demand: dict[str, tuple[OnDemandView, list[Wire]]] = field(default_factory=dict)
    chosen_by: dict[Composition, Wire] = field(default_factory=dict)
    splits: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    top: int | str | None = None
    explain: int | str | None = None
    compared: tuple[str, ...] | None = None
    rules: list[list[Wire]] = field(default_factory=list)
    response: list[tuple[str, Wire]] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    def expands(self, view: int) -> bool:
        """Say whether a view has a row for each row of the batch, and not for each request."""
        if self.expanded is None:
            return False
        entity = self.entities[view]
        return self.expanded in entity.parts or any(self.expands(self.view_of(each)) for each in entity.columns)

    def view_of(self, column: Column) -> int:
        """Return the index of the view that a column is of."""
        return next(index for index, view in enumerate(self.views) if vars(view).get(column.name) is column)

    def key_views(self, view: int) -> list[int]:
        """Return the views that a view's key comes from, and those that theirs come from."""
        own = [self.view_of(column) for column in self.entities[view].columns]
        return sorted({*own, *(each for given in own for each in self.key_views(given))})

    @property
    def hops(self) -> list[list[int]]:
        """The views that are read together, in the order of their hops."""
        depths = [hop_of(view) for view in self.views]
        return [[place for place, depth in enumerate(depths) if depth == hop] for hop in sorted(set(depths))]


def snake_case(name: str) -> str:
    """Return CustomerProfile as customer_profile, KYCProfile as kyc_profile: how a rule's parameters name a view."""
    return _WORD_BEGINS.sub("_", name).lower()


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" for a name close to a known one, else what is known, the first few."""
    known = list(known)
    if close := difflib.get_close_matches(str(name), known, n=1):
        return f"did you mean {close[0]!r}?"
    more = f" and {len(known) - SUGGESTIONS_MAX} more" if len(known) > SUGGESTIONS_MAX else ""
    return f"known are {', '.join(known[:SUGGESTIONS_MAX]) or 'none'}{more}"
