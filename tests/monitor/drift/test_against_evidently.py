"""What we call drift is what Evidently calls it, on the same rows: it runs in a venv of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tailrace.inference.manifest import Profile
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.monitor.drift.comparison import Comparer
from tailrace.monitor.drift.series import series_of
from tailrace.monitor.drift.window import DriftWindow, reference_tally
from tailrace.release.profile import profile_model

INSTALL_S_MAX = 240.0
EVIDENTLY = ("evidently>=0.7.20,<0.8", "pandas<3")
ASK = """
import json, sys
import numpy as np, pandas as pd
from evidently.legacy.calculations.stattests import psi_stat_test, wasserstein_stat_test
from evidently.legacy.core import ColumnType

data, told = np.load(sys.argv[1]), {}
for name in {each.partition("_")[2] for each in data.files}:
    reference, live = pd.Series(data[f"reference_{name}"]), pd.Series(data[f"live_{name}"])
    kind = ColumnType.Numerical if reference.dtype.kind == "f" else ColumnType.Categorical
    told[name] = {"psi": psi_stat_test(reference, live, kind, 0.1).drift_score}
    if kind == ColumnType.Numerical:
        told[name]["distance"] = wasserstein_stat_test(reference, live, kind, 0.1).drift_score
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def evidently(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python that has Evidently, or skip where it cannot be installed."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: it makes the venv that Evidently lives in")
    folder = tmp_path_factory.mktemp("evidently") / "venv"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    try:
        for command in (["venv", "--python", sys.executable, str(folder)],
                        ["pip", "install", "--python", str(folder / "bin" / "python"), *EVIDENTLY]):  # fmt: skip
            subprocess.run([*uv, *command], check=True, timeout=INSTALL_S_MAX, capture_output=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"Evidently cannot be installed here: {error}")
    return folder / "bin" / "python"


def rows(seed: int, count: int, shift: float) -> dict[str, np.ndarray]:
    """Return rows of a normal and a log-normal feature and of a text, the first and the last of which drift."""
    rng = np.random.default_rng(seed)
    shares = [0.5 - shift / 4, 0.3, 0.2 + shift / 4]
    return {
        "shifted": rng.normal(shift, 1, count),
        "still": rng.lognormal(0, 1, count),
        "country": rng.choice(np.array(["at", "de", "fr"]), count, p=shares),
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_statistics_are_evidentlys(evidently: Path, tmp_path: Path, shift: float) -> None:
    """Distances, and the index of texts, agree to some percent; that of numbers as far as other bins allow."""
    reference, live = rows(1, 20_000, 0.0), rows(2, 5_000, shift)
    np.savez(tmp_path / "rows.npz", **{f"reference_{name}": each for name, each in reference.items()},
             **{f"live_{name}": each for name, each in live.items()})  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [evidently, "-W", "ignore", "-c", ASK, str(tmp_path / "rows.npz")], capture_output=True, text=True, timeout=120,
        check=False, env=environment | {"DO_NOT_TRACK": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    theirs = json.loads(done.stdout.strip().splitlines()[-1])

    inputs = (TensorSpec("numbers", "float64", ("shifted", "still")), TensorSpec("texts", "string", ("country",)))
    found = profile_model(Signature.of_scores(inputs, "score"), pa.table(reference), np.zeros(20_000))
    series = series_of(Profile(found.rows, found.features, ()))
    window = DriftWindow(series)
    window.add(live)
    compared = Comparer(series, 0.01).compare(
        window.tally, reference_tally(series), np.ones(3), np.zeros(3), np.ones(3, np.bool_)
    )
    ours = {each.name: compared.values[place] for place, each in enumerate(series)}
    assert ours["country"][0] == pytest.approx(theirs["country"]["psi"], rel=0.03, abs=0.002)
    for name in ("shifted", "still"):
        assert ours[name][0] == pytest.approx(theirs[name]["psi"], rel=0.2, abs=0.02)
        assert ours[name][1] == pytest.approx(theirs[name]["distance"], rel=0.05, abs=0.02)
    signals = {each.name: bool(compared.signals[place].any()) for place, each in enumerate(series)}
    drifted = {name: any(value >= 0.1 for value in told.values()) for name, told in theirs.items()}
    assert signals == drifted
