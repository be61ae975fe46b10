"""A run of a few recipes, for who knows which may win."""

from __future__ import annotations

from pathlib import Path

from tailrace.offline.optimize.optimizer import optimize
from tailrace.offline.optimize.question import Asked


def test_only_what_is_named_is_tried(model: Path, data: Path, tmp_path: Path) -> None:
    """Beside the model as packaged, which all are compared with, nothing is made, searched or set."""
    asked = Asked(
        model, data, "auc", 0.05, 1_000_000_000, batches=(1,), seconds=0.05, only=("optimised graph",)
    )  # fmt: skip
    found = optimize(asked, tmp_path / "work")
    measured = {trial.recipe.name for trial in found.trials if trial.status == "measured"}
    assert measured == {"as packaged", "optimised graph"}
