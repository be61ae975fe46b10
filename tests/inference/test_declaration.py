from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.inference.declaration import Constant, Model


def test_model_without_path_lies_beside_the_pipeline() -> None:
    """A model's directory is models/<name> beside the pipeline's file, unless a path says otherwise."""
    beside = Path("/srv/fraud")
    assert Model("fraud").directory(beside) == beside / "models" / "fraud"
    assert Model("fraud", path="trained/v2").directory(beside) == beside / "trained" / "v2"
    assert Model("fraud", path="/opt/v2").directory(beside) == Path("/opt/v2")


@pytest.mark.parametrize("name", ["", "a/b", "..", "."])
def test_model_name_that_is_no_directory_name_is_refused(name: str) -> None:
    """A name cannot lead out of the models' folder."""
    with pytest.raises(ValueError, match="name of its directory"):
        Model(name)


def test_model_fallback_chain_is_bounded() -> None:
    """A fallback model may end in a constant, not in a third model."""
    second = Model("small", fallback=Constant(0.5))
    assert Model("big", fallback=second).fallback == second
    with pytest.raises(ValueError, match="only fall back to a Constant"):
        Model("big", fallback=Model("small", fallback=Model("tiny")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_constant_that_is_not_finite_is_refused(value: float) -> None:
    """A fallback score is a number that bands can place."""
    with pytest.raises(ValueError, match="finite"):
        Constant(value)
