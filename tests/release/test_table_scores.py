"""The tables' scores in NumPy are ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference.tree_models import Forest, draw_forest, signature_of
from tailrace.inference.backends.onnx import open_session
from tailrace.inference.backends.tree_tables import expand_tables
from tailrace.release import table_scores
from tailrace.release.table_scores import score_tables
from tailrace.release.tabulation import make_probes
from tailrace.release.tree_graph import tabulate_graph


def single_leaf() -> Forest:
    """Return a forest whose trees have no split."""
    forest = Forest(3)
    forest.add(0.25)
    forest.add(0.5)
    return forest


FORESTS = {
    "32 leaves": lambda: draw_forest(1, features=5, trees=40, leaves=32),
    "64 leaves": lambda: draw_forest(2, features=5, trees=40, leaves=64, chain=True),
    "every test": lambda: draw_forest(
        3, features=3, trees=40, leaves=20, modes=("BRANCH_LT", "BRANCH_LEQ", "BRANCH_GT", "BRANCH_GTE")
    ),
    "no split": single_leaf,
}


@pytest.mark.parametrize("link", ["", "Sigmoid"])
@pytest.mark.parametrize("kind", FORESTS)
def test_scores_are_the_graphs(kind: str, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every threshold, its neighbours, NaN and infinities, whatever is looked at together."""
    forest = FORESTS[kind]()
    graph = forest.graph(link, base=0.5)
    tables = tabulate_graph(graph, signature_of(forest.features))
    rows: Any = np.random.default_rng(0).normal(size=(300, forest.features)).astype(np.float32)
    probes = make_probes(expand_tables(tables), rows)
    expected = open_session(graph).run(["score"], {"features": probes})[0][:, 0]
    np.testing.assert_allclose(score_tables(tables, probes), expected, rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(table_scores, "CELLS_MAX", 1)
    np.testing.assert_allclose(score_tables(tables, probes[:50]), expected[:50], rtol=1e-6, atol=1e-6)


def test_no_rows_have_no_scores() -> None:
    """An empty matrix is no error."""
    tables = tabulate_graph(single_leaf().graph(), signature_of(3))
    assert score_tables(tables, np.zeros((0, 3), np.float32)).shape == (0,)
