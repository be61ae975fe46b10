"""What a file of skops may hold is decided by the code that loads it, not by the manifest beside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.sklearn import untrusted_types
from tailrace.inference.backends.trusted_types import allowed_types
from tailrace.inference.declaration import Model
from tailrace.inference.loading import load_model
from tailrace.release.package import package

io = pytest.importorskip("skops.io")

ROWS = 60


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return amounts, a text, and outcomes."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"amount": rng.normal(size=ROWS), "note": ["one", "two"] * (ROWS // 2)})
    return frame.assign(fraud=(frame.amount > 0).astype(int))


def alter(directory: Path, content: bytes, cells: list[list[str]] | None = None) -> None:
    """Write a file into a model directory as its maker could: with its checksum, its types as trusted, golden cells."""
    (directory / "model.skops").write_bytes(content)
    path = directory / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["files"]["model.skops"] = hashlib.sha256(content).hexdigest()
    manifest["trusted"] = list(untrusted_types(content))
    if cells is not None:
        manifest["golden"]["inputs"]["note"] = cells
    path.write_text(json.dumps(manifest))


def test_directory_whose_manifest_trusts_a_shell_runs_nothing(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A model that calls subprocess.getoutput on a golden row's text is refused, whoever says it is trusted."""
    names = ["amount", "note"]
    encoder = ColumnTransformer([("text", OneHotEncoder(), ["note"])], remainder="passthrough")
    model = make_pipeline(encoder, KNeighborsClassifier(3)).fit(frame[names], frame["fraud"])
    report = package(model, frame, name="m", out=tmp_path / "m", native=True)
    command, ran = f"touch {tmp_path / 'ran'}", tmp_path / "ran"
    shell = FunctionTransformer(np.vectorize(subprocess.getoutput))
    content = io.dumps(make_pipeline(ColumnTransformer([("text", shell, ["note"])]), KNeighborsClassifier(3)))
    io.loads(io.dumps(shell), trusted=untrusted_types(content)).transform([command])
    assert ran.exists(), "what is tried here can be done"
    ran.unlink()
    alter(tmp_path / "m", content, [[command]] * len(report.manifest.golden.scores))
    named = ("numpy.vectorize", "subprocess.getoutput", "numpy.lib._function_base_impl.vectorize")
    for trusted in ((), named):
        with pytest.raises(ModelPackageError, match=r"types that are not trusted: .*subprocess\.getoutput"):
            load_model(tmp_path / "m", trusted=trusted)
    assert not ran.exists()


def test_class_of_a_library_is_loaded_where_the_user_trusts_it(frame: pd.DataFrame, tmp_path: Path) -> None:
    """One that is not reviewed is refused by itself, and taken where the manifest and the user name it."""
    found = HistGradientBoostingClassifier(max_iter=3).fit(frame[["amount"]], frame["fraud"])
    package(found, frame, name="m", out=tmp_path / "m", native=True)
    name = "sklearn.model_selection._split.GroupKFold"
    from sklearn.model_selection import GroupKFold

    found.splits_of_its_maker = GroupKFold()
    alter(tmp_path / "m", io.dumps(found))
    with pytest.raises(ModelPackageError, match=f"not trusted: {name}"):
        load_model(tmp_path / "m")
    assert load_model(tmp_path / "m", trusted=[name]).manifest.name == "m"


def test_no_function_and_no_other_library_can_be_trusted() -> None:
    """A name inside of a library that is a function, or is imported there from elsewhere, is none of its classes."""
    names = [
        "sklearn.datasets.fetch_openml",
        "sklearn.utils.parallel.warnings.catch_warnings",
        "sklearn.utils.validation.ComplexWarning",
        "sklearn.absent.Absent",
        "os.system",
    ]
    assert allowed_types(names, names) == ()
    with pytest.raises(ValueError, match="only classes of"):
        Model("fraud", trust=["os.system"])
    assert Model("fraud", trust=["sklearn.tree._tree.Tree"]).trust == ("sklearn.tree._tree.Tree",)


def test_model_with_a_function_of_its_own_is_not_packaged(frame: pd.DataFrame, tmp_path: Path) -> None:
    """No server would load it: that is said when it is packaged, with the function's name."""
    shell = FunctionTransformer(pd.DataFrame.abs)
    model = make_pipeline(shell, KNeighborsClassifier(3)).fit(frame[["amount"]], frame["fraud"])
    with pytest.raises(ModelPackageError, match="it holds what no server loads: pandas"):
        package(model, frame, name="m", out=tmp_path / "m", native=True)
