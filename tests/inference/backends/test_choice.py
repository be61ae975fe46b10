"""Which backend computes a model: from the record, from a measurement, or because there is only one."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any

import msgspec
import numpy as np
import pytest

from inference.tree_models import draw_forest, package_forest
from tailrace.errors import ModelPackageError
from tailrace.inference.backends import bitvector
from tailrace.inference.backends.bitvector import LIBRARY
from tailrace.inference.backends.choice import MEASURE_S_MAX, BackendChoice, choose_backend, measure_backends
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import MANIFEST_FILE, MODEL_FILE, TREES_FILE, BackendTimes
from tailrace.inference.model_directory import read_manifest

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the bit-vector library was not compiled")

BIT_VECTORS = BackendChoice("bit vectors")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package trees over 4 features, which bit vectors compute several times faster."""
    forest = draw_forest(0, features=4, trees=100, leaves=32)
    return package_forest(forest, tmp_path_factory.mktemp("narrow")).directory


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package trees over 1,000 features of one split each or two, which ONNX Runtime computes several times faster.

    For bit vectors, though walks would suit them: a package of before there were walks is such a one.
    """
    forest = draw_forest(0, features=1_000, trees=32, leaves=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tailrace.release.forest.FEATURES_BITS_MAX", 1_000)
        return package_forest(forest, tmp_path_factory.mktemp("wide")).directory


def record(directory: Path, tmp_path: Path, times: BackendTimes | None) -> Path:
    """Return a copy of a model directory whose manifest holds other times."""
    copy = Path(shutil.copytree(directory, tmp_path / "model"))
    manifest = msgspec.json.decode((copy / MANIFEST_FILE).read_bytes())
    manifest["times"] = times
    (copy / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    return copy


def times_of(bits_us: int, onnx_us: int) -> BackendTimes:
    """Return times with one ratio at every number of rows."""
    known, rows = {"bit vectors": bits_us, "ONNX Runtime": onnx_us}, (1, 16, 64)
    return BackendTimes(rows, {name: tuple(us * 1_000 * each for each in rows) for name, us in known.items()})


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_package_records_what_both_backends_take(name: str, request: pytest.FixtureRequest) -> None:
    """The manifest has the times of both, whichever is faster, and the tables are there either way."""
    directory: Path = request.getfixturevalue(name)
    times = read_manifest(directory).times
    assert times is not None
    assert times.rows == (1, 16, 64)
    assert (times.ns["bit vectors"][1] < times.ns["ONNX Runtime"][1]) == (name == "narrow")
    assert (directory / TREES_FILE).is_file()


def test_record_that_is_clear_for_bit_vectors_is_believed(wide: Path, tmp_path: Path) -> None:
    """Even one that a measurement here would not give: nothing is timed."""
    assert choose_backend(record(wide, tmp_path, times_of(100, 500))) == BIT_VECTORS


def test_record_that_is_clear_for_onnx_runtime_is_measured(narrow: Path, wide: Path, tmp_path: Path) -> None:
    """The processor that packaged a model does not decide for this one; the reason tells what both take here."""
    assert choose_backend(record(narrow, tmp_path / "narrow", times_of(500, 100))) == BIT_VECTORS
    choice = choose_backend(record(wide, tmp_path / "wide", times_of(500_000, 100_000)))
    assert choice.name == "ONNX Runtime"
    assert choice.reason.startswith("it is faster: 1 row")
    assert "by bit vectors 500 ms" not in choice.reason
    model = load_model(tmp_path / "wide" / "model")
    assert model.backend == choice.name
    assert model.backend_reason.startswith("it is faster: 1 row")


@pytest.mark.parametrize("times", [None, times_of(110, 100), times_of(100, 110)], ids=["none", "near", "near, other"])
@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_times_missing_or_near_are_measured(
    name: str, times: BackendTimes | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A model that was packaged without a compiler, or in a noisy moment, gets the backend that is faster here."""
    choice = choose_backend(record(request.getfixturevalue(name), tmp_path, times))
    if name == "narrow":
        assert choice == BIT_VECTORS
    else:
        assert choice.name == "ONNX Runtime"
        assert choice.reason.startswith("it is faster: 1 row")


def test_choosing_imports_no_onnxruntime(wide: Path, tmp_path: Path) -> None:
    """Who makes a release does not pay ONNX Runtime's memory, even where both backends are measured."""
    program = (
        "import sys; from pathlib import Path; from tailrace.inference.backends.choice import choose_backend;"
        "print(choose_backend(Path(sys.argv[1])).name, 'onnxruntime' in sys.modules)"
    )
    directory = record(wide, tmp_path, None)
    done = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ONNX", "Runtime", "False"]


def test_graph_that_onnxruntime_refuses_is_left_to_bit_vectors(narrow: Path, tmp_path: Path) -> None:
    """Where only one backend can compute the model there is nothing to measure."""
    directory = record(narrow, tmp_path, None)
    (directory / MODEL_FILE).write_bytes(b"no graph")
    manifest = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes())
    manifest["files"][MODEL_FILE] = hashlib.sha256(b"no graph").hexdigest()
    (directory / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    choice = choose_backend(directory)
    assert choice.name == "bit vectors"
    assert choice.reason.startswith(f"ONNX Runtime cannot compute it here: {directory / MODEL_FILE}: ")
    assert "\n" not in choice.reason


def test_measurement_that_hangs_is_given_up(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not come back is ended in three seconds; the bit vectors compute the model, and say why."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    directory = record(wide, tmp_path, None)
    start_s = monotonic()
    choice = choose_backend(directory)
    assert 2 * MEASURE_S_MAX <= monotonic() - start_s < 2 * MEASURE_S_MAX + 2
    assert choice == BackendChoice("bit vectors", "the backends could not be timed here: it took more than 3 s")


def test_choice_is_honoured(narrow: Path) -> None:
    """A model is computed by the backend that was chosen, not by the faster one."""
    model = load_model(narrow, choice=BackendChoice("ONNX Runtime", "the release says so"))
    assert (model.backend, model.backend_reason) == ("ONNX Runtime", "the release says so")
    assert load_model(narrow, choice=BIT_VECTORS).backend == "bit vectors"


def test_choice_that_cannot_be_honoured_is_an_error(
    narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that has gone is told, with what to do; no other backend takes its place unseen."""
    monkeypatch.setattr(bitvector, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(ModelPackageError, match="bit vectors, cannot compute it: it was not compiled") as caught:
        load_model(narrow, choice=BIT_VECTORS)
    assert "make a new release" in caught.value.next
    choice = choose_backend(narrow)
    assert choice.name == "ONNX Runtime"
    assert "was not compiled" in choice.reason
    assert load_model(narrow, choice=choice).backend == "ONNX Runtime"


def test_choice_for_a_model_without_tables_is_an_error(tmp_path: Path) -> None:
    """Bit vectors that were chosen for another version of the model are no reason to serve something else."""
    directory = package_forest(draw_forest(0, features=4, trees=2, leaves=65), tmp_path).directory
    with pytest.raises(ModelPackageError, match=r"has no trees\.msgpack"):
        load_model(directory, choice=BIT_VECTORS)


def spend(us: int, noise_us: Callable[[], int]) -> Callable[[Mapping[str, Any]], Any]:
    """Return a model that takes so long, and sometimes longer."""

    def predict(feeds: Mapping[str, Any]) -> Any:
        end_ns = perf_counter_ns() + (us + noise_us()) * 1_000
        while perf_counter_ns() < end_ns:
            pass
        return feeds["x"]

    return predict


def test_noisy_moment_does_not_turn_the_measurement() -> None:
    """Of two calls in five the faster backend's takes five times as long, and it is still found the faster."""
    rng = np.random.default_rng(0)
    bits = spend(60, lambda: 300 if rng.random() < 0.4 else 0)
    times = measure_backends({"bits": bits, "onnx": spend(120, lambda: 0)}, lambda rows, seed: {"x": np.zeros(rows)})
    assert all(bits_ns < onnx_ns for bits_ns, onnx_ns in zip(times.ns["bits"], times.ns["onnx"], strict=True))


@pytest.mark.parametrize("wrong", [((), {"a": ()}), ((1,), {"a": (5,), "b": ()}), ((1,), {"a": (0,), "b": (5,)})])
def test_times_that_are_none_are_refused(wrong: tuple[Any, Any], narrow: Path, tmp_path: Path) -> None:
    """A manifest with half a record is not loaded."""
    with pytest.raises(ValueError, match="backend times"):
        BackendTimes(*wrong)
    fields: Any = dict(zip(("rows", "ns"), wrong, strict=True))
    with pytest.raises(ModelPackageError, match="backend times"):
        choose_backend(record(narrow, tmp_path, fields))
