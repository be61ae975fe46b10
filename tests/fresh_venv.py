"""A fresh venv with this project's wheel and what it depends on, borrowed from the tests' own: no index is asked."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BUILD_S_MAX = 110.0


def build_wheel(folder: Path) -> Path:
    """Build a wheel of the working tree. Without isolation where the build's own packages are here already."""
    here = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *here, "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def clean_environment() -> dict[str, str]:
    """Return our environment with nothing in it that Python reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str) -> str:
    """Return what a command prints, with nothing of this checkout on its path."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_S_MAX, env=clean_environment(), cwd="/", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install_wheel(wheel: Path, folder: Path, extra: str = "") -> Path:
    """Make a venv with a wheel, and what it and one extra depend on; return the folder of its programs."""
    venv.create(folder, with_pip=False, symlinks=True)
    (library,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", f"--python={folder / 'bin' / 'python'}", "install", "--quiet", "--no-deps",
        "--no-index", "--disable-pip-version-check", str(wheel))  # fmt: skip
    (metadata,) = library.glob("tailrace-*.dist-info/METADATA")
    borrow(message_from_string(metadata.read_text()).get_all("Requires-Dist") or (), library, extra)
    return folder / "bin"


def borrow(requirements: Iterable[str], library: Path, extra: str) -> None:
    """Link what is required, and what that requires, into a library; nothing of an extra that is not asked for."""
    wanted, seen = [Requirement(each) for each in requirements], set()
    wanted = [each for each in wanted if is_needed(each, ["", extra])]
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
