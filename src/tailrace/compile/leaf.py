"""What the models of a pipeline are found with, and what the stage of each is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tailrace.deadline import Budget, Clock
from tailrace.errors import Problem
from tailrace.inference.assembly import Assembler
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.declaration import Constant, StageDeclaration
from tailrace.inference.signature import Signature
from tailrace.inference.stage import Stage


class Found(Protocol):
    """A model of any kind, as it was loaded or asked about."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...


Declared = TypeVar("Declared", bound=StageDeclaration)
Known = TypeVar("Known", bound=Found)


@dataclass(frozen=True, slots=True)
class Search:
    """What models are found with.

    backends: chosen beforehand, by the model's directory; for a model that is not among them it is chosen now.
    problems: takes those of models that cannot be loaded, or do not fit.
    """

    backends: Mapping[Path, BackendChoice]
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class StageParts(Generic[Declared, Known]):
    """What the stage of one model is made of.

    assemblers: fill its inputs. constant: what answers where no model does, as scores. found: all models of the
    pipeline; bind: gives the stage of another declaration.
    """

    declared: Declared
    model: Known
    assemblers: list[Assembler]
    constant: Constant | None
    budget: Budget
    clock: Clock
    found: Mapping[StageDeclaration, Found]
    bind: Callable[[StageDeclaration], Stage]
