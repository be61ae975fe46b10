"""Why decisions flip: the change of contributions is that of the library that trained the trees; the picture has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from offline.whatif.conftest import FEATURES, payment
from offline.whatif.test_whatif import PAYMENTS, replay
from tailrace.offline.whatif.picture import OCHRE, draw_picture
from tailrace.offline.whatif.report import WhatIf
from tailrace.release.package import package

lightgbm = pytest.importorskip("lightgbm")


def train(folder: Path, name: str, edge: float, *, explain: bool = True) -> Any:
    """Package trees that score high from an amount on; return their booster."""
    x = np.random.default_rng(1).uniform(0, 1000, (400, 3)).astype(np.float32)
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4, "deterministic": True}
    data = lightgbm.Dataset(x, x[:, 0] > edge, feature_name=list(FEATURES))
    booster = lightgbm.train(parameters, data, 12)
    rows = pa.table(dict(zip(FEATURES, x.T, strict=True)))
    package(booster, rows, name=name, out=folder / "models" / name, explain=explain)
    return booster


@pytest.fixture
def found(folder: Path) -> tuple[WhatIf, Any, Any]:
    """Return a replay of payments through two forests, and those."""
    boosters = [train(folder, f"trees_{edge}", edge) for edge in (600, 300)]
    lines = [payment(float(amount)) for amount in range(5, 1000, 10)]
    return replay(folder, lines, "trees_600", "trees_300"), *boosters


def test_contributions_are_those_of_the_library(found: tuple[WhatIf, Any, Any]) -> None:
    """The mean change of each feature over the flips is LightGBM's own; an example has that of its row."""
    report, one, other = found
    (flip,) = report.ordered
    assert (flip.before, flip.after, flip.rows, flip.explained) == ("allow", "block", 30, 30)
    rows = np.array([[amount, 0.0, 0.0] for amount in range(305, 600, 10)])
    sides = [np.asarray(booster.predict(rows, pred_contrib=True))[:, :3] for booster in (one, other)]
    change = sides[1] - sides[0]
    told = {name: (moved, mean) for name, moved, mean in flip.why()}
    for place, name in enumerate(FEATURES):
        assert told.get(name, (0, 0)) == pytest.approx(
            (np.abs(change[:, place]).mean(), change[:, place].mean()), abs=1e-4
        )
    assert next(iter(told)) == "amount"
    assert flip.examples[0].id == "p595.0"
    assert flip.examples[0].why["amount"] == pytest.approx(change[-1, 0], abs=1e-4)


def test_models_that_cannot_be_explained_are_said(folder: Path) -> None:
    """Each side says why; the flips are counted all the same."""
    train(folder, "bare", 300, explain=False)
    report = replay(folder, PAYMENTS, "one", "bare")
    assert report.flipped
    first, second = report.unexplained.split("; ")
    assert "models/one cannot be explained: trees of LightGBM, XGBoost and CatBoost can be" in first
    assert second.endswith("models/bare cannot be explained: it was packaged without --explain")


def test_picture_has_the_flips(found: tuple[WhatIf, Any, Any], tmp_path: Path) -> None:
    """As an SVG, with flips to a higher band in their colour; a replay in which nothing flips has none."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "pictures" / "flips.svg"
    draw_picture(found[0], path)
    assert OCHRE in path.read_text()
    draw_picture(replay(tmp_path, PAYMENTS, "one", "one"), path)
    assert OCHRE not in path.read_text()


@pytest.mark.slow
def test_picture_is_drawn_as_png(found: tuple[WhatIf, Any, Any], tmp_path: Path) -> None:
    """What is seen has the bars of the flips."""
    matplotlib_image = pytest.importorskip("matplotlib.image")
    draw_picture(found[0], tmp_path / "flips.png")
    pixels = np.round(np.asarray(matplotlib_image.imread(tmp_path / "flips.png"))[..., :3] * 255).astype(int)
    wanted = [int(OCHRE[at : at + 2], 16) for at in (1, 3, 5)]
    assert (pixels == wanted).all(axis=-1).sum() > 10_000
