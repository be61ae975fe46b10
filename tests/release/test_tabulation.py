from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestRegressor

import tailrace
from inference.tree_models import Forest, draw_forest, package_forest, signature_of
from tailrace.inference.backends.bitvector import LIBRARY, BitvectorKernel
from tailrace.inference.backends.onnx import OnnxModel, open_session
from tailrace.inference.backends.tree_tables import expand_tables
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import TREES_FILE
from tailrace.inference.model_directory import read_manifest
from tailrace.release import tabulation
from tailrace.release.comparison import Comparison
from tailrace.release.convert import Converted
from tailrace.release.package import package
from tailrace.release.tabulation import make_probes, tabulate
from tailrace.release.tree_graph import tabulate_graph

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the bit-vector library was not compiled")


@pytest.fixture
def forest() -> Forest:
    """Draw a forest of 20 trees over 4 features."""
    return draw_forest(0, features=4, trees=20, leaves=16)


@pytest.fixture
def rows() -> Any:
    """Return 500 rows of 4 features."""
    return np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)


def test_tree_of_65_leaves_is_packaged_for_the_forest_kernel(tmp_path: Path) -> None:
    """A tree that has more leaves than a word has bits is walked; nothing needs to be said of it."""
    report = package_forest(draw_forest(0, features=4, trees=3, leaves=65), tmp_path)
    assert TREES_FILE not in report.manifest.files
    model = load_model(report.directory)
    assert report.backend == model.backend == "forest kernel"
    assert model.backend_reason == ""
    feeds = model.sample_feeds(200)
    np.testing.assert_allclose(model.predict(feeds), OnnxModel.load(report.directory).predict(feeds), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("features", "backend"), [(64, "bit vectors"), (65, "forest kernel")])
def test_trees_of_many_features_are_packaged_for_the_forest_kernel(features: int, backend: str, tmp_path: Path) -> None:
    """Bit vectors look every feature up; walks, those that they come by."""
    forest = Forest(features)
    for feature in range(features):
        forest.add(
            (feature, 0.5, "BRANCH_LEQ", False, 0.25, ((feature + 1) % features, 1.5, "BRANCH_LEQ", False, 0.5, 1.0))
        )
    report = package_forest(forest, tmp_path)
    assert report.backend == backend


def test_split_on_equality_is_packaged_for_onnxruntime(tmp_path: Path) -> None:
    """A model that no kernel fits is packaged without tables, served by ONNX Runtime, and says why."""
    forest = Forest(4)
    forest.add((0, 1.0, "BRANCH_EQ", False, 1.0, 2.0))
    report = package_forest(forest, tmp_path)
    assert list(report.manifest.files) == ["model.onnx"]
    assert report.backend == load_model(report.directory).backend == "ONNX Runtime"
    reason = load_model(report.directory).backend_reason
    assert "the bit-vector kernel does not fit it: a split tests BRANCH_EQ" in reason
    assert "the forest kernel does not fit it: a split tests BRANCH_EQ" in reason


def test_tree_of_64_leaves_is_packaged_for_bit_vectors(tmp_path: Path) -> None:
    """The largest tree that fits is served by the kernel, whose score is the graph's."""
    report = package_forest(draw_forest(0, features=4, trees=3, leaves=64), tmp_path)
    model = load_model(report.directory)
    assert report.backend == model.backend == "bit vectors"
    feeds = model.sample_feeds(200)
    np.testing.assert_allclose(model.predict(feeds), OnnxModel.load(report.directory).predict(feeds), rtol=0, atol=1e-6)


def comparison_of(forest: Forest) -> Comparison:
    """Return a forest's graph as it comes out of the comparison with its original."""
    return Comparison(Converted(forest.graph(), signature_of(4)), open_session(forest.graph()))


def test_packaging_without_the_library_writes_the_same_tables(forest: Forest, rows: Any, tmp_path: Path) -> None:
    """An image without a compiler decides nothing: the tables are checked in NumPy, and nobody knows the times."""
    there, missing = (tabulate(comparison_of(forest), {"features": rows}, path) for path in (LIBRARY, tmp_path / "no"))
    assert there.content == missing.content != b""
    assert (there.reason, missing.reason) == ("", "")
    assert there.times is not None
    assert missing.times is None


def test_model_packaged_where_there_is_no_compiler_is_served_by_bit_vectors(forest: Forest, tmp_path: Path) -> None:
    """A package made by an installation without the library is computed by it where it is served."""
    pure = shutil.copytree(Path(tailrace.__file__).parent, tmp_path / "pure" / "tailrace",
                           ignore=shutil.ignore_patterns(LIBRARY.name, "__pycache__"))  # fmt: skip
    (tmp_path / "forest.onnx").write_bytes(forest.graph("Sigmoid"))
    draws = np.random.default_rng(1).normal(size=(300, 4))
    pq.write_table(pa.table({f"f{index}": draws[:, index] for index in range(4)}), tmp_path / "rows.parquet")
    command = ["package", "forest.onnx", "--data", "rows.parquet", "--name", "m", "--out", "m", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tailrace.cli.main", *command],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(pure.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["backend"] == "ONNX Runtime"
    assert "was not compiled" in told["backend_reason"]
    assert read_manifest(tmp_path / "m").times is None
    assert load_model(tmp_path / "m").backend == "bit vectors"


@pytest.mark.parametrize("library", [LIBRARY, Path("none.so")], ids=["kernel", "NumPy"])
def test_tables_with_another_score_are_not_written(
    library: Path, forest: Forest, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables whose scores differ from the graph's by more than 1e-6 on the data are no file."""

    def tabulate_wrongly(graph: bytes, signature: Any) -> Any:
        tables = tabulate_graph(graph, signature)
        values = np.frombuffer(tables.values, "<f4").copy()
        values[0] += 1e-3
        return msgspec.structs.replace(tables, values=values.tobytes())

    monkeypatch.setattr(tabulation, "tabulate_graph", tabulate_wrongly)
    content, reason, _ = tabulate(comparison_of(forest), {"features": rows}, library)
    assert content == b""
    assert "1.0e-03 from ONNX Runtime's" in reason


@pytest.mark.parametrize("library", [LIBRARY, Path("none.so")], ids=["kernel", "NumPy"])
def test_threshold_that_is_off_by_one_float_is_found_by_the_probes(
    library: Path, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that no row of the data tells from the right one: `x <= t` for `x < t`."""
    forest = Forest(4)
    forest.add((2, 1.5, "BRANCH_LT", False, 0.25, 0.75))
    assert not (rows[:, 2] == 1.5).any()

    def tabulate_wrongly(graph: bytes, signature: Any) -> Any:
        return msgspec.structs.replace(tabulate_graph(graph, signature), thresholds=np.array([1.5], "<f4").tobytes())

    chosen = comparison_of(forest)
    assert tabulate(chosen, {"features": rows}, library).reason == ""
    monkeypatch.setattr(tabulation, "tabulate_graph", tabulate_wrongly)
    assert "5.0e-01 from ONNX Runtime's" in tabulate(chosen, {"features": rows}, library).reason


def test_probes_hold_every_threshold_and_its_neighbours(forest: Forest, rows: Any) -> None:
    """Each threshold stands in its own feature, with the float32 before and after it, NaN and infinities."""
    arrays = expand_tables(tabulate_graph(forest.graph(), signature_of(4)))
    probes = make_probes(arrays, rows)
    for column, first, end in zip(arrays.columns, arrays.offsets[:-1], arrays.offsets[1:], strict=True):
        found = set(probes[:, column].tolist())
        for threshold in arrays.thresholds[first:end]:
            sides = (np.nextafter(threshold, np.float32(-np.inf)), np.nextafter(threshold, np.float32(np.inf)))
            assert {float(threshold), *map(float, sides)} <= found
        assert {float("inf"), float("-inf"), 0.0} <= found
        assert np.isnan(probes[:, column]).any()
        assert np.isin(probes[:, column], rows[:, column]).mean() > 0.4


def test_kernel_that_is_slower_is_packaged(forest: Forest, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime is faster the tables are written all the same, and both times with them."""

    class Laggard(BitvectorKernel):
        """Scores everything fifty times."""

        def score(self, matrix: Any) -> Any:
            """Return the right scores, late."""
            return [super(Laggard, self).score(matrix) for _ in range(50)][-1]

    monkeypatch.setattr(tabulation, "BitvectorKernel", Laggard)
    content, reason, times = tabulate(comparison_of(forest), {"features": rows})
    assert (content != b"", reason) == (True, "")
    assert times is not None
    assert times.ns["bit vectors"][1] > 5 * times.ns["ONNX Runtime"][1]


MODELS = {
    "gradient boosting classifier": GradientBoostingClassifier(n_estimators=20, random_state=0),
    "gradient boosting regressor": GradientBoostingRegressor(n_estimators=20, random_state=0),
    "random forest regressor": RandomForestRegressor(20, max_depth=6, random_state=0),
}


@pytest.mark.parametrize("kind", MODELS)
def test_forests_of_scikit_learn_are_tabulated(kind: str, rows: Any, tmp_path: Path) -> None:
    """The trees that skl2onnx writes are read from its graph, whichever operator holds them."""
    import pandas as pd

    names = [f"f{index}" for index in range(4)]
    frame = pd.DataFrame(rows, columns=names)
    signal = rows[:, 0] * 2 + np.sin(rows[:, 1] * 3)
    model = MODELS[kind].fit(frame, signal > 0 if "classifier" in kind else signal)
    report = package(model, frame, name="m", out=tmp_path / "m")
    assert (report.backend, report.backend_reason) == ("bit vectors", "")
    expected = model.predict_proba(frame)[:, 1] if "classifier" in kind else model.predict(frame)
    name = report.manifest.signature.inputs[0].name
    np.testing.assert_allclose(load_model(tmp_path / "m").predict({name: rows}), expected, rtol=1e-5, atol=1e-5)
