"""The wheel: what is built installs into a fresh venv, holds all that it should, and works from there."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Iterable
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
    """Return the folder of programs of a fresh venv with the wheel and what it depends on, borrowed from ours."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (library,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", f"--python={folder / 'bin' / 'python'}", "install", "--quiet", "--no-deps",
        "--no-index", "--disable-pip-version-check", str(wheel))  # fmt: skip
    (metadata,) = library.glob("tailrace-*.dist-info/METADATA")
    borrow(message_from_string(metadata.read_text()).get_all("Requires-Dist") or (), library)
    return folder / "bin"


def borrow(requirements: Iterable[str], library: Path) -> None:
    """Link what is required, and what that requires, into a library; nothing of an extra that is not asked for."""
    wanted, seen = [Requirement(each) for each in requirements], set()
    wanted = [each for each in wanted if is_needed(each, [""])]
    while wanted:
        requirement = wanted.pop()
        extras = ["", *requirement.extras]
        if (key := (requirement.name.lower(), *extras)) in seen:
            continue
        seen.add(key)
        found = distribution(requirement.name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (library / top).exists():
                (library / top).symlink_to(str(found.locate_file(top)))
        wanted += [each for text in found.requires or () if is_needed(each := Requirement(text), extras)]


def is_needed(requirement: Requirement, extras: list[str]) -> bool:
    """Say whether a requirement holds here, with these extras."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


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
    for command in ("check", "package", "materialize", "forget", "serve", "bench"):
        assert command in told


def test_installed_wheel_has_no_extra(installed: Path) -> None:
    """What the fresh venv lacks is what only extras bring, so that the tests beside this one prove something."""
    extras = ["pyarrow", "ibis", "duckdb", "onnx", "sklearn", "lightgbm", "xgboost", "fastapi", "hypothesis", "pytest"]
    told = run(str(installed / "python"), "-c", "import importlib.util as u; "
               f"print([name for name in {extras} if u.find_spec(name)])")  # fmt: skip
    assert told.strip() == "[]"


def test_installed_wheel_serves_without_extras(installed: Path, pipelines_dir: Path) -> None:
    """With the core dependencies alone a pipeline is checked, served, asked, watched, loaded and stopped."""
    file = str(pipelines_dir / "log.py")
    assert "log" in run(str(installed / "tailrace"), "check", file)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(installed / "tailrace"), "serve", file, "--port", "0", "--admin-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, cwd="/") as server:
        try:
            assert server.stderr is not None
            ready = next(event for line in server.stderr if (event := json.loads(line))["event"] == "ready")
            url = f"{ready['address']}/v1/pipelines/log/predict"
            with urllib.request.urlopen(url, b'{"amount": 1.0}', timeout=10) as answer:
                assert json.load(answer)["score"] == 0.0
            with urllib.request.urlopen(f"{ready['admin']}/metrics", timeout=10) as answer:
                assert b"tailrace_requests_total" in answer.read()
            load = ("--rate", "50", "--duration", "1s", "--data", '{"amount": 1.0}', "--budget", "60s", "--json")
            assert json.loads(run(str(installed / "tailrace"), "bench", url, *load))["statuses"] == {"200": 50}
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            server.kill()
