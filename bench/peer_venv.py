"""A venv of its own for what is compared with, which wants other versions than Tailrace: made once, under build/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

INSTALL_S_MAX: Final = 300.0


class NoPeerError(Exception):
    """A peer cannot be installed here: what compares with it is left out."""


def make_venv(folder: Path, *requirements: str) -> Path:
    """Return the Python of a venv with some packages in it, made where it is not there yet. Raises NoPeerError."""
    python, stamp = folder / "bin" / "python", folder / ".requirement"
    if stamp.is_file() and stamp.read_text() == " ".join(requirements):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--python", str(python), *requirements],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_S_MAX, env=clean_environment()
            )
        except subprocess.TimeoutExpired:
            raise NoPeerError(f"it takes over {INSTALL_S_MAX:.0f} s") from None
        if done.returncode:  # uv is missing, or no index answers
            raise NoPeerError(done.stderr.strip()[-300:])
    stamp.write_text(" ".join(requirements))
    return python


def clean_environment() -> dict[str, str]:
    """Return our environment with nothing in it that Python reads, and Feast's counting of its users off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"FEAST_USAGE": "False"}
