"""Why a decision flips: what each feature adds to the raw score, by B's trees less by A's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.compile.binding import assemblers
from tailrace.compile.wiring import Wiring
from tailrace.inference.declaration import Model
from tailrace.inference.explaining.explainer import load_explainer
from tailrace.inference.explaining.step import ExplainedModel
from tailrace.inference.loading import load_model
from tailrace.offline.whatif.sides import Side
from tailrace.plan import Plan

EXPLAINED_MAX: Final = 2_000
"""Rows of one flip that are explained, the first ones: a row takes a hundred times what its score does."""


class Contributions:
    """Explains both sides of a row. unexplained: why it cannot; "" where it can."""

    def __init__(self, sides: Sequence[Side], plans: Sequence[Plan], wirings: Sequence[Wiring]) -> None:
        found = [_explained(*each) for each in zip(sides, plans, wirings, strict=True)]
        self._models = [each for each in found if not isinstance(each, str)]
        self.unexplained = "; ".join(each for each in found if isinstance(each, str))

    def changes(self, batches: Sequence[Batch], rows: NDArray[np.intp]) -> list[dict[str, float]]:
        """Return the change of each feature's contribution, for each row; nothing where rows are not explained."""
        if self.unexplained or not len(rows):
            return []
        sides = []
        try:
            for model, batch in zip(self._models, batches, strict=True):
                limits = [len(model.features)] * len(rows)
                sides.append(model.explain(model.feeds(batch, rows), limits))
        except Exception as error:  # of a library: what was counted is worth more than why
            self.unexplained = f"{type(error).__name__} while explaining: {error}"
            return []
        return [
            {name: after.get(name, 0.0) - before.get(name, 0.0) for name in before | after}
            for before, after in zip(*sides, strict=True)
        ]


def _explained(side: Side, plan: Plan, wiring: Wiring) -> ExplainedModel | str:
    """Return what explains a side's model, or why nothing does."""
    declared = side.pipeline.model
    if not isinstance(declared, Model):
        return f"{side.name} cannot be explained: its score is no single model's"
    directory = declared.directory(side.pipeline.base_dir)
    model = load_model(directory, trusted=declared.trust)
    trees = load_explainer(model, directory)
    if isinstance(trees, str):
        return f"{side.name} cannot be explained: {trees}"
    filled = assemblers(wiring, model.signature, plan.features.codecs)
    return ExplainedModel(filled, trees, model.signature.feature_names, 1)
