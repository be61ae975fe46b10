"""Networks of PyTorch: converted to ONNX and compared, or computed by PyTorch where ONNX has no form for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tailrace.errors import ModelPackageError  # noqa: E402 - PyTorch comes first, or nothing
from tailrace.inference.loading import load_model  # noqa: E402
from tailrace.inference.manifest import MODEL_FILE, PYTORCH_FILE  # noqa: E402
from tailrace.release.package import package  # noqa: E402
from tailrace.release.refusals import NoGraphError  # noqa: E402
from tailrace.release.torch_program import TorchProgram  # noqa: E402

NAMES = ["a", "b", "c"]
ROWS = torch.export.Dim("rows")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return three columns of float32, and an outcome."""
    frame = pd.DataFrame(np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32), columns=NAMES)
    frame["fraud"] = (frame.a + frame.b > 0).astype(int)
    return frame


def network(classes: int) -> Any:
    """Return a small network with one score, or one a class."""
    torch.manual_seed(3)
    last = torch.nn.Sigmoid() if classes == 1 else torch.nn.Softmax(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, classes), last)


def score(net: Any, frame: pd.DataFrame) -> Any:
    """Return what PyTorch gives: one score a row, or one a class."""
    with torch.inference_mode():
        scores = net(torch.from_numpy(frame[NAMES].to_numpy(np.float32).copy())).numpy()
    return scores[:, -1] if scores.shape[1] <= 2 else scores


def save(net: Any, path: Path, **options: Any) -> Path:
    """Export a network for any number of rows, and save it."""
    options = {"dynamic_shapes": ({0: ROWS},), **options}
    torch.export.save(torch.export.export(net.eval(), (torch.randn(4, 3),), **options), path)
    return path


def score_packaged(directory: Path, frame: pd.DataFrame) -> Any:
    """Return the scores that a server gives."""
    model = load_model(directory)
    return model.predict({model.signature.inputs[0].name: frame[NAMES].to_numpy(np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_program_becomes_a_graph(classes: int, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A file of `torch.export.save` is converted, and gives PyTorch's scores for one row as for many."""
    net = network(classes)
    path = save(net, tmp_path / "net.pt2")
    report = package(path, frame[NAMES], name="net", out=tmp_path / "m")
    assert set(report.manifest.files) == {MODEL_FILE}
    assert report.manifest.source.framework == "pytorch"
    assert report.manifest.source.rows_compared == 200
    for rows in (1, 200):
        np.testing.assert_allclose(score_packaged(tmp_path / "m", frame[:rows]), score(net, frame[:rows]), atol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_module_is_exported_and_computed_by_pytorch(classes: int, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A module from Python is exported for the data's columns; asked for PyTorch, its scores are exactly its own."""
    net = network(classes)
    data = frame if classes == 1 else frame[NAMES]
    target = "fraud" if classes == 1 else None
    report = package(net, data, name="net", out=tmp_path / "m", target=target, native=True)
    assert (report.backend, set(report.manifest.files)) == ("PyTorch", {PYTORCH_FILE})
    for rows in (1, 7, 200):
        np.testing.assert_allclose(score_packaged(tmp_path / "m", frame[:rows]), score(net, frame[:rows]), atol=1e-6)


class Sorted(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A network with an operator that ONNX has not."""

    def forward(self, x: Any) -> Any:
        """Return the median of each row's cumulative maximum."""
        return torch.cummax(x, 1).values.median(1).values


@pytest.mark.slow
def test_program_without_a_graph_is_computed_by_pytorch(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the exporter refuses the program, PyTorch computes it, and the reason is kept."""

    def refuse(program: TorchProgram) -> bytes:
        raise NoGraphError("the PyTorch program cannot be converted to ONNX: aten.median", where="model")

    monkeypatch.setattr(TorchProgram, "graph", refuse)
    report = package(Sorted(), frame[NAMES], name="net", out=tmp_path / "m")
    assert report.backend == "PyTorch"
    assert "aten.median" in report.backend_reason
    expected = Sorted()(torch.from_numpy(frame[NAMES].to_numpy().copy())).numpy()
    np.testing.assert_array_equal(score_packaged(tmp_path / "m", frame), expected)


class Shops(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A network of two inputs: a vector of numbers, and the number of a shop."""

    def __init__(self) -> None:
        super().__init__()
        self.shops = torch.nn.Embedding(9, 2)
        self.last = torch.nn.Linear(4, 1)

    def forward(self, vector: Any, shop: Any) -> Any:
        """Return a score a row."""
        return torch.sigmoid(self.last(torch.cat([vector, self.shops(shop[:, 0])], 1)))


def test_program_of_several_inputs_takes_the_columns_of_their_names(tmp_path: Path) -> None:
    """Whole numbers stay whole, and a column of vectors fills an input of as many."""
    rng, net = np.random.default_rng(2), Shops().eval()
    vectors, shops = rng.normal(size=(60, 2)).astype(np.float32), rng.integers(0, 9, (60, 1))
    example = (torch.from_numpy(vectors), torch.from_numpy(shops))
    program = torch.export.export(net, example, dynamic_shapes={"vector": {0: ROWS}, "shop": {0: ROWS}})
    data = pa.table({"shop": shops[:, 0], "vector": pa.array(vectors.tolist(), pa.list_(pa.float32(), 2))})
    report = package(program, data, name="net", out=tmp_path / "m", native=True)
    assert [spec.name for spec in report.manifest.signature.inputs] == ["vector", "shop"]
    scores = load_model(tmp_path / "m").predict({"vector": vectors, "shop": shops})
    np.testing.assert_allclose(scores, net(*example).detach().numpy()[:, 0], atol=1e-6)


def test_program_of_one_number_of_rows_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A program that takes four rows alone says so where it is packaged, not where it is served."""
    path = save(network(1), tmp_path / "net.pt2", dynamic_shapes=None)
    with pytest.raises(ModelPackageError, match="cannot be computed on 8 rows"):
        package(path, frame[NAMES], name="net", out=tmp_path / "m", native=True)


def test_module_of_another_width_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A module that takes other columns than the data has is told, with what to do."""
    with pytest.raises(ModelPackageError, match="cannot be exported for a matrix of 4 columns") as caught:
        package(network(1), frame, name="net", out=tmp_path / "m")
    assert "torch.export" in caught.value.next


class Attack:
    """What a pickle may hold: a call of anything."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_sample_inputs_are_never_unpickled(frame: pd.DataFrame, tmp_path: Path) -> None:
    """An archive whose sample inputs attack is served without them, and nothing of them runs."""
    import zipfile

    path = save(network(1), tmp_path / "net.pt2")
    attacked = tmp_path / "attacked.pt2"
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(attacked, "w") as written:
        for name in given.namelist():
            if "sample_inputs" not in name:
                written.writestr(name, given.read(name))
        with written.open("net/data/sample_inputs/model.pt", "w") as member:
            torch.save((Attack(tmp_path / "run"),), member)
    report = package(attacked, frame[NAMES], name="net", out=tmp_path / "m", native=True)
    assert report.backend == "PyTorch"
    assert not (tmp_path / "run").exists()
