from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from offline.optimize.conftest import make_rows, train, write_network
from pipelines.model_graphs import linear
from programs import find_program
from tailrace.cli.main import app
from tailrace.cli.optimize import _draw, _parents
from tailrace.errors import ModelPackageError
from tailrace.inference.backends.bitvector import LIBRARY
from tailrace.inference.backends.table import BACKENDS
from tailrace.inference.explaining.explainer import load_explainer
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import encode_manifest
from tailrace.inference.model_directory import read_manifest
from tailrace.offline.optimize.journal import LINES_FILE
from tailrace.offline.optimize.optimizer import Optimised
from tailrace.release.package import package
from tailrace.release.registry.reference import Reference
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import open_registry

QUICK = ("--budget", "1s", "--seconds", "0.1", "--batches", "1", "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with trees, a network, and the rows that were held back."""
    folder = tmp_path_factory.mktemp("optimize")
    rows = make_rows()
    train(rows).save_model(str(folder / "trees.txt"))
    parquet.write_table(rows, folder / "rows.parquet")
    known = pa.table({name: np.nan_to_num(rows[name].to_numpy()) for name in rows.column_names})
    write_network(folder / "network.onnx", known, width=512)
    parquet.write_table(known, folder / "known.parquet")
    parquet.write_table(rows.set_column(4, "fraud", pa.array(np.zeros(len(rows), int))), folder / "one_class.parquet")
    return folder


def run(*words: str | Path) -> Result:
    """Run `tailrace optimize`."""
    return CliRunner().invoke(app, ["optimize", *map(str, words)])


def report_of(result: Result) -> dict[str, Any]:
    """Return what was printed."""
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("rows.parquet", "--metric", "f1"), "no metric is called 'f1'"),
        (("rows.parquet", "--metric", "rmse"), "a classifier of 2 classes has no rmse"),
        (("one_class.parquet",), "the data gives no auc: of its 1500 held-back rows 0 have the second outcome"),
        (("rows.parquet", "--target", "loss"), "no column 'loss'"),
        (("rows.parquet", "--tolerance", "-1"), "0 or more"),
        (("rows.parquet", "--batches", "1,x"), "'1,x' are no numbers of rows"),
        (("rows.parquet", "--register", "fraud"), "a version goes to a registry"),
    ],
)
def test_question_that_makes_no_sense_is_refused(
    folder: Path, tmp_path: Path, words: tuple[str, ...], what: str
) -> None:
    """The error says what, where and what next, before anything is tried."""
    data, *rest = words
    result = run(folder / "trees.txt", "--data", folder / data, *QUICK, "--work", tmp_path / "work", *rest)
    assert what in str(result.exception)
    assert not list((tmp_path / "work").glob("models/*"))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--register", "../x"), "'../x'"),
        (("--register", "fraud", "--alias", "1"), "'1'"),
        (("--register", "fraud", "--sign-key", "absent.pem"), "the key cannot be read"),
        (("--register", "fraud", "--registry", "nonsense://x/y"), "cannot open it"),
        (("--alias", "staging"), "an alias names a version"),
    ],
)
def test_registration_that_cannot_be_is_refused_first(
    folder: Path, tmp_path: Path, words: tuple[str, ...], what: str
) -> None:
    """Nobody waits for a winner that has no name, no signature or no registry to go to."""
    places = ("--registry", tmp_path / "registry", "--work", tmp_path / "work")
    result = run(folder / "trees.txt", "--data", folder / "rows.parquet", *QUICK, *places, *words)
    assert what in str(result.exception)
    assert not (tmp_path / "work").exists()


def test_work_folder_that_cannot_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    """A place that is forbidden, or full, is an error of one sentence."""
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "work"
    result = run(folder / "trees.txt", "--data", folder / "rows.parquet", *QUICK, "--work", place)
    assert isinstance(result.exception, ModelPackageError)
    assert "it cannot be written: Not a directory" in str(result.exception)


def test_picture_that_cannot_be_drawn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an hour has found is not lost with it."""

    def refuse(found: object, path: Path) -> None:
        path.write_bytes(b"picture")

    monkeypatch.setattr("tailrace.offline.optimize.picture.draw_picture", refuse)
    assert _draw(cast("Optimised", None), tmp_path / "absent" / "pareto.png") is None


def test_onnx_file_wants_its_target_named(folder: Path, tmp_path: Path) -> None:
    """Which column is no feature cannot be seen from the graph."""
    result = run(folder / "network.onnx", "--data", folder / "known.parquet", *QUICK, "--work", tmp_path / "work")
    assert "which column holds the outcomes? an ONNX file does not name its features" in str(result.exception)
    assert "fraud" in str(result.exception)


def test_directory_that_exists_is_refused_first(folder: Path, tmp_path: Path) -> None:
    """Nobody waits for a winner that has no place to go to."""
    result = run(folder / "trees.txt", "--data", folder / "rows.parquet", *QUICK, "--out", tmp_path)
    assert "the directory exists" in str(result.exception)


def test_version_of_other_settings_is_no_parent(tmp_path: Path) -> None:
    """Two versions may have one graph, and a session of their own each: the one that was optimised is the parent."""
    linear(tmp_path, "one", {"amount": 0.001})
    other = Path(shutil.copytree(tmp_path / "one", tmp_path / "other"))
    manifest = read_manifest(other)
    session = msgspec.structs.replace(manifest.session, threads=2)
    (other / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, session=session)))
    registry = open_registry(str(tmp_path / "registry"), create=True)
    for each in (tmp_path / "one", other):
        register(registry, each, "fraud")
    asked = SimpleNamespace(model=tmp_path / "one")
    found = cast("Optimised", SimpleNamespace(asked=asked, baseline=tmp_path / "one"))
    assert list(_parents(registry, "fraud", found)) == ["fraud@1"]


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARY.is_file(), reason="the bit-vector library was not compiled: there is no C compiler")
def test_trees_get_fewer_and_are_served(folder: Path, tmp_path: Path) -> None:
    """The winner is faster than the model as packaged, a model directory of its own, and knows where it comes from."""
    words = (folder / "trees.txt", "--data", folder / "rows.parquet", *QUICK, "--tolerance", "0.02")
    places = ("--work", tmp_path / "work", "--out", tmp_path / "best", "--name", "fraud")
    openssl = find_program("openssl", "openssl")
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "sign.pem"], check=True, timeout=30)
    signed = ("--sign-key", tmp_path / "sign.pem", "--alias", "staging")
    registry = ("--register", "fraud", "--registry", tmp_path / "registry", *signed)
    result = run(*words, *places, *registry)
    assert result.exit_code == 0, result.output
    report = report_of(result)
    assert "wins" in report["why"]
    winner = next(each for each in report["trials"] if each["standing"] == "wins")
    assert winner["recipe"]["kind"] in {"fewer trees", "cut trees"}
    assert {each["backend"] for each in report["trials"] if each["status"] == "measured"} >= {
        "bit vectors", "ONNX Runtime",
    }  # fmt: skip
    standings = {each["backend"]: each["standing"] for each in report["trials"]}
    assert "skipped" in {standings[each.name] for each in BACKENDS if each.is_on_gpu}  # no CI machine has both
    manifest = read_manifest(tmp_path / "best")
    made = manifest.optimised
    assert made is not None
    assert (made.parent, made.recipe, made.metric) == ("trees", winner["recipe_name"], "auc")
    assert made.before - made.after <= 0.02
    assert manifest.metrics["roc_auc"] == pytest.approx(made.after)
    assert manifest.source.difference_max == pytest.approx(made.difference_max, abs=0.3)
    assert load_model(tmp_path / "best").version == manifest.version
    assert Path(report["picture"]).is_file()
    assert report["version"] == "fraud@1"
    version = open_registry(str(tmp_path / "registry")).resolve(Reference.parse("fraud@staging"))
    assert (version.record.number, len(version.claimed_id)) == (1, 64)
    again = run(*words, "--work", tmp_path / "work")
    assert report_of(again)["resumed"] == sum(each["status"] != "skipped" for each in report["trials"])
    assert report_of(again)["winner"] == report["winner"]
    assert report_of(again)["directory"] is None


@pytest.mark.slow
def test_winner_of_fewer_trees_says_why_it_is_not_explained(folder: Path, tmp_path: Path) -> None:
    """The trees that its parent is explained by are not its own, and are not there."""
    package(folder / "trees.txt", folder / "rows.parquet", name="fraud", out=tmp_path / "fraud", explain=True)
    words = ("--data", folder / "rows.parquet", *QUICK, "--tolerance", "0.02", "--target", "fraud")
    result = run(tmp_path / "fraud", *words, "--work", tmp_path / "work", "--out", tmp_path / "best")
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "best")
    made = model.manifest.optimised
    assert made is not None
    said = load_explainer(model, tmp_path / "best")
    assert isinstance(said, str)
    assert said.endswith(f"changed by `tailrace optimize`: {made.recipe}")


@pytest.mark.slow
def test_network_gets_shorter_numbers(folder: Path, tmp_path: Path) -> None:
    """int8 takes a quarter of the file; what a model directory says of its features is enough to find the target."""
    words = ("--data", folder / "known.parquet", *QUICK, "--tolerance", "0.02", "--work", tmp_path / "work")
    result = run(folder / "network.onnx", *words, "--target", "fraud", "--out", tmp_path / "best")
    report = report_of(result)
    sizes = {each["name"]: each["size_bytes"] for each in report["trials"]}
    assert sizes["int8 dynamic · ONNX Runtime"] < 0.3 * sizes["as packaged · ONNX Runtime"]
    assert sizes["float16 · ONNX Runtime"] < 0.55 * sizes["as packaged · ONNX Runtime"]
    assert all(each["standing"] != "failed" for each in report["trials"])
    packaged = run(tmp_path / "work" / "baseline", *words[:-1], tmp_path / "other", "--seconds", "0.05")
    assert report_of(packaged)["rows_judged"] == report["rows_judged"]


@pytest.mark.slow
def test_question_that_nothing_meets_leaves_the_model(folder: Path, tmp_path: Path) -> None:
    """Where every score must stay as it is, and a call take no time, nothing wins: the command says so and ends with 3.

    Without the budget a setting of ONNX Runtime's may win, which moves no score. No model is written.
    """
    words = (folder / "network.onnx", "--data", folder / "known.parquet", *QUICK, "--target", "fraud")
    strict = ("--score-change", "0", "--budget", "1us")
    result = run(*words, *strict, "--work", tmp_path / "work", "--out", tmp_path / "best")
    assert result.exit_code == 3, result.output
    why = report_of(result)["why"]
    assert "Nothing is faster within the tolerance: the model stays as packaged" in why
    assert "moved a score by more than --score-change" in why
    assert report_of(result)["winner"] is None
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_run_that_was_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    """A run that is killed in its midst leaves no process, and the next one measures only what is missing."""
    words = [folder / "trees.txt", "--data", folder / "rows.parquet", *QUICK, "--tolerance", "0.02"]
    command = [sys.executable, "-P", "-m", "tailrace.cli.main", "optimize", *words, "--work", tmp_path / "work"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env=os.environ)
    lines = tmp_path / "work" / LINES_FILE
    until_s = time.monotonic() + 60
    while not lines.exists() or lines.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < until_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = lines.read_bytes().count(b'"type":"trial"') - lines.read_bytes().count(b'"status":"skipped"')
    result = run(*words, "--work", tmp_path / "work")
    assert report_of(result)["resumed"] == done
    assert len(report_of(result)["trials"]) > done
