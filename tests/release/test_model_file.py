"""Files of models that are cut short, lie, or attack: each is refused before its framework reads it."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
import xgboost
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from tailrace.errors import ModelPackageError
from tailrace.release.model_file import read_model
from tailrace.release.package import package

NAMES = ["a", "b", "c"]
SOMETHING = np.random.default_rng(3).normal(size=(400, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def text() -> bytes:
    """Return a LightGBM model's text, with splits on categories."""
    rows = SOMETHING.copy()
    rows[:, 2] = np.arange(400) % 9
    data = lightgbm.Dataset(
        rows, 10 * (rows[:, 2] % 3 == 1) + rows[:, 0], feature_name=NAMES, categorical_feature=["c"]
    )
    options = {"verbose": -1, "num_leaves": 5, "num_threads": 1, "min_data_per_group": 1, "max_cat_to_onehot": 1,
               "cat_smooth": 1, "min_data_in_leaf": 5}  # fmt: skip
    found: bytes = lightgbm.train(options, data, 2).model_to_string().encode()
    assert b"cat_boundaries=0 1" in found
    return found


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    """Return a small XGBoost model."""
    data = xgboost.DMatrix(SOMETHING, SOMETHING[:, 0], feature_names=NAMES)
    return xgboost.train({"nthread": 1, "max_depth": 2}, data, 2)


def graph_of(*tensors: Any, nodes: Any = ()) -> bytes:
    """Return a graph that adds a weight `w` to its input."""
    found = helper.make_graph(
        [*nodes, helper.make_node("Add", ["x", "w"], ["score"])],
        "weighted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        tensors,
    )
    model = helper.make_model(found, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def weight_in(place: str) -> Any:
    """Return one weight that lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


class Attack:
    """What a pickle may hold: a call of anything."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("suffix", [".onnx", ".txt", ".ubj", ".json", ".cbm", ".pkl", ".pickle", ".joblib"])
def test_pickle_is_not_opened(suffix: str, tmp_path: Path) -> None:
    """Whatever its name ends with, nothing in it runs."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Attack(tmp_path / "run")))
    with pytest.raises(ModelPackageError, match="it is a pickle"):
        read_model(path)
    assert not (tmp_path / "run").exists()


def test_refusal_of_a_pickle_says_what_else_to_do(tmp_path: Path) -> None:
    """The error says why, and names the form to save instead and the flag; with it the pickle is opened."""
    joblib.dump({"a": 1}, tmp_path / "model.joblib")
    with pytest.raises(ModelPackageError, match="runs whatever code it holds") as caught:
        read_model(tmp_path / "model.joblib")
    assert "--allow-pickle" in caught.value.next
    assert ".ubj" in caught.value.next
    assert read_model(tmp_path / "model.joblib", allow_pickle=True) == {"a": 1}


def edited(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return what replaces some bytes, and sees that the sizes of trees are those that the text then has."""

    def edit(text: bytes) -> bytes:
        assert old in text
        text = text.replace(old, new, 1)
        head, *trees = text.partition(b"\nend of trees")[0].split(b"\nTree=")
        sizes = b" ".join(str(len(b"\nTree=") + len(tree)).encode() for tree in trees)
        line = next(line for line in head.split(b"\n") if line.startswith(b"tree_sizes="))
        return text.replace(line, b"tree_sizes=" + sizes, 1)

    return edit


TEXTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda text: b"", "does not begin"),
    "another": (lambda text: b"a letter to you", "does not begin"),
    "cut short": (lambda text: text[: len(text) // 2], "cut short"),
    "a billion leaves": (edited(b"num_leaves=5", b"num_leaves=1000000000"), "not 1000000000"),
    "a billion classes": (edited(b"num_class=1", b"num_class=1000000000"), "num_class is 1000000000"),
    "a billion features": (edited(b"max_feature_idx=2", b"max_feature_idx=1000000000"), "_idx is 1000000000"),
    "a billion categories": (edited(b"cat_boundaries=0 1", b"cat_boundaries=0 1000000000"), "set of categories"),
    "a count that stands twice": (edited(b"num_leaves=5", b"num_leaves=5\nnum_leaves=9"), "stands twice"),
    "sizes that lie": (lambda text: text.replace(b"tree_sizes=", b"tree_sizes=9"), "not of the sizes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_lightgbm_text_that_lies_is_refused(kind: str, text: bytes, tmp_path: Path) -> None:
    """A count that promises more than there is, or a number that leads outside, never reaches the library."""
    change, words = TEXTS[kind]
    (tmp_path / "model.txt").write_bytes(change(text))
    with pytest.raises(ModelPackageError, match=words):
        read_model(tmp_path / "model.txt")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("left_child", 999, "a child"), ("right_child", -999, "a child"), ("left_child", 0, "before its node"),
     ("split_feature", 3, "a feature"), ("split_feature", -1, "a feature")],
)  # fmt: skip
def test_lightgbm_tree_that_leads_outside_is_refused(
    name: str, value: int, words: str, text: bytes, tmp_path: Path
) -> None:
    """A child, a leaf or a feature that is not there would be read from whatever lies behind the tree."""
    line = next(line for line in text.split(b"\n") if line.startswith(f"{name}=".encode()))
    _, _, numbers = line.partition(b"=")
    changed = f"{name}=".encode() + b" ".join([str(value).encode(), *numbers.split()[1:]])
    (tmp_path / "model.txt").write_bytes(edited(line, changed)(text))
    with pytest.raises(ModelPackageError, match=words):
        read_model(tmp_path / "model.txt")


def test_lightgbm_text_that_holds_what_it_says_is_read(text: bytes, tmp_path: Path) -> None:
    """What the library wrote passes."""
    (tmp_path / "model.txt").write_bytes(text)
    assert read_model(tmp_path / "model.txt").num_trees() == 2


LISTS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "a billion nodes": (lambda m, t: t["tree_param"].update(num_nodes="1000000000"), "says otherwise"),
    "a billion features": (
        lambda m, t: m["learner"]["learner_model_param"].update(num_feature="1000000000"), "1000000000 features",
    ),
    "a billion classes": (
        lambda m, t: m["learner"]["learner_model_param"].update(num_class="1000000000"), "1000000000 classes",
    ),
    "a child outside": (lambda m, t: t["left_children"].__setitem__(0, 999), "a child that is not there"),
    "a way back": (lambda m, t: t["left_children"].__setitem__(0, 0), "two parents"),
    "a feature outside": (lambda m, t: t["split_indices"].__setitem__(0, 3), "a feature that is not there"),
    "lists of other lengths": (lambda m, t: t["split_conditions"].pop(), "not of one length"),
    "a tree too many": (
        lambda m, t: m["learner"]["gradient_booster"]["model"]["gbtree_model_param"].update(num_trees="3"),
        "says otherwise",
    ),
    "no trees": (lambda m, t: m["learner"].pop("gradient_booster"), "not as XGBoost writes it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
def test_xgboost_model_that_lies_is_refused(kind: str, booster: xgboost.Booster, tmp_path: Path) -> None:
    """A count that promises more than there is, or a number that leads outside, never reaches the library."""
    model = json.loads(booster.save_raw("json"))
    change, words = LISTS[kind]
    change(model, model["learner"]["gradient_booster"]["model"]["trees"][0])
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(ModelPackageError, match=words):
        read_model(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "1 bytes are promised at byte 0"),
        (b"{L" + struct.pack(">q", 1 << 60) + b"x", "1152921504606846976 values are promised"),
        (b"[$d#L" + struct.pack(">q", 25_000_000_000), "25000000000 values are promised"),
        (b"[$d#L" + struct.pack(">q", 8) + b"12345678", "32 bytes are promised"),
        (b"[" * 999, "nested more than"),
        (b"{" + b"L" + struct.pack(">q", -1), "-1 values are promised"),
        (b"TT", "stand behind its end"),
        (b"?", "begins no value"),
    ],
)
def test_ubjson_that_promises_what_is_not_there_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    """No count is believed, and nothing is allocated for it."""
    (tmp_path / "model.ubj").write_bytes(content)
    with pytest.raises(ModelPackageError, match=words):
        read_model(tmp_path / "model.ubj")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_xgboost_model_cut_short_is_refused(part: float, booster: xgboost.Booster, tmp_path: Path) -> None:
    """A file that lost its end is told; the whole one is read, from either form."""
    content = bytes(booster.save_raw("ubj"))
    (tmp_path / "model.ubj").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelPackageError, match="promised"):
        read_model(tmp_path / "model.ubj")
    (tmp_path / "model.ubj").write_bytes(content)
    assert read_model(tmp_path / "model.ubj").num_boosted_rounds() == 2


GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it has no graph"),
    "another": (lambda: b"a letter to you", "begins no field"),
    "cut short": (lambda: graph_of(numpy_helper.from_array(np.ones((9, 9)), "w"))[:-300], "cut short"),
    "400 GB": (lambda: graph_of(TensorProto(name="w", data_type=1, dims=[10**6, 10**5])), "100000000000 elements"),
    "400 GB, four bytes of it": (
        lambda: graph_of(TensorProto(name="w", data_type=1, dims=[10**6, 10**5], raw_data=bytes(4))),
        "100000000000 elements",
    ),
    "an operator that is none": (
        lambda: graph_of(nodes=[helper.make_node("Conjure", ["x"], ["w"])]), "ONNX Runtime refuses it: .*Conjure",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GRAPHS)
def test_graph_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    """Nothing is allocated for what is not there; an operator that the runtime lacks is named."""
    content, words = GRAPHS[kind]
    (tmp_path / "model.onnx").write_bytes(content())
    with pytest.raises(ModelPackageError, match=words):
        package(tmp_path / "model.onnx", pa.table({"x": [1.0, 2.0]}), name="m", out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("place", ["/etc/hostname", "../weights", "link", "sub/../../weights", "none", ""])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_weights_outside_the_directory_are_refused(place: str, where: str, tmp_path: Path) -> None:
    """An absolute path, one that goes up, a link and a file that is not there; wherever in the graph it stands."""
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "weights").write_bytes(bytes(4))
    (folder / "link").symlink_to(tmp_path / "weights")
    weight = weight_in(place)
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 1])
    branch = helper.make_graph([constant], "branch", [], [output])
    choice = [helper.make_node("If", ["x"], ["w"], then_branch=branch, else_branch=branch)]
    content = {"initializer": graph_of(weight), "constant": graph_of(nodes=[constant]),
               "branch": graph_of(nodes=choice)}[where]  # fmt: skip
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelPackageError, match="no file of its own directory, or a link"):
        read_model(folder / "model.onnx")


def test_weights_of_the_directory_come_into_the_file(tmp_path: Path) -> None:
    """A graph with a file of weights beside it is packaged as one file, whose checksum is about all of it."""
    (tmp_path / "weights").write_bytes(struct.pack("<f", 2.5))
    (tmp_path / "model.onnx").write_bytes(graph_of(weight_in("weights")))
    report = package(tmp_path / "model.onnx", pa.table({"x": [1.0, 2.0]}), name="m", out=tmp_path / "m")
    assert [score for row in report.manifest.golden.scores[:2] for score in row] == [3.5, 4.5]
    assert not onnx.load(tmp_path / "m" / "model.onnx").graph.initializer[0].external_data


@pytest.mark.parametrize("content", [b"", b"a letter", b"CBM1" + struct.pack("<I", 1 << 30), b"CBM1"])
def test_catboost_model_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    """What does not begin as one, or promises more than it holds."""
    (tmp_path / "model.cbm").write_bytes(content)
    with pytest.raises(ModelPackageError, match="the model cannot be read"):
        read_model(tmp_path / "model.cbm")


def skops_of(members: dict[str, bytes]) -> bytes:
    """Return an archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def array_of(shape: tuple[int, ...]) -> bytes:
    """Return the header of an array of doubles, and eight bytes of it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(8)


ESTIMATORS: dict[str, tuple[bytes, str]] = {
    "none": (b"a letter to you", "it is no archive"),
    "a way up": (skops_of({"../schema.json": b"{}"}), "which is above it"),
    "100 GB of an array": (skops_of({"1.npy": array_of((12_500_000_000,))}), "promises an array of 100000000000 bytes"),
    "the same in an archive": (skops_of({"1.npz": skops_of({"data.npy": array_of((1 << 40,))})}), "promises an array"),
    "no schema": (skops_of({"1.npy": array_of((1,))}), "it is no file of skops"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_estimator_that_attacks_is_refused(kind: str, tmp_path: Path) -> None:
    """What unpacks upwards, or promises an array that is not there, is told before skops reads it."""
    content, words = ESTIMATORS[kind]
    (tmp_path / "model.skops").write_bytes(content)
    with pytest.raises(ModelPackageError, match=words):
        read_model(tmp_path / "model.skops")


def test_estimator_of_unknown_types_is_its_makers_to_package(tmp_path: Path) -> None:
    """A file of types that skops knows is read; another names them, and what to do."""
    rows, outcome = pd.DataFrame(SOMETHING, columns=NAMES), SOMETHING[:, 0] > 0
    skops.io.dump(LogisticRegression().fit(rows, outcome), tmp_path / "linear.skops")
    assert read_model(tmp_path / "linear.skops").feature_names_in_.tolist() == NAMES
    skops.io.dump(RandomForestClassifier(2).fit(rows, outcome), tmp_path / "forest.skops")
    with pytest.raises(ModelPackageError, match=r"sklearn\.tree\._tree\.Tree; if you know who made it"):
        read_model(tmp_path / "forest.skops")


def growing(elements: int) -> bytes:
    """Return a graph that makes so many zeros of a number, and adds their sum to its input."""
    count = numpy_helper.from_array(np.array([elements], np.int64), "count")
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["w"], keepdims=0),
    ]
    return graph_of(count, nodes=nodes)


@pytest.mark.parametrize("elements", [10**11, 2 * 10**9])
def test_graph_that_asks_for_memory_while_it_runs_is_refused(elements: int, tmp_path: Path) -> None:
    """400 GB, and 8 that this machine may have: in a process of its own, which may not take it."""
    (tmp_path / "model.onnx").write_bytes(growing(elements))
    with pytest.raises(ModelPackageError, match="MiB of memory for 256 rows or fewer"):
        read_model(tmp_path / "model.onnx")


def test_graph_that_makes_a_little_is_read(tmp_path: Path) -> None:
    """An operator that makes tensors is no attack by itself."""
    (tmp_path / "model.onnx").write_bytes(growing(1_000))
    assert read_model(tmp_path / "model.onnx") == growing(1_000)
