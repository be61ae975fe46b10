from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.backends.table import ONNX_RUNTIME, backends_of
from tailrace.inference.explaining.explainer import load_explainer
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import EXPLAIN_LIGHTGBM, MODEL_FILE
from tailrace.inference.model_directory import read_manifest
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.making import ROUNDING_MAX, make, numbers_to_try, search, size_on_disk
from tailrace.offline.optimize.metric import choose_metric
from tailrace.offline.optimize.recipes import AS_PACKAGED, Recipe
from tailrace.offline.optimize.trial import Measure, work_on
from tailrace.release.package import package


def test_recipe_of_settings_makes_the_same_model(baseline: Path, evidence: Path, tmp_path: Path) -> None:
    """The files are those of the baseline, and the manifest says how ONNX Runtime is to compute them."""
    make(baseline, AS_PACKAGED.with_session(threads=2), Evidence.load(evidence), tmp_path / "made")
    made, before = read_manifest(tmp_path / "made"), read_manifest(baseline)
    assert (made.files, made.session.threads) == (before.files, 2)


def test_made_model_has_its_own_golden_rows_and_forms(baseline: Path, evidence: Path, tmp_path: Path) -> None:
    """Fewer trees score otherwise, which the golden rows know; whatever computed the model can compute these."""
    make(baseline, Recipe(kind="fewer trees", trees=10, of=40), Evidence.load(evidence), tmp_path / "made")
    made, before = read_manifest(tmp_path / "made"), read_manifest(baseline)
    assert made.golden.inputs == before.golden.inputs
    assert made.golden.scores != before.golden.scores
    assert [each.name for each in backends_of(made)] == [each.name for each in backends_of(before)]
    for backend in backends_of(made):
        load_model(tmp_path / "made", choice=BackendChoice(backend.name))
        assert size_on_disk(tmp_path / "made", backend.name) < size_on_disk(baseline, backend.name)


def test_changed_trees_are_not_explained_by_those_before(
    booster: lightgbm.Booster, rows: pa.Table, evidence: Path, tmp_path: Path
) -> None:
    """What the library wrote stays where the trees do: it would be refused as another model's, and was one."""
    before = package(booster, rows, name="fraud", out=tmp_path / "explained", explain=True).directory
    part = Evidence.load(evidence)
    for recipe, kept in (
        (Recipe(kind="fewer trees", trees=10, of=40), False),
        (Recipe(kind="cut trees", depth=2, of=9), False),
        (Recipe(kind="optimised graph"), True),
        (AS_PACKAGED, True),
    ):
        made = tmp_path / recipe.folder
        make(before, recipe, part, made)
        assert (EXPLAIN_LIGHTGBM in read_manifest(made).files) == kept
        assert isinstance(load_explainer(load_model(made), made), str) != kept


def test_model_of_short_numbers_may_be_rounded_elsewhere(network: Path, rows: pa.Table, tmp_path: Path) -> None:
    """Its golden scores may be off by what two executions of it differ: less than by what int8 has moved a score."""
    table = pa.table({name: np.nan_to_num(rows[name].to_numpy()) for name in rows.column_names})
    packaged = package(network, table, name="network", out=tmp_path / "network", target="fraud").directory
    part = Evidence.gather(read_manifest(packaged), table, "fraud")
    before = load_model(packaged).predict(part.feeds)
    for kind in ("int8 dynamic", "int8 static", "float16", "optimised graph"):
        make(packaged, Recipe(kind=kind), part, tmp_path / kind)
        rounding = read_manifest(tmp_path / kind).golden.rounding
        moved = np.abs(load_model(tmp_path / kind).predict(part.feeds) - before).max()
        assert rounding <= min(moved / 2, ROUNDING_MAX)
        assert (rounding > 0) == (kind != "optimised graph")


def test_models_are_copied_where_files_have_no_links(
    baseline: Path, evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without hard links holds a copy."""

    def refuse(place: Path, target: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    make(baseline, AS_PACKAGED, Evidence.load(evidence), tmp_path / "made")
    assert (tmp_path / "made" / MODEL_FILE).read_bytes() == (baseline / MODEL_FILE).read_bytes()


def test_search_finds_the_fewest_trees(baseline: Path, evidence: Path) -> None:
    """A wide tolerance needs few trees, none at all needs more; each is tried with some to spare."""
    part = Evidence.load(evidence)
    metric = choose_metric("auc", read_manifest(baseline).signature, part.outcomes)
    wide, narrow = (
        [recipe for recipe in search(baseline, part, metric, tolerance) if recipe.kind == "fewer trees"]
        for tolerance in (0.05, 0.001)
    )
    assert wide[0].trees < narrow[0].trees < 40
    assert [recipe.trees for recipe in narrow] == sorted({recipe.trees for recipe in narrow})
    assert all(recipe.of == 40 for recipe in (*wide, *narrow))


def test_measured_are_scores_and_times_beside_the_baseline(baseline: Path, evidence: Path, tmp_path: Path) -> None:
    """Every backend of the model is measured with the same rows, whatever it is called."""
    for backend in backends_of(read_manifest(baseline)):
        work = Measure(str(baseline), str(evidence), str(baseline), backend.name, str(tmp_path / "s.npy"), (1, 8), 0.05)
        done = work_on(work)
        assert (done.failed, done.skipped) == ("", "")
        assert [timing.batch for timing in done.timings] == [1, 8]
        expected = load_model(baseline, choice=BackendChoice(ONNX_RUNTIME)).predict(Evidence.load(evidence).feeds)
        np.testing.assert_allclose(np.load(tmp_path / "s.npy"), expected, atol=1e-6)


def test_backend_that_this_machine_has_not_is_skipped(baseline: Path, evidence: Path, tmp_path: Path) -> None:
    """It is told why, and is no failure."""
    done = work_on(Measure(str(baseline), str(evidence), str(baseline), "tensors", str(tmp_path / "s"), (1,), 0.05))
    assert "no such backend" in done.skipped


def test_made_model_that_was_altered_is_not_measured(baseline: Path, evidence: Path, tmp_path: Path) -> None:
    """A file that is not what was made is refused before it is scored."""
    shutil.copytree(baseline, tmp_path / "made")
    (tmp_path / "made" / MODEL_FILE).write_bytes(b"another")
    with pytest.raises(Exception, match="cut short or altered"):
        work_on(
            Measure(str(baseline), str(evidence), str(tmp_path / "made"), ONNX_RUNTIME, str(tmp_path / "s"), (1,), 0.05)
        )


@pytest.mark.parametrize(
    ("most", "held", "found"),
    [
        (200, lambda count: count >= 60, [60, 61, 62, 62, 63]),
        (200, lambda count: count >= 4, [4, 4, 4, 4, 5]),
        (200, lambda count: count >= 199, [199]),
        (200, lambda count: False, []),
        (1, lambda count: True, []),
    ],
)
def test_numbers_begin_where_it_holds(most: int, held: Callable[[int], bool], found: list[int]) -> None:
    """The least for which it holds is found by halves; where it holds from there on, little else is tried."""
    tried = numbers_to_try(most, held, 5)
    assert all(map(held, tried))
    assert (tried[:1], len(tried) <= 5) == (found[:1], True)


def test_numbers_reach_from_luck_to_where_it_holds_for_all() -> None:
    """A metric that holds for 5 trees by luck and then not before 100 is tried for both, and between."""
    tried = numbers_to_try(200, lambda count: count == 5 or count >= 100, 5)
    assert (tried[0], tried[-1]) == (5, 112)
    assert len(tried) == 5
