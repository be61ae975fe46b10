from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from tailrace.batch import Degraded
from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx import OnnxModel, find_run
from tailrace.inference.curve import SIZES, measure_curve
from tailrace.inference.declaration import Constant
from tailrace.inference.manifest import MANIFEST_FILE, MODEL_FILE
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.scorer import Scorer
from tailrace.release.package import package


def write_graph(path: Path, nodes: list[Any], inputs: dict[str, Any], initializers: Any = ()) -> Path:
    """Write an ONNX graph of one output column 'score'."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, [None, 1]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def logarithm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package a graph that gives the logarithm of its one input: NaN below zero, -inf at zero."""
    folder = tmp_path_factory.mktemp("logarithm")
    path = write_graph(folder / "log.onnx", [helper.make_node("Log", ["x"], ["score"])], {"x": TensorProto.FLOAT})
    data = pa.table({"amount": np.linspace(1, 100, 200)})
    return package(path, data, name="log", out=folder / "log").directory


@pytest.fixture
def directory(logarithm: Path, tmp_path: Path) -> Path:
    """Copy the packaged logarithm, to be spoiled."""
    return Path(shutil.copytree(logarithm, tmp_path / "model"))


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Replace fields of a manifest."""
    path = directory / MANIFEST_FILE
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | changes))


def test_loaded_model_scores_and_knows_itself(logarithm: Path) -> None:
    """Signature, version and scores are those that were packaged."""
    model = OnnxModel.load(logarithm)
    assert model.signature.feature_names == ("amount",)
    assert model.version == read_manifest(logarithm).version
    scores = model.predict({"x": np.array([[1.0], [np.e]], np.float32)})
    assert scores.shape == (2,)
    assert scores.tolist() == pytest.approx([0, 1], abs=1e-6)


def test_missing_directory_is_told(tmp_path: Path) -> None:
    """The error names the directory and the command that makes one."""
    with pytest.raises(ModelPackageError, match="no such model directory") as caught:
        OnnxModel.load(tmp_path / "none")
    assert "tailrace package" in caught.value.next


@pytest.mark.parametrize("name", [MODEL_FILE, MANIFEST_FILE])
def test_missing_file_is_told(directory: Path, name: str) -> None:
    """A directory without one of its two files is refused by the file's name."""
    (directory / name).unlink()
    with pytest.raises(ModelPackageError, match=f"has no {name}"):
        OnnxModel.load(directory)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_model_file_cut_short_is_refused(directory: Path, part: float) -> None:
    """A model file that lost its end is not loaded."""
    path = directory / MODEL_FILE
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelPackageError, match="cut short or altered"):
        OnnxModel.load(directory)


def test_model_file_with_one_byte_flipped_is_refused(directory: Path) -> None:
    """One altered byte is found by the checksum."""
    path = directory / MODEL_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelPackageError, match="cut short or altered"):
        OnnxModel.load(directory)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_manifest_cut_short_is_refused(directory: Path, part: float) -> None:
    """A manifest that lost its end is not read."""
    path = directory / MANIFEST_FILE
    path.write_bytes(path.read_bytes().rstrip()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelPackageError, match="manifest cannot be read"):
        read_manifest(directory)


def test_manifest_of_another_format_is_refused(directory: Path) -> None:
    """A format version that is not ours is told as such, whatever else the manifest holds."""
    (directory / MANIFEST_FILE).write_text('{"format": 99, "new": true}')
    with pytest.raises(ModelPackageError, match="format 99; this Tailrace reads format 2"):
        read_manifest(directory)


def test_manifest_that_is_not_one_is_refused(directory: Path) -> None:
    """A field of the wrong type is told with its path."""
    edit_manifest(directory, signature={"inputs": 3, "output": "score"})
    with pytest.raises(ModelPackageError, match=r"\$\.signature\.inputs"):
        read_manifest(directory)


def test_golden_score_that_differs_is_refused(directory: Path) -> None:
    """A model that does not give its golden scores is not served."""
    golden = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes())["golden"]
    golden["scores"][3][0] += 1e-3
    edit_manifest(directory, golden=golden)
    with pytest.raises(ModelPackageError, match="golden row 3 gets the score"):
        OnnxModel.load(directory)


def test_golden_score_may_differ_by_what_is_rounded(directory: Path) -> None:
    """A model of shorter numbers is served where another processor rounds one of them otherwise, and no further off."""
    golden = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes())["golden"]
    golden["scores"][3][0] += 1e-3
    edit_manifest(directory, golden=golden | {"rounding": 2e-3})
    OnnxModel.load(directory)
    edit_manifest(directory, golden=golden | {"rounding": 1e-4})
    with pytest.raises(ModelPackageError, match="golden row 3 gets the score"):
        OnnxModel.load(directory)


def test_session_is_as_the_manifest_says(directory: Path) -> None:
    """Threads, memory and the level of optimisation are those that were found best for the model."""
    edit_manifest(directory, session={"threads": 2, "arena": True, "level": "basic"})
    options = OnnxModel.load(directory).session.get_session_options()
    assert (options.intra_op_num_threads, options.enable_cpu_mem_arena) == (2, True)
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"


def test_session_of_no_threads_is_refused(directory: Path) -> None:
    """None would mean as many as there are cores, and each worker would take them all."""
    edit_manifest(directory, session={"threads": 0})
    with pytest.raises(ModelPackageError, match="0 threads, not 1 to"):
        OnnxModel.load(directory)


def test_golden_rows_that_do_not_fit_are_refused(directory: Path) -> None:
    """Golden rows of another width are no golden rows."""
    edit_manifest(directory, golden={"inputs": {"x": [[1.0, 2.0]]}, "scores": [[0.0]]})
    with pytest.raises(ModelPackageError, match="do not fit the signature"):
        OnnxModel.load(directory)


def test_signature_of_another_graph_is_refused(directory: Path) -> None:
    """The signature's inputs are the graph's, or the model is not loaded."""
    manifest = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes())
    manifest["signature"]["output"] = "probability"
    edit_manifest(directory, signature=manifest["signature"])
    with pytest.raises(ModelPackageError, match="'probability'"):
        OnnxModel.load(directory)


def test_nan_from_the_model_degrades_its_row_alone(logarithm: Path) -> None:
    """The logarithm of a negative number and of zero take the constant; the neighbours keep their scores."""
    scorer = Scorer(OnnxModel.load(logarithm), Constant(0.5))
    scored = scorer.score({"x": np.array([[1.0], [-3.0], [0.0], [1.0]], np.float32)}, 4)
    assert scored.scores.tolist() == [0, 0.5, 0.5, 0]
    assert scored.degraded is not None
    assert scored.degraded.tolist() == [0, int(Degraded.MODEL_ERROR), int(Degraded.MODEL_ERROR), 0]


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package a graph that looks its input up in a table of ten: ONNX Runtime raises for any other index."""
    folder = tmp_path_factory.mktemp("lookup")
    table = helper.make_tensor("table", TensorProto.FLOAT, [10], [float(value) for value in range(10)])
    node = helper.make_node("Gather", ["table", "index"], ["score"], axis=0)
    path = write_graph(folder / "lookup.onnx", [node], {"index": TensorProto.INT64}, [table])
    return package(path, pa.table({"index": list(range(10))}), name="lookup", out=folder / "lookup").directory


def test_row_that_raises_does_not_fail_its_batch(lookup: Path) -> None:
    """Of 64 rows the two with an index out of the table are failed; the others have their scores."""
    index = np.arange(64, dtype=np.int64).reshape(-1, 1) % 10
    index[[7, 40]] = 99
    scored = Scorer(OnnxModel.load(lookup)).score({"index": index}, 64)
    assert scored.failed is not None
    assert np.flatnonzero(scored.failed).tolist() == [7, 40]
    good = ~scored.failed
    assert scored.scores[good].tolist() == index[good, 0].tolist()


def test_curve_of_a_real_model_is_measured_at_all_sizes(logarithm: Path) -> None:
    """A light model is measured at every size, and each costs something."""
    curve = measure_curve(OnnxModel.load(logarithm))
    assert curve.sizes == SIZES
    assert all(0 < cost <= p95 for cost, p95 in zip(curve.costs_ns, curve.p95s_ns, strict=True))


def test_sample_feeds_are_golden_rows(logarithm: Path) -> None:
    """The rows a model is measured with are of its own inputs, and others for another seed."""
    model = OnnxModel.load(logarithm)
    first, second = model.sample_feeds(100)["x"], model.sample_feeds(100, seed=1)["x"]
    assert first.shape == (100, 1)
    assert first.dtype == np.float32
    assert set(first[:, 0].tolist()) <= {row[0] for row in model.manifest.golden.inputs["x"]}
    assert first.tolist() != second.tolist()


def test_call_below_the_public_one_is_taken_where_it_is(logarithm: Path) -> None:
    """The installed ONNX Runtime has it; the day that a new one has not, a call costs 6 µs more, and this fails."""
    model = OnnxModel.load(logarithm)
    run = find_run(model.session, ["score"], model.sample_feeds(1))
    assert run.__self__ is model.session._sess  # type: ignore[attr-defined]
    feeds = model.sample_feeds(9)
    np.testing.assert_array_equal(run(["score"], feeds, None)[0], model.session.run(["score"], feeds)[0])


class OtherSession:
    """A session of a version of ONNX Runtime that is made otherwise below its public method."""

    def __init__(self, session: Any, below: Any) -> None:
        self.run = session.run
        self._sess = below


def wants_more(outputs: Any, feeds: Any, options: Any, more: Any) -> Any:
    """Stand for a method with another argument."""


class Below:
    """What is below a session's public method: an object with this `run`."""

    def __init__(self, run: Any) -> None:
        self.run = run


@pytest.mark.parametrize(
    "below",
    [None, object(), Below(wants_more), Below(lambda outputs, feeds, options: None), Below(lambda *arguments: [])],
    ids=["none", "no run", "another argument", "another answer", "no outputs"],
)
def test_other_version_of_onnxruntime_is_called_by_its_public_method(below: Any, logarithm: Path) -> None:
    """What is not public may change: a model is served all the same."""
    loaded = OnnxModel.load(logarithm)
    model = OnnxModel(OtherSession(loaded.session, below), loaded.manifest)
    feeds = loaded.sample_feeds(5)
    np.testing.assert_array_equal(model.predict(feeds), loaded.predict(feeds))
