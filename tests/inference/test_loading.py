from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from inference.tree_models import draw_forest, package_forest
from tailrace.errors import ModelPackageError
from tailrace.inference.backends import bitvector
from tailrace.inference.backends.bitvector import LIBRARY, BitvectorModel
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.inference.backends.tree_tables import decode_tables, encode_tables
from tailrace.inference.curve import SIZES, measure_curve
from tailrace.inference.declaration import Constant
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import MANIFEST_FILE, TREES_FILE
from tailrace.inference.scorer import Scorer

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the bit-vector library was not compiled")


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package a forest of 20 trees."""
    forest = draw_forest(0, features=4, trees=20, leaves=16)
    return package_forest(forest, tmp_path_factory.mktemp("trees")).directory


@pytest.fixture
def directory(packaged: Path, tmp_path: Path) -> Path:
    """Copy the packaged forest, to be spoiled."""
    return Path(shutil.copytree(packaged, tmp_path / "model"))


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Replace fields of a manifest; None removes one."""
    path = directory / MANIFEST_FILE
    fields = msgspec.json.decode(path.read_bytes()) | changes
    path.write_bytes(msgspec.json.encode({name: value for name, value in fields.items() if value is not None}))


def edit_files(directory: Path, changes: dict[str, str | None]) -> None:
    """Replace the digests of files in a manifest; None removes one."""
    files = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes())["files"] | changes
    edit_manifest(directory, files={name: digest for name, digest in files.items() if digest is not None})


def replace_tables(directory: Path, content: bytes) -> None:
    """Write another file of tables, with its checksum."""
    (directory / TREES_FILE).write_bytes(content)
    edit_files(directory, {TREES_FILE: hashlib.sha256(content).hexdigest()})


def test_trees_are_served_by_bit_vectors(packaged: Path) -> None:
    """A packaged forest comes with tables; what loads is the same model to whoever holds it."""
    model, graph = load_model(packaged), OnnxModel.load(packaged)
    assert (model.backend, model.backend_reason) == ("bit vectors", "")
    assert (model.signature, model.version, model.manifest) == (graph.signature, graph.version, graph.manifest)
    feeds = model.sample_feeds(100)
    assert feeds["features"].tobytes() == graph.sample_feeds(100)["features"].tobytes()
    np.testing.assert_allclose(model.predict(feeds), graph.predict(feeds), rtol=0, atol=1e-6)


def test_curve_is_measured_with_the_backend_that_serves(packaged: Path) -> None:
    """The cost of a call is the bit-vector kernel's own."""
    curve = measure_curve(load_model(packaged))
    assert curve.sizes == SIZES
    assert all(cost > 0 for cost in curve.costs_ns)


def test_serving_trees_needs_no_onnxruntime(packaged: Path) -> None:
    """A worker that serves by bit vectors never imports ONNX Runtime, nor pays its memory."""
    program = (
        "import sys; from tailrace.inference.loading import load_model; model = load_model(sys.argv[1]);"
        "model.predict(model.sample_feeds(9)); print(model.backend, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, packaged], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bit", "vectors", "False"]


@pytest.mark.parametrize("name", ["bit vectors", "ONNX Runtime"])
def test_trust_changes_nothing_where_no_types_are_named(packaged: Path, name: str) -> None:
    """Types may be trusted of a model of any form: one that names none is the same model."""
    model = load_model(packaged, choice=BackendChoice(name), trusted=["sklearn.linear_model.LogisticRegression"])
    assert model.backend == name
    assert model.version == load_model(packaged).version


def test_missing_library_leaves_it_to_onnxruntime(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the compiled library the same directory is served, and the model says by what and why."""
    monkeypatch.setattr(bitvector, "LIBRARY", tmp_path / "none.so")
    model = load_model(packaged)
    assert model.backend == "ONNX Runtime"
    assert "was not compiled" in model.backend_reason
    monkeypatch.undo()
    feeds = model.sample_feeds(50)
    np.testing.assert_allclose(model.predict(feeds), load_model(packaged).predict(feeds), rtol=0, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"\x7fELF but not really"])
def test_library_that_cannot_be_opened_leaves_it_to_onnxruntime(
    packaged: Path, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library cut short or of another machine is no reason not to serve."""
    library = tmp_path / "broken.so"
    library.write_bytes(content)
    monkeypatch.setattr(bitvector, "LIBRARY", library)
    model = load_model(packaged)
    assert model.backend == "ONNX Runtime"
    assert model.backend_reason.startswith("bit vectors cannot compute it here: ")


def test_directory_with_the_graph_alone_is_served(directory: Path) -> None:
    """A file that the manifest does not name is not missed: ONNX Runtime computes the model."""
    (directory / TREES_FILE).unlink()
    edit_files(directory, {TREES_FILE: None})
    assert load_model(directory).backend == "ONNX Runtime"


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a\0b", "..", "manifest.json", "sub/model.onnx"])
def test_file_outside_the_directory_is_refused(directory: Path, name: str) -> None:
    """A manifest has no say over files that are not its directory's own."""
    edit_files(directory, {name: "0" * 64})
    with pytest.raises(ModelPackageError, match="as a file of the model"):
        load_model(directory)


def test_model_that_no_backend_knows_is_refused(directory: Path) -> None:
    """A directory of files that this Tailrace computes none of says so; nothing is guessed."""
    (directory / "model.other").write_bytes(b"?")
    edit_manifest(directory, files={"model.other": hashlib.sha256(b"?").hexdigest()})
    with pytest.raises(ModelPackageError, match="no backend can compute it: this Tailrace knows none of its files"):
        load_model(directory)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_tables_cut_short_are_refused(directory: Path, part: float) -> None:
    """Tables that lost their end are not loaded, and not passed over either: the directory is not whole."""
    path = directory / TREES_FILE
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelPackageError, match="cut short or altered") as caught:
        load_model(directory)
    assert TREES_FILE in caught.value.where


def test_tables_with_one_byte_flipped_are_refused(directory: Path) -> None:
    """One altered byte is found by the checksum."""
    path = directory / TREES_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelPackageError, match="cut short or altered"):
        load_model(directory)


def test_missing_tables_are_told(directory: Path) -> None:
    """Tables that the manifest speaks of must be there."""
    (directory / TREES_FILE).unlink()
    with pytest.raises(ModelPackageError, match=f"has no {TREES_FILE}"):
        load_model(directory)


def test_tables_that_are_none_are_refused(directory: Path) -> None:
    """A file with the right checksum that holds something else is refused as well."""
    replace_tables(directory, b"no tables")
    with pytest.raises(ModelPackageError, match="it holds no tables"):
        load_model(directory)


def test_tables_of_other_features_are_refused(directory: Path) -> None:
    """Tables for another width than the signature's never meet a row."""
    tables = decode_tables((directory / TREES_FILE).read_bytes())
    wider = msgspec.structs.replace(tables, features=5, counts=tables.counts + bytes(4))
    replace_tables(directory, encode_tables(wider))
    with pytest.raises(ModelPackageError, match="of 5 float32 features"):
        load_model(directory)


def test_tables_of_another_model_leave_it_to_onnxruntime(directory: Path) -> None:
    """Tables whose golden scores are wrong are not used: the graph, which has them right, is."""
    tables = decode_tables((directory / TREES_FILE).read_bytes())
    replace_tables(directory, encode_tables(msgspec.structs.replace(tables, base=tables.base + 1.0)))
    model = load_model(directory)
    assert model.backend == "ONNX Runtime"
    assert "golden row" in model.backend_reason


def test_row_with_nan_has_no_score_where_the_original_refuses_it(directory: Path) -> None:
    """A model whose conversion differs on NaN gives such a row none, alone; its neighbours keep theirs."""
    manifest = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes())
    golden = manifest["golden"]
    known = [index for index, row in enumerate(golden["inputs"]["features"]) if None not in row]
    kept = {
        "inputs": {"features": [golden["inputs"]["features"][index] for index in known]},
        "scores": [golden["scores"][index] for index in known],
    }
    edit_manifest(directory, source=manifest["source"] | {"missing": False}, golden=kept)
    model = load_model(directory)
    assert isinstance(model, BitvectorModel)
    feeds = model.sample_feeds(10)
    expected = model.predict(feeds)
    feeds["features"][3, 1] = np.nan
    scored = Scorer(model, Constant(0.5)).score(feeds, 10)
    assert scored.scores[3] == 0.5
    assert np.delete(scored.scores, 3).tolist() == np.delete(expected, 3).tolist()
