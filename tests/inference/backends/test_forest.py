from __future__ import annotations

import ctypes
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.forest_models import FORESTS, MODES, ForestPair, Many, oblivious_forest
from inference.tree_models import draw_forest
from instructions import count_instructions
from tailrace.inference.backends.forest import LIBRARY, ForestKernel
from tailrace.inference.backends.kernel import open_library
from tailrace.release.table_scores import score_forest

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the forest library was not compiled")


@pytest.fixture(scope="module")
def pairs() -> dict[str, ForestPair]:
    """Return every forest in both kernels."""
    return {name: ForestPair(many) for name, many in FORESTS.items()}


@pytest.mark.parametrize("name", FORESTS)
def test_scores_are_the_graphs(pairs: dict[str, ForestPair], name: str) -> None:
    """Thresholds, their float32 neighbours, NaN, infinities; oblivious trees are found to be such."""
    pair = pairs[name]
    pair.check(pair.many.probes(0, 700))
    assert pair.arrays.oblivious == name.startswith(("oblivious", "one leaf"))


@pytest.mark.parametrize("name", FORESTS)
def test_scores_in_numpy_are_the_kernels(pairs: dict[str, ForestPair], name: str) -> None:
    """Packaging without a compiler checks the tables with the same scores."""
    pair = pairs[name]
    rows = pair.many.probes(1, 300)
    np.testing.assert_allclose(score_forest(pair.arrays, rows), pair.kernel.score(rows), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    trees=st.integers(1, 20),
    leaves=st.integers(1, 200),
    features=st.integers(1, 9),
    outputs=st.integers(1, 4),
    vectors=st.booleans(),
    chain=st.booleans(),
    rows=st.integers(1, 90),
)
def test_score_is_the_graphs_for_any_forest(
    seed: int, trees: int, leaves: int, features: int, outputs: int, vectors: bool, chain: bool, rows: int
) -> None:
    """Forests of every shape, with every test, NaN going either way, and any number of outputs and rows."""
    forest = draw_forest(seed, features=features, trees=trees, leaves=leaves, modes=MODES, chain=chain)
    many = Many(forest, outputs if vectors else min(outputs, trees), vectors)
    ForestPair(many).check(many.probes(seed, rows))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    depths=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    features=st.integers(1, 9),
    outputs=st.integers(1, 4),
    vectors=st.booleans(),
    rows=st.integers(1, 40),
)
def test_score_is_the_graphs_for_any_oblivious_forest(
    seed: int, depths: list[int], features: int, outputs: int, vectors: bool, rows: int
) -> None:
    """Tables of any depth, of one output or several."""
    forest = oblivious_forest(seed, features=features, depths=depths)
    many = Many(forest, outputs if vectors else min(outputs, len(depths)), vectors)
    pair = ForestPair(many)
    assert pair.arrays.oblivious
    pair.check(many.probes(seed, rows))


@pytest.mark.parametrize("link", ["Sigmoid", "Softmax", "Exp"])
@pytest.mark.parametrize("name", ["65 leaves", "an output a tree", "a vector a leaf", "oblivious"])
def test_link_is_the_graphs(name: str, link: str) -> None:
    """Behind a link the scores are within a float's rounding of ONNX Runtime's."""
    many = FORESTS[name]
    ForestPair(many, link).check(many.probes(2, 500))


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("name", ["65 leaves", "300 trees", "a vector a leaf", "oblivious"])
def test_number_of_rows_does_not_matter(pairs: dict[str, ForestPair], name: str, rows: int) -> None:
    """Rows of a block, of a block's end and of no block get the scores that they get alone."""
    pair = pairs[name]
    matrix = np.random.default_rng(0).normal(size=(rows, pair.arrays.features)).astype(np.float32)
    scores = pair.kernel.score(matrix)
    assert scores.shape == ((rows,) if pair.arrays.outputs == 1 else (rows, pair.arrays.outputs))
    assert scores.tolist() == [pair.kernel.score(matrix[i : i + 1])[0].tolist() for i in range(rows)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library as a compiler makes it for any processor."""
    library = tmp_path_factory.mktemp("plain") / "libforest.so"
    source = LIBRARY.with_name("forest.c")
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run(["cc", *flags, "-o", str(library), str(source), "-lm"], check=True, timeout=60)
    return library


@pytest.mark.parametrize("name", FORESTS)
def test_plain_walks_give_the_same_scores(pairs: dict[str, ForestPair], name: str, plain: Path) -> None:
    """A processor without wide vectors computes the same, to the last bit."""
    pair = pairs[name]
    kernel = ForestKernel(pair.arrays, open_library(plain))
    for count in (1, 3, 16, 70):
        rows = pair.many.probes(count, count)
        np.testing.assert_array_equal(kernel.score(rows), pair.kernel.score(rows))


@pytest.mark.parametrize("spoil", ["float64", "width", "flat"])
def test_matrix_of_another_kind_is_refused(pairs: dict[str, ForestPair], spoil: str) -> None:
    """Nothing but a float32 matrix of the model's width reaches the library."""
    wrong = {"float64": np.zeros((4, 3)), "width": np.zeros((4, 2), np.float32), "flat": np.zeros(12, np.float32)}
    with pytest.raises(ValueError, match="the model takes"):
        pairs["65 leaves"].kernel.score(wrong[spoil])


def test_threads_may_call_at_once(pairs: dict[str, ForestPair]) -> None:
    """Four threads with different rows get the scores of their own rows."""
    kernel = pairs["300 trees"].kernel
    rows = [np.random.default_rng(seed).normal(size=(150, 3)).astype(np.float32) for seed in range(4)]
    expected = [kernel.score(matrix).tolist() for matrix in rows]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(50) if kernel.score(rows[index]).tolist() != expected[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


INSTRUCTIONS_MAX = 90
"""Of a call, whatever its rows: 70 when this was written, on Python 3.11."""


@pytest.mark.parametrize("name", ["65 leaves", "a vector a leaf", "oblivious"])
def test_call_costs_python_the_same_for_any_rows(pairs: dict[str, ForestPair], name: str) -> None:
    """What is counted does not grow with the rows, and is little."""
    kernel = pairs[name].kernel
    few, many = (np.zeros((rows, pairs[name].arrays.features), np.float32) for rows in (1, 200))
    counts = [count_instructions(lambda matrix=matrix: kernel.score(matrix)) for matrix in (few, many)]
    assert counts[0] == counts[1] <= INSTRUCTIONS_MAX


def test_library_of_another_version_is_not_used(pairs: dict[str, ForestPair], monkeypatch: Any) -> None:
    """A library whose layout of the tables is another one says so before it reads any."""
    monkeypatch.setattr("tailrace.inference.backends.forest.LIBRARY_LAYOUT", 99)
    with pytest.raises(OSError, match="another version"):
        ForestKernel(pairs["65 leaves"].arrays, open_library(LIBRARY))


def test_library_exports_one_function() -> None:
    """The rest of the library is its own."""
    library = ctypes.CDLL(str(LIBRARY))
    assert hasattr(library, "tailrace_score")
    for name in ("walk_plain", "walk_wide", "look_up_plain", "fill_slots"):
        assert not hasattr(library, name)
