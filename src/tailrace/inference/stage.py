"""What scores the rows of a batch: one model, or stages made of stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.scored import Scored
from tailrace.inference.signature import Signature


class Stage(Protocol):
    """Scores the rows of a batch, under a deadline. learns: whether it learns yet, from calls that are not samples."""

    learns: bool

    @property
    def name(self) -> str:
        """Of its scores."""
        ...

    @property
    def members(self) -> Sequence[Stage]:
        """The stages that it is made of; none for a model."""
        ...

    @property
    def second(self) -> Stage | None:
        """The stage that it falls back to, if that is one of its own."""
        ...

    @property
    def in_flight_max(self) -> int:
        """How many batches it takes at once; it follows what is learned."""
        ...

    @property
    def rows_inline_max(self) -> int:
        """Rows of a batch that runs on the loop, 0 for none; it follows what is learned."""
        ...

    @property
    def rows_best(self) -> int:
        """Rows with the least cost each; it follows what is learned."""
        ...

    @property
    def is_computing(self) -> bool:
        """Whether a thread of its own is at work."""
        ...

    def cost_ns(self, rows: int) -> int:
        """Return what a call of so many rows takes, the median, as far as is known now."""
        ...

    async def score(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the scores of a batch's rows; of all where `picked` is None, else of these, in their order.

        deadline_ns: when the scores must be there. Waits only in a batch that suspends. Raises nothing for what a row
        holds: what cannot be scored takes the fallback, or is failed.
        """
        ...

    def yield_core(self, limit_ns: int) -> None:
        """Leave the core to the call on its thread: until it is done, or for a moment."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@runtime_checkable
class LeafStage(Stage, Protocol):
    """A stage that is one model.

    signature: what it takes and gives. explained_by: the packaged model whose library may explain a score, or why none
    can. notice: what is to be known of how it started; failure: what went wrong last; empty where there is nothing.
    """

    @property
    def signature(self) -> Signature: ...  # noqa: D102

    @property
    def explained_by(self) -> PackagedModel | str: ...  # noqa: D102

    @property
    def notice(self) -> str: ...  # noqa: D102

    @property
    def failure(self) -> str: ...  # noqa: D102


def walk_stages(stage: Stage) -> Iterator[Stage]:
    """Give a stage and all behind it, in their order: what it is made of, and what stands in for it."""
    yield stage
    for part in (*stage.members, *(() if stage.second is None else (stage.second,))):
        yield from walk_stages(part)


def asked_stages(stage: Stage) -> list[LeafStage]:
    """Return the models that a stage asks, in their order, without those that they fall back to; each once."""
    if isinstance(stage, LeafStage):
        return [stage]
    return list(dict.fromkeys(model for member in stage.members for model in asked_stages(member)))


def leaf_stages(stage: Stage) -> list[LeafStage]:
    """Return the models of a stage, also those that are fallen back to, in their order; each once."""
    return list(dict.fromkeys(found for found in walk_stages(stage) if isinstance(found, LeafStage)))
