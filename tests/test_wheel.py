"""The wheel: what is built installs into a fresh venv, holds all that it should, and works from there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import tailrace

ROOT = Path(__file__).parents[1]
BUILD_S_MAX = 110.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of the working tree. Without isolation where the build's own packages are here already."""
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *here, "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def run(*command: str) -> str:
    """Return what a command prints, with nothing of this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of a fresh venv with the wheel; its dependencies are borrowed from ours."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (library,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", f"--python={folder / 'bin' / 'python'}", "install", "--quiet", "--no-deps",
        "--no-index", "--disable-pip-version-check", str(wheel))  # fmt: skip
    # As a path alone, whose own .pth files are not read: the editable install there stays out of sight.
    (library / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


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


def test_installed_wheel_is_what_is_imported(installed: Path) -> None:
    """The public names come from the wheel, each of them."""
    told = run(str(installed / "python"), "-c", "import tailrace; print(tailrace.__file__); "
               "print(*(name for name in tailrace.__all__ if hasattr(tailrace, name)))")  # fmt: skip
    place, names = told.splitlines()
    assert Path(place).is_relative_to(installed.parent)
    assert names.split() == tailrace.__all__


def test_installed_command_line_works(installed: Path) -> None:
    """`tailrace` is on the path, tells its version, and lists its commands."""
    program = str(installed / "tailrace")
    assert run(program, "--version").strip() == f"tailrace {tailrace.__version__}"
    told = run(program, "--help")
    for command in ("check", "package", "materialize", "serve", "bench"):
        assert command in told
