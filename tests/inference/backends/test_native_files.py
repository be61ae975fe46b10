"""Model directories whose files lie though their checksums are right: whoever wrote the one wrote the other."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import pytest
import xgboost
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import LIGHTGBM_FILE, MANIFEST_FILE, MODEL_FILE, SKLEARN_FILE, XGBOOST_FILE
from tailrace.release.package import package

NAMES = ["a", "b"]
DATA = pd.DataFrame(np.random.default_rng(2).normal(size=(300, 2)).astype(np.float32), columns=NAMES)
OUTCOME = (DATA.a > 0).astype(int)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package a small model of each library, each in a directory of its file's name."""
    folder = tmp_path_factory.mktemp("native")
    linear = LogisticRegression().fit(DATA, OUTCOME)
    models: dict[str, tuple[Any, bool]] = {
        LIGHTGBM_FILE: (lightgbm.train({"verbose": -1, "num_leaves": 4}, lightgbm.Dataset(DATA, OUTCOME), 2), True),
        XGBOOST_FILE: (xgboost.train({"max_depth": 2}, xgboost.DMatrix(DATA, OUTCOME), 2), True),
        SKLEARN_FILE: (linear, True),
        MODEL_FILE: (linear, False),
    }
    for file, (model, native) in models.items():
        package(model, DATA, name="m", out=folder / file, native=native)
    return folder


def replace_file(directories: Path, file: str, content: bytes, folder: Path) -> Path:
    """Return a copy of a model directory whose file is another, and whose manifest has its checksum."""
    copy = Path(shutil.copytree(directories / file, folder / "m"))
    (copy / file).write_bytes(content)
    manifest = msgspec.json.decode((copy / MANIFEST_FILE).read_bytes())
    manifest["files"] = {file: hashlib.sha256(content).hexdigest()}
    (copy / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    return copy


def external() -> bytes:
    """Return a graph whose weights lie in a file beside it."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights"
    graph = helper.make_graph(
        [helper.make_node("Add", ["features", "w"], ["score"])], "outside",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 2])], [tensor],
    )  # fmt: skip
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def packed(name: str, content: bytes, *, is_damaged: bool = False) -> bytes:
    """Return an archive of one member; damaged: whose compressed bytes are none."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    found = bytearray(written.getvalue())
    if is_damaged:
        found[30 + len(name) : 35 + len(name)] = b"\xff" * 5
    return bytes(found)


def array_of(header: bytes) -> bytes:
    """Return a file of NumPy's with some header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


FILES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "lightgbm, a billion leaves": (
        LIGHTGBM_FILE, lambda given: given.replace(b"\nnum_leaves=", b"\nnum_leaves=100000000", 1), "not of the sizes",
    ),
    "lightgbm, a pickle": (LIGHTGBM_FILE, lambda given: b"\x80\x05.", "does not begin"),
    "xgboost, 100 GB": (
        XGBOOST_FILE, lambda given: b"[$d#L" + struct.pack(">q", 25_000_000_000), "25000000000 values are promised",
    ),
    "xgboost, cut short": (XGBOOST_FILE, lambda given: given[:-100], "promised"),
    "sklearn, a pickle": (SKLEARN_FILE, lambda given: b"\x80\x05.", "no archive"),
    "sklearn, a damaged array": (
        SKLEARN_FILE, lambda given: packed("a.npy", bytes(1000), is_damaged=True), "no archive",
    ),
    "sklearn, an array of no header": (
        SKLEARN_FILE, lambda given: packed("a.npy", array_of(b"{[]: 1, 'shape': (3,)}")), "no header of an array",
    ),
    "sklearn, an array of half a header": (
        SKLEARN_FILE, lambda given: packed("a.npy", array_of(b"{'shape': (3,")), "no header of an array",
    ),
    "onnx, weights beside it": (MODEL_FILE, lambda given: external(), "its weights lie in other files: weights"),
    "onnx, a pickle": (MODEL_FILE, lambda given: b"\x80\x05.", "it is a pickle"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_file_that_lies_is_refused(kind: str, directories: Path, tmp_path: Path) -> None:
    """A checksum says who wrote a file, not what is in it: each is looked at before its library reads it."""
    file, change, words = FILES[kind]
    given = (directories / file / file).read_bytes()
    with pytest.raises(ModelPackageError, match=words):
        load_model(replace_file(directories, file, change(given), tmp_path))


@pytest.mark.parametrize("file", [LIGHTGBM_FILE, XGBOOST_FILE])
def test_file_of_other_features_is_refused(file: str, directories: Path, tmp_path: Path) -> None:
    """A model of three features is none for a signature of two."""
    wide = DATA.assign(c=DATA.a * DATA.b)
    if file == LIGHTGBM_FILE:
        content = lightgbm.train({"verbose": -1}, lightgbm.Dataset(wide, OUTCOME), 2).model_to_string().encode()
    else:
        content = bytes(xgboost.train({}, xgboost.DMatrix(wide, OUTCOME), 2).save_raw("ubj"))
    with pytest.raises(ModelPackageError, match="3"):
        load_model(replace_file(directories, file, content, tmp_path))


@pytest.mark.parametrize("file", [LIGHTGBM_FILE, XGBOOST_FILE, SKLEARN_FILE])
def test_model_of_other_scores_is_refused(file: str, directories: Path, tmp_path: Path) -> None:
    """The golden rows hold a library's own form as they hold a graph."""
    copy = Path(shutil.copytree(directories / file, tmp_path / "m"))
    manifest = msgspec.json.decode((copy / MANIFEST_FILE).read_bytes())
    manifest["golden"]["scores"][0][0] += 1e-3
    (copy / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ModelPackageError, match="golden row 0 gets the score"):
        load_model(copy)


@pytest.mark.parametrize("file", [LIGHTGBM_FILE, XGBOOST_FILE])
def test_batch_of_another_shape_or_type_is_an_error(file: str, directories: Path) -> None:
    """The library would read beyond it: never silently. One in another order is copied, and scored."""
    model = load_model(directories / file)
    (spec,) = model.signature.inputs
    rows = DATA[:9].to_numpy(spec.numpy_dtype)
    for wrong in (rows[:, :1], rows[0], rows.astype(np.int64)):
        with pytest.raises(ValueError, match="the model takes"):
            model.predict({spec.name: wrong})
    expected = model.predict({spec.name: rows})
    np.testing.assert_array_equal(model.predict({spec.name: np.asfortranarray(rows)}), expected)
    np.testing.assert_array_equal(model.predict({spec.name: np.repeat(rows, 2, axis=0)[::2]}), expected)


@pytest.mark.parametrize("file", [LIGHTGBM_FILE, XGBOOST_FILE, SKLEARN_FILE])
def test_model_is_called_from_several_threads(file: str, directories: Path) -> None:
    """A batch on the thread that is late, and the next one on the loop, get each their own rows' scores."""
    model = load_model(directories / file)
    (spec,) = model.signature.inputs
    matrix = DATA.to_numpy(spec.numpy_dtype)
    expected = model.predict({spec.name: matrix})

    def ask(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        for rows in (1, 3, 40) * 8:
            start = int(rng.integers(0, len(matrix) - rows))
            part = slice(start, start + rows)
            if not np.array_equal(model.predict({spec.name: matrix[part]}), expected[part]):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(8)))


@pytest.mark.parametrize("native", [False, True], ids=["converted", "native"])
def test_trees_that_were_pruned_are_a_model_as_any_other(tmp_path: Path, native: bool) -> None:
    """Exact splits with gamma leave nodes in the file that pruning took out: it is packaged, and scores alike."""
    settings = {"objective": "binary:logistic", "tree_method": "exact", "gamma": 2.0, "max_depth": 6}
    noisy = (DATA.a + np.random.default_rng(3).normal(size=len(DATA)) > 0).astype(int)
    booster = xgboost.train(settings, xgboost.DMatrix(DATA, noisy), 8)
    assert b"2147483647" in bytes(booster.save_raw("json")).split(b'"split_indices"', 1)[1], "nothing was pruned"
    path = tmp_path / "model.ubj"
    booster.save_model(path)
    package(path, DATA, name="m", out=tmp_path / "m", native=native)
    model = load_model(tmp_path / "m")
    feeds = {model.signature.inputs[0].name: DATA.to_numpy()}
    np.testing.assert_allclose(model.predict(feeds), booster.predict(xgboost.DMatrix(DATA)), atol=1e-6)
