"""The curves behind a model's score: scikit-learn's own values, and no probability for what is no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.isotonic import IsotonicRegression

from tailrace.errors import ModelPackageError
from tailrace.inference.calibration import Isotonic, Platt, read_calibration


@given(scores=arrays(np.float32, (7,), elements=st.floats(-9, 9, width=32)), seed=st.integers(0, 99))
def test_isotonic_gives_what_scikit_learn_gives(scores: np.ndarray, seed: int) -> None:
    """Between two points, at them, and beyond the first and the last, the value is IsotonicRegression's."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=40), rng.integers(0, 2, 40)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(x, y)
    curve = Isotonic(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))
    np.testing.assert_allclose(curve.apply(scores), fitted.predict(scores.astype(np.float64)), atol=1e-9)


@given(a=st.floats(-50, 50), b=st.floats(-50, 50), scores=arrays(np.float32, (5,), elements=st.floats(0, 1, width=32)))
def test_platt_is_a_probability_for_every_score(a: float, b: float, scores: np.ndarray) -> None:
    """However steep the curve, it neither overflows nor leaves 0 to 1; on log odds -1 and 0 change nothing."""
    for log_odds in (False, True):
        probabilities = Platt(a, b, log_odds).apply(scores * (1 if log_odds else 1e30))
        assert ((probabilities >= 0) & (probabilities <= 1)).all()
    np.testing.assert_allclose(Platt(-1.0, 0.0, log_odds=True).apply(scores), scores, atol=1e-11)


@pytest.mark.parametrize("curve", [Isotonic((0.0, 1.0), (0.2, 0.9)), Platt(-1.0, 0.5), Platt(-1.0, 0.5, True)])
def test_score_that_is_none_gets_no_probability(curve: Isotonic | Platt) -> None:
    """NaN and infinities stay no score, so that the fallback answers; their neighbours keep theirs."""
    scores = np.array([0.5, np.nan, np.inf, -np.inf, 0.25], np.float32)
    probabilities = curve.apply(scores)
    assert np.isnan(probabilities).tolist() == [False, True, True, True, False]
    np.testing.assert_array_equal(probabilities[[0, 4]], curve.apply(scores[[0, 4]]))


@pytest.mark.parametrize(
    "text",
    ['{"type":"isotonic","x":[],"y":[]}', '{"type":"isotonic","x":[1,1],"y":[0,1]}', '{"type":"platt","a":1}', "{",
     '{"type":"isotonic","x":[1,2],"y":[1,0]}', '{"type":"isotonic","x":[1],"y":[1,2]}',
     '{"type":"platt","a":1e999,"b":0}'],
)  # fmt: skip
def test_file_that_is_no_calibration_is_refused(text: str, tmp_path: Path) -> None:
    """Points that fall, repeat or are missing, and what is no JSON, are refused when the model is loaded."""
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ModelPackageError, match="the calibration cannot be read"):
        read_calibration(tmp_path / "calibration.json")
