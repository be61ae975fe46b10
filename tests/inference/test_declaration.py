from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.inference.declaration import Constant, Model, with_paths


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


@pytest.mark.parametrize("more", [{"instances": 0}, {"instances": 65}, {"instances": True}, {"max_wait": "soon"}])
def test_batching_that_makes_no_sense_is_refused(more: dict[str, Any]) -> None:
    """Instances are a small number, a wait is a duration."""
    with pytest.raises(ValueError, match=r"from 1 to 64|not a duration"):
        Model("fraud", **more)
    assert Model("fraud", max_wait="2ms").max_wait_ns == 2_000_000
    assert Model("fraud").max_wait_ns == 0


def test_model_fallback_chain_is_bounded() -> None:
    """A fallback model may end in a constant, not in a third model."""
    second = Model("small", fallback=Constant(0.5))
    assert Model("big", fallback=second).fallback == second
    with pytest.raises(ValueError, match="only fall back to a Constant"):
        Model("big", fallback=Model("small", fallback=Model("tiny")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, None, b"news", {0.5}])
def test_constant_that_is_not_finite_is_refused(value: Any) -> None:
    """A fallback score is a number that bands can place."""
    with pytest.raises(ValueError, match="finite"):
        Constant(value)


@pytest.mark.parametrize("value", [[], [0.5, float("nan")], [0.5, "0.5"], [[0.5], [0.5]], ["news", "sport"]])
def test_constant_of_what_are_no_probabilities_is_refused(value: Any) -> None:
    """A list is one finite number a class."""
    with pytest.raises(ValueError, match="finite number"):
        Constant(value)


def test_constant_of_many_classes_is_a_label_or_a_number_each() -> None:
    """A list is kept as a tuple: a declaration can be compared, and not be changed."""
    assert Constant("news").value == "news"
    assert Constant([1, 0.25]).value == (1, 0.25)
    assert hash(Constant([0.5, 0.5])) == hash(Constant((0.5, 0.5)))


def test_constant_that_answers_last_is_found() -> None:
    """The model's own, or its second model's."""
    assert Model("big", fallback=Constant(0.5)).constant == Constant(0.5)
    assert Model("big", fallback=Model("small", fallback=Constant("news"))).constant == Constant("news")
    assert Model("big", fallback=Model("small")).constant is None
    assert Model("big").constant is None


def test_version_in_a_registry_is_named_in_full() -> None:
    """A version is written NAME@NUMBER or NAME@ALIAS, has no path too, and lies by its name once it is fetched."""
    model = Model("fraud", version="fraud@production")
    assert model.directory(Path("/srv")) == Path("/srv/models/fraud@production")
    fetched = with_paths(model, iter([Path("/kept/1")]))
    assert fetched == Model("fraud", path="/kept/1")
    for version in ("production", "fraud@", "@3", "../x@3", "fraud@3\n", "fraud@a/b", "", 3):
        with pytest.raises(ValueError, match="names no version"):
            Model("fraud", version=version)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a path or a version"):
        Model("fraud", version="fraud@3", path="models/fraud")
    with pytest.raises(ValueError, match="registry= says where"):
        Model("fraud", registry="s3://models/team")
