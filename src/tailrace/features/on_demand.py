"""On-demand features: functions on the columns of a batch, run while serving and, the same, for training sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, get_type_hints

from tailrace.errors import Problem


@dataclass(frozen=True)
class OnDemandView:
    """A feature computed from others. Made by `on_demand`; calling it calls the function.

    function: takes columns (the request's, a view's), returns an array of shape (rows,).
    """

    name: str
    function: Callable[..., Any]

    def __call__(self, *columns: Any, **named: Any) -> Any:
        """Call the function, as a test would."""
        return self.function(*columns, **named)

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The function's parameters, in order, each with its annotated type; None where it has none to be read."""
        hints = {} if isinstance(self._hints, Exception) else self._hints
        return MappingProxyType({name: hints.get(name) for name in inspect.signature(self.function).parameters})

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Every mistake in the declaration."""
        where = f"features.{self.name}"
        if isinstance(self._hints, Exception):
            next_step = "import the name it uses at the file's top"
            return (Problem(f"an annotation cannot be read: {self._hints}", where, next_step),)
        next_step = "annotate it with the type it takes: the request's, or a feature view"
        return tuple(
            Problem(f"the parameter {name!r} has no type", where, next_step)
            for name, annotation in self.parameters.items()
            if annotation is None
        )

    @cached_property
    def _hints(self) -> dict[str, Any] | Exception:
        """The types, resolved when first asked for: a function may name a view that is declared below it."""
        try:
            return get_type_hints(self.function)
        except Exception as error:  # an annotation may be any expression
            return error


def on_demand(function: Callable[..., Any]) -> OnDemandView:
    """Declare a function of columns as a feature named as the function is.

        @tr.on_demand
        def amount_ratio(request: Payment, profile: CustomerProfile) -> np.ndarray:
            return request.amount / np.maximum(profile.avg_amount_90d, 1.0)

    Its parameters are told apart by their types: the request's, or a feature view's.
    """
    return OnDemandView(function.__name__, function)
