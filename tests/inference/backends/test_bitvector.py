from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as matrices

from inference.tree_models import Forest, draw_forest, scaled_graph, score_both, signature_of
from tailrace.inference.backends.bitvector import LIBRARY, BitvectorKernel
from tailrace.inference.backends.kernel import open_library
from tailrace.inference.backends.onnx import open_session
from tailrace.inference.backends.tree_tables import expand_tables
from tailrace.release.tree_graph import NoTablesError, tabulate_graph

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the bit-vector library was not compiled")

FEATURES = 3
ALL_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE")
EXTREMES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4028235e38, -3.4028235e38, 1e-45, -1e-45, 1.1754944e-38)

FORESTS = {
    "one leaf": draw_forest(0, features=FEATURES, trees=1, leaves=1),
    "only trees of one leaf": draw_forest(1, features=FEATURES, trees=9, leaves=1),
    "one tree": draw_forest(2, features=FEATURES, trees=1, leaves=31),
    "two leaves": draw_forest(3, features=FEATURES, trees=40, leaves=2),
    "32 leaves": draw_forest(4, features=FEATURES, trees=20, leaves=32),
    "33 leaves": draw_forest(5, features=FEATURES, trees=20, leaves=33),
    "64 leaves": draw_forest(6, features=FEATURES, trees=20, leaves=64),
    "chains of 32": draw_forest(7, features=FEATURES, trees=7, leaves=32, chain=True),
    "chains of 64": draw_forest(8, features=FEATURES, trees=7, leaves=64, chain=True),
    "all tests": draw_forest(9, features=FEATURES, trees=30, leaves=16, modes=ALL_MODES),
    "200 trees": draw_forest(10, features=FEATURES, trees=200, leaves=31),
}


def values_near(thresholds: Any) -> list[float]:
    """Return thresholds and the float32 on either side of each."""
    sides = [thresholds, np.nextafter(thresholds, np.float32(-np.inf)), np.nextafter(thresholds, np.float32(np.inf))]
    return [float(value) for value in np.unique(np.concatenate(sides))]


class Pair:
    """One forest in both kernels."""

    def __init__(self, forest: Forest, base: float = 0.0) -> None:
        graph = forest.graph(base=base)
        arrays = expand_tables(tabulate_graph(graph, signature_of(forest.features)))
        self.kernel = BitvectorKernel(arrays, open_library(LIBRARY))
        self.session = open_session(graph)

    def check(self, rows: Any) -> None:
        """Assert that both give the same scores, to the last bit."""
        expected = self.session.run(["score"], {"features": rows})[0][:, 0]
        np.testing.assert_array_equal(self.kernel.score(rows), expected)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    """Return every forest in both kernels."""
    return {name: Pair(forest, base=0.25) for name, forest in FORESTS.items()}


@pytest.mark.parametrize("name", FORESTS)
@settings(deadline=None)
@given(data=st.data())
def test_score_is_the_graphs_for_any_row(pairs: dict[str, Pair], name: str, data: st.DataObject) -> None:
    """Thresholds, their float32 neighbours, NaN, infinities: the sum is ONNX Runtime's to the last bit."""
    near = values_near(FORESTS[name].thresholds())
    values = st.sampled_from(EXTREMES) | st.floats(width=32)
    values = st.sampled_from(near) | values if near else values
    count = data.draw(st.integers(1, 35), label="rows")
    pairs[name].check(data.draw(matrices(np.float32, (count, FEATURES), elements=values), label="rows"))


@pytest.mark.parametrize("name", FORESTS)
def test_every_threshold_is_tested_from_both_sides(pairs: dict[str, Pair], name: str) -> None:
    """Each threshold, the float32 before and after it, in every feature, beside ordinary and extreme values."""
    near = np.array([*values_near(FORESTS[name].thresholds()), *EXTREMES], np.float32)
    rng = np.random.default_rng(0)
    rows = rng.choice(near, (len(near) * FEATURES, FEATURES))
    for feature in range(FEATURES):
        rows[feature::FEATURES, feature] = near
    pairs[name].check(rows)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    trees=st.integers(1, 40),
    leaves=st.integers(1, 64),
    features=st.integers(1, 12),
    chain=st.booleans(),
)
def test_score_is_the_graphs_for_any_forest(seed: int, trees: int, leaves: int, features: int, chain: bool) -> None:
    """Forests of every shape, with every test and NaN going either way."""
    forest = draw_forest(seed, features=features, trees=trees, leaves=leaves, modes=ALL_MODES, chain=chain)
    near = np.array([*forest.thresholds(), *EXTREMES], np.float32)
    rows = np.random.default_rng(seed).choice(near, (50, features))
    Pair(forest).check(rows)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 15, 16, 17, 20, 33, 1000])
def test_number_of_rows_does_not_matter(pairs: dict[str, Pair], rows: int) -> None:
    """Rows of a block, of a block's end and of no block get the scores that they get alone."""
    matrix = np.random.default_rng(0).normal(size=(rows, FEATURES)).astype(np.float32)
    kernel = pairs["64 leaves"].kernel
    scores = kernel.score(matrix)
    assert scores.shape == (rows,)
    assert scores.tolist() == [kernel.score(matrix[i : i + 1])[0] for i in range(rows)]


def test_sigmoid_is_the_graphs() -> None:
    """Behind a sigmoid the scores are within a float's rounding of ONNX Runtime's, also far out."""
    forest = draw_forest(11, features=FEATURES, trees=60, leaves=16)
    rows = np.random.default_rng(0).normal(size=(2000, FEATURES)).astype(np.float32)
    for base in (0.0, -30.0, 30.0, 200.0, -200.0):
        found, expected = score_both(forest.graph("Sigmoid", base), FEATURES, rows)
        assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("spoil", ["float64", "width", "flat"])
def test_matrix_of_another_kind_is_refused(pairs: dict[str, Pair], spoil: str) -> None:
    """Nothing but a float32 matrix of the model's width reaches the library."""
    wrong = {"float64": np.zeros((4, 3)), "width": np.zeros((4, 2), np.float32), "flat": np.zeros(12, np.float32)}
    with pytest.raises(ValueError, match="the model takes"):
        pairs["one tree"].kernel.score(wrong[spoil])


def test_matrix_in_another_order_is_copied(pairs: dict[str, Pair]) -> None:
    """Columns first, every second row, read-only, unaligned: the same scores."""
    matrix = np.random.default_rng(0).normal(size=(40, FEATURES)).astype(np.float32)
    kernel = pairs["32 leaves"].kernel
    expected = kernel.score(matrix).tolist()
    frozen = matrix.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + matrix.tobytes(), np.uint8)[1:].view(np.float32).reshape(matrix.shape)
    for same in (np.asfortranarray(matrix), np.repeat(matrix, 2, axis=0)[::2], frozen, unaligned):
        assert kernel.score(same).tolist() == expected


def test_scores_of_an_earlier_call_are_kept(pairs: dict[str, Pair]) -> None:
    """A batch keeps its scores while the next one is scored."""
    kernel = pairs["200 trees"].kernel
    matrix = np.random.default_rng(0).normal(size=(64, FEATURES)).astype(np.float32)
    first = kernel.score(matrix)
    kept = first.tolist()
    kernel.score(-matrix)
    assert first.tolist() == kept


def test_threads_may_call_at_once(pairs: dict[str, Pair]) -> None:
    """Four threads with different rows get the scores of their own rows."""
    kernel = pairs["200 trees"].kernel
    rows = [np.random.default_rng(seed).normal(size=(300, FEATURES)).astype(np.float32) for seed in range(4)]
    expected = [kernel.score(matrix).tolist() for matrix in rows]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(100) if kernel.score(rows[index]).tolist() != expected[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_library_of_another_version_is_not_used(pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose layout of the tables is another one says so before it reads any."""
    monkeypatch.setattr("tailrace.inference.backends.bitvector.LIBRARY_LAYOUT", 99)
    with pytest.raises(OSError, match="another version"):
        BitvectorKernel(pairs["one tree"].kernel.arrays, open_library(LIBRARY))


def test_library_exports_one_function() -> None:
    """The rest of the library is its own."""
    library = ctypes.CDLL(str(LIBRARY))
    assert hasattr(library, "tailrace_score")
    for name in ("score_block_32", "score_block_64", "find_failed", "PyInit_bitvector"):
        assert not hasattr(library, name)


def test_tree_of_65_leaves_does_not_fit() -> None:
    """One leaf more than a word has bits, balanced or not."""
    for chain in (False, True):
        graph = draw_forest(0, features=FEATURES, trees=3, leaves=65, chain=chain).graph()
        with pytest.raises(NoTablesError, match="more than 64 leaves"):
            tabulate_graph(graph, signature_of(FEATURES))


def test_split_on_equality_does_not_fit() -> None:
    """A categorical split has no place among ordered thresholds."""
    forest = Forest(1)
    forest.add((0, 1.0, "BRANCH_EQ", False, 1.0, 2.0))
    with pytest.raises(NoTablesError, match="BRANCH_EQ"):
        tabulate_graph(forest.graph(), signature_of(1))


@pytest.mark.parametrize("link", ["Exp", "Softmax"])
def test_another_link_does_not_fit(link: str) -> None:
    """Only a sigmoid or nothing may stand behind the trees."""
    graph = draw_forest(0, features=FEATURES, trees=3, leaves=4).graph(link)
    with pytest.raises(NoTablesError, match=f"behind {link}"):
        tabulate_graph(graph, signature_of(FEATURES))


def test_features_changed_before_the_trees_do_not_fit() -> None:
    """Trees that do not read the input itself are ONNX Runtime's."""
    graph = scaled_graph(draw_forest(0, features=FEATURES, trees=3, leaves=4))
    with pytest.raises(NoTablesError, match="through Add"):
        tabulate_graph(graph, signature_of(FEATURES))
