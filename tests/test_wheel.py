"""The wheel: what is built installs into a fresh venv, holds all that it should, and works from there."""

from __future__ import annotations

import shutil
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import tailrace
from fresh_venv import ROOT, build_wheel, install_wheel, run

SMOKE = ROOT / "tools" / "smoke"
ALONE = {
    "serve": (
        "pyarrow",
        "pandas",
        "ibis",
        "duckdb",
        "onnx",
        "sklearn",
        "lightgbm",
        "xgboost",
        "fastapi",
        "boto3",
        "pytest",
    ),
    "offline": ("onnx", "sklearn", "lightgbm", "xgboost", "fastapi", "pytest"),
    "package": ("ibis", "duckdb", "fastapi", "pytest"),
    "catboost": ("ibis", "duckdb", "lightgbm", "xgboost", "onnxmltools", "fastapi", "pytest"),
    "sklearn": ("pyarrow", "ibis", "duckdb", "onnx", "lightgbm", "xgboost", "fastapi", "pytest"),
    "torch": ("pyarrow", "pandas", "ibis", "duckdb", "sklearn", "lightgbm", "xgboost", "fastapi", "pytest"),
    "lightgbm": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "xgboost", "fastapi", "pytest"),
    "xgboost": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "lightgbm", "fastapi", "pytest"),
    "kafka": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "boto3", "pytest"),
    "dynamodb": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "pytest"),
    "registry": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "lightgbm", "fastapi", "pytest"),
    "postgres": ("onnx", "sklearn", "lightgbm", "xgboost", "fastapi", "boto3", "pyspark", "pytest"),
    "spark": ("onnx", "sklearn", "lightgbm", "xgboost", "fastapi", "boto3", "psycopg", "pytest"),
    "arrow": ("pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "boto3", "grpc", "jwt", "pytest"),
    "zstd": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "boto3", "grpc", "jwt", "pytest"),
    "grpc": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "boto3", "jwt", "pytest"),
    "jwt": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "boto3", "grpc", "pytest"),
    "tracing": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "fastapi", "boto3", "jwt", "pytest"),
    "bench": ("pyarrow", "pandas", "ibis", "duckdb", "onnx", "sklearn", "pytest", "boto3"),
}
"""What each extra does not bring, so that its test proves something. "serve" is no extra at all."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of the working tree."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of a fresh venv with the wheel and what it depends on."""
    return install_wheel(wheel, tmp_path_factory.mktemp("venv"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the smokes start from."""
    folder = tmp_path_factory.mktemp("prepared")
    run(sys.executable, str(SMOKE / "prepare.py"), str(folder))
    return folder


def test_wheel_holds_types_and_license_and_no_tests(wheel: Path) -> None:
    """The wheel is the package with its marker for type checkers and its license, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "tailrace/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    rooms = {name.split("/")[0] for name in names}
    assert rooms == {"tailrace", f"tailrace-{tailrace.__version__}.dist-info"}
    assert not [name for name in names if "test_" in name or "__pycache__" in name]
    in_tree = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "tailrace").rglob("*.py")}
    assert in_tree <= set(names)
    assert {f"tailrace/runbooks/{path.name}" for path in (ROOT / "docs" / "runbooks").iterdir()} <= set(names)


def test_installed_wheel_is_what_is_imported(installed: Path) -> None:
    """The public names come from the wheel, each of them."""
    told = run(str(installed / "python"), "-c", "import tailrace; print(tailrace.__file__); "
               "print(*(name for name in tailrace.__all__ if hasattr(tailrace, name)))")  # fmt: skip
    place, names = told.splitlines()
    assert Path(place).is_relative_to(installed.parent)
    assert names.split() == tailrace.__all__


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    "module",
    ["tailrace.inference.backends.bitvector", "tailrace.inference.backends.forest", "tailrace.features.window_kernel"],
)
def test_installed_wheel_has_its_libraries(module: str, installed: Path) -> None:
    """What was compiled when it was built opens where it is installed."""
    program = f"import {module} as kernel; kernel.open_library(kernel.LIBRARY); print(kernel.LIBRARY)"
    assert Path(run(str(installed / "python"), "-c", program).strip()).is_relative_to(installed.parent)


def test_installed_command_line_works(installed: Path) -> None:
    """`tailrace` is on the path, tells its version, and lists its commands."""
    program = str(installed / "tailrace")
    assert run(program, "--version").strip() == f"tailrace {tailrace.__version__}"
    told = run(program, "--help")
    for command in ("check", "package", "materialize", "forget", "serve", "bench"):
        assert command in told


def test_extras_are_those_that_are_tried(wheel: Path) -> None:
    """No extra is declared and not tried; `dev`, which brings programs, by `make matrix`."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        declared = message_from_bytes(archive.read(metadata)).get_all("Provides-Extra", [])
    assert {"serve", *declared} == {*ALONE, "dev"}


@pytest.mark.slow
@pytest.mark.parametrize("extra", ALONE)
def test_extra_alone_does_what_it_is_for(extra: str, wheel: Path, prepared: Path, tmp_path: Path) -> None:
    """The smoke of an extra passes where nothing is installed but what the wheel says that it needs."""
    folder, venv = shutil.copytree(prepared, tmp_path / "work"), tmp_path / "venv"
    python = str(install_wheel(wheel, venv, "" if extra == "serve" else extra) / "python")
    told = run(python, "-c", f"import importlib.util as u; print([n for n in {ALONE[extra]} if u.find_spec(n)])")
    assert told.strip() == "[]"
    run(python, str(SMOKE / "smoke.py"), extra, str(folder))
