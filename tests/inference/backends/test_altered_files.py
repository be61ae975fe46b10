"""Model files that were altered anywhere: each is refused or scored, and never ends the process that opens it."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.inference.backends.ubjson import decode_ubjson

LOADER = Path(__file__).with_name("file_loader.py")
EXAMPLES = 4
"""In the suite, of each kind of model: a process is made for each. `make fuzz` takes many."""
MANY = settings.default.max_examples // 4 if settings.default.max_examples > 100 else EXAMPLES
FUZZING = settings(max_examples=MANY, suppress_health_check=[HealthCheck.too_slow])
RNG = np.random.default_rng(3)
DATA = pd.DataFrame({"a": RNG.normal(size=400), "b": pd.Categorical(RNG.integers(0, 40, 400))})
OUTCOME = ((DATA.a > 0) ^ (DATA.b.cat.codes % 3 == 0)).to_numpy().astype(int)
WORDS = [
    "0", "1", "2", "7", "-1", "-2", "63", "64", "127", "128", "255", "256", "100000", "-100000", "2147483647",
    "2147483648", "-2147483648", "4294967295", "4294967297", "99999999999999999999", "999999999e-9", "1e-9", "0.5",
    "1e300", "nan", "inf", "", "1_0", "+1", "0x7f", "1 1", "1\t9", "1=1", "\r", "\n",
]  # fmt: skip

Ask = Callable[[bytes], str]


@pytest.fixture(scope="module")
def loader() -> Iterator[Callable[[str, int, bytes], str]]:
    """Return what has a process open a file, and says what became of it."""
    with subprocess.Popen([sys.executable, str(LOADER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        given, told = process.stdin, process.stdout
        assert given is not None
        assert told is not None

        def ask(kind: str, columns: int, content: bytes) -> str:
            given.write(f"{kind} {columns} {len(content)}\n".encode() + content)
            given.flush()
            return told.readline().decode().strip()

        yield ask
        given.close()


# -- LightGBM -----------------------------------------------------------------------------------------------------


def lightgbm_text(**parameters: Any) -> str:
    """Return the text of two small iterations."""
    common = {"verbose": -1, "num_threads": 1, "num_leaves": 5, "min_data_per_group": 5, "cat_smooth": 1.0,
              "max_cat_to_onehot": 1, "min_data_in_leaf": 5}  # fmt: skip
    data = lightgbm.Dataset(DATA, OUTCOME + (DATA.a > 1) if "num_class" in parameters else OUTCOME)
    text: str = lightgbm.train(common | parameters, data, 2).model_to_string()
    return text


LIGHTGBM: dict[str, dict[str, Any]] = {
    "binary": {"objective": "binary"},
    "linear": {"objective": "regression", "linear_tree": True},
    "classes": {"objective": "multiclass", "num_class": 3},
}


def with_sizes(text: str) -> bytes:
    """Return a text with the sizes that its trees have now: else nothing behind the first check is met."""
    _, *trees = text.partition("\nend of trees")[0].split("\nTree=")
    sizes = " ".join(str(len(tree.encode()) + len("\nTree=")) for tree in trees)
    lines = [f"tree_sizes={sizes}" if line.startswith("tree_sizes=") else line for line in text.split("\n")]
    return "\n".join(lines).encode()


@st.composite
def altered_texts(draw: st.DrawFn, text: str) -> bytes:
    """Give a text in which some words are others."""
    lines = text.partition("\nparameters:")[0].split("\n")
    places = [place for place, line in enumerate(lines) if "=" in line]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places))
        name, _, value = lines[place].partition("=")
        words = value.split(" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(WORDS))
        lines[place] = f"{name}={' '.join(words)}"
    return with_sizes("\n".join(lines) + "\nparameters:" + text.partition("\nparameters:")[2])


@pytest.fixture(scope="module", params=LIGHTGBM)
def lightgbm_loader(request: pytest.FixtureRequest, loader: Callable[[str, int, bytes], str]) -> tuple[str, Ask]:
    """Return a text and what opens it."""
    parameters = LIGHTGBM[request.param]
    text, ask = lightgbm_text(**parameters), partial(loader, "lightgbm", parameters.get("num_class", 1))
    assert ask(with_sizes(text)) == "scored"
    return text, ask


@FUZZING
@given(data=st.data())
def test_altered_text_of_lightgbm_ends_no_process(lightgbm_loader: tuple[str, Ask], data: st.DataObject) -> None:
    """Numbers of nodes, features, leaves, sets and classes that are others; text where a number was."""
    text, ask = lightgbm_loader
    assert ask(data.draw(altered_texts(text))) in {"scored", "refused"}


LIES = [
    ("split_feature", 0, "999999999e-9"), ("left_child", 0, "999999999e-9"), ("right_child", 0, "9_9"),
    ("num_leaves", 0, "5_0"), ("num_cat", 0, "0e9"), ("decision_type", 0, "2147483648"), ("is_linear", 0, "2"),
    ("leaf_weight", 0, "1_0"), ("leaf_count", 0, "1e300"), ("internal_weight", 0, ""), ("split_gain", 0, "0x7f"),
    ("num_tree_per_iteration", 0, "0"), ("num_tree_per_iteration", 0, "9"), ("objective", 1, "num_class:100000"),
    ("objective", 0, "=num_class=9"),
]  # fmt: skip
"""A field, a word of it, and what LightGBM reads otherwise than it looks, or ends a process for."""


@pytest.mark.parametrize("lightgbm_loader", ["binary"], indirect=True)
def test_text_that_lightgbm_reads_otherwise_is_refused(lightgbm_loader: tuple[str, Ask]) -> None:
    """Whole numbers that go on behind a letter, counts that the library writes beyond, lists of another length."""
    text, ask = lightgbm_loader
    outcomes = {}
    for name, place, word in LIES:
        lines = text.split("\n")
        at = next(at for at, line in enumerate(lines) if line.startswith(f"{name}="))
        words = lines[at].removeprefix(f"{name}=").split(" ")
        words[place : place + 1] = [word]
        lines[at] = f"{name}={' '.join(words)}"
        outcomes[name, word] = ask(with_sizes("\n".join(lines)))
    assert set(outcomes.values()) == {"refused"}, outcomes


# -- XGBoost ------------------------------------------------------------------------------------------------------


def encode_ubjson(value: Any) -> bytes:
    """Return a value as XGBoost writes it."""
    if isinstance(value, dict):
        return b"{" + b"".join(sized(name) + encode_ubjson(each) for name, each in value.items()) + b"}"
    if isinstance(value, np.ndarray):
        kind = {"i1": b"i", "u1": b"U", "i2": b"I", "i4": b"l", "i8": b"L", "f4": b"d", "f8": b"D"}[value.dtype.str[1:]]
        swapped = value.astype(value.dtype.newbyteorder(">"))
        return b"[$" + kind + b"#L" + struct.pack(">q", len(value)) + swapped.tobytes()
    if isinstance(value, list):
        return b"[#L" + struct.pack(">q", len(value)) + b"".join(encode_ubjson(each) for each in value)
    if isinstance(value, str):
        return b"S" + sized(value)
    if isinstance(value, bool) or value is None:
        return {None: b"Z", True: b"T", False: b"F"}[value]
    return b"D" + struct.pack(">d", value) if isinstance(value, float) else b"L" + struct.pack(">q", value)


def sized(text: str) -> bytes:
    """Return a text behind its length."""
    return b"L" + struct.pack(">q", len(text.encode())) + text.encode()


def places_of(value: Any) -> list[tuple[Any, Any]]:
    """Return every place of a value that could hold another: what holds it, and by which name or number."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for place, each in members:
        found.append((value, place))
        found += places_of(each)
    return found


NUMBERS = [0, 1, 2, 7, -1, -2, 63, 127, 255, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 32]


def altered(draw: st.DrawFn, value: Any) -> Any:
    """Return another value in the place of one."""
    if isinstance(value, np.ndarray) and draw(st.booleans()):
        how = draw(st.sampled_from(["none", "less", "more", "type"]))
        if how == "type":
            return value.astype(draw(st.sampled_from(["i1", "u1", "i2", "i4", "i8", "f4", "f8"])))
        return {"none": value[:0], "less": value[:-1], "more": np.concatenate([value, value])}[how]
    if isinstance(value, np.ndarray) and len(value):
        changed = value.copy()
        with np.errstate(invalid="ignore"):
            number = np.array(draw(st.sampled_from(NUMBERS))).astype(value.dtype)
        changed[draw(st.integers(0, len(value) - 1))] = number
        return changed
    if isinstance(value, list) and value and draw(st.booleans()):
        return value[:-1]
    if isinstance(value, str):
        return draw(st.sampled_from(WORDS))
    return draw(st.sampled_from([None, True, -1, 7, 1 << 40, 0.5, "", [], {}, np.zeros(3, "i4")]))


@st.composite
def altered_trees(draw: st.DrawFn, content: bytes) -> bytes:
    """Give a model in which some values are others."""
    model = decode_ubjson(content)
    for _ in range(draw(st.integers(1, 2))):
        holder, place = draw(st.sampled_from(places_of(model)))
        holder[place] = altered(draw, holder[place])
    return encode_ubjson(model)


def xgboost_file(**parameters: Any) -> bytes:
    """Return the file of two small iterations."""
    data = xgboost.DMatrix(DATA, OUTCOME + (DATA.a > 1) if "num_class" in parameters else OUTCOME,
                           enable_categorical=True)  # fmt: skip
    model = xgboost.train({"max_depth": 3, "nthread": 1, "max_cat_to_onehot": 1} | parameters, data, 2)
    return bytes(model.save_raw("ubj"))


XGBOOST: dict[str, dict[str, Any]] = {
    "binary": {"objective": "binary:logistic"},
    "dart": {"objective": "reg:squarederror", "booster": "dart"},
    "classes": {"objective": "multi:softprob", "num_class": 3},
}


@pytest.fixture(scope="module", params=XGBOOST)
def xgboost_loader(request: pytest.FixtureRequest, loader: Callable[[str, int, bytes], str]) -> tuple[bytes, Ask]:
    """Return a file and what opens it."""
    parameters = XGBOOST[request.param]
    content = encode_ubjson(decode_ubjson(xgboost_file(**parameters)))
    ask = partial(loader, "xgboost", parameters.get("num_class", 1))
    assert ask(content) == "scored"
    return content, ask


@FUZZING
@given(data=st.data())
def test_altered_file_of_xgboost_ends_no_process(xgboost_loader: tuple[bytes, Ask], data: st.DataObject) -> None:
    """Numbers, lists that are shorter and longer, of another type, and other values where they stood."""
    content, ask = xgboost_loader
    assert ask(data.draw(altered_trees(content))) in {"scored", "refused"}


@pytest.mark.parametrize("xgboost_loader", ["binary"], indirect=True)
def test_tree_that_xgboost_would_follow_outside_is_refused(xgboost_loader: tuple[bytes, Ask]) -> None:
    """Vectors that the leaves do not have, a parent that is none, a list of kinds that is missing, another value."""
    content, ask = xgboost_loader

    def change(act: Callable[[Any, Any], None]) -> str:
        model = decode_ubjson(content)
        booster = model["learner"]["gradient_booster"]
        act(model, booster.get("gbtree", booster)["model"]["trees"][0])
        return ask(encode_ubjson(model))

    def without_parent(model: Any, tree: Any) -> None:
        tree["parents"] = np.full(len(tree["parents"]), -1, "i4")

    outcomes = [
        change(lambda model, tree: tree["tree_param"].update(size_leaf_vector="63")),
        change(without_parent),
        change(lambda model, tree: tree.update(split_type=tree["split_type"][:0])),
        change(lambda model, tree: tree.update(categories_nodes=tree["categories_nodes"][::-1] * 0)),
        change(lambda model, tree: model["learner"].update(learner_model_param=np.zeros(3, "i4"))),
    ]
    assert outcomes == ["refused"] * 5
