"""A Python with PySpark, where a session of Spark's lives: the tests' own, or that of a venv with the extra in it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import find_program

ROOT = Path(__file__).parents[2]
INSTALL_S_MAX = 400.0


def find_spark_python(folder: Path) -> Path:
    """Return it; the venv is made in the folder. Without Java, or where it cannot be installed, the test is skipped."""
    find_program("java", "openjdk-17-jre-headless")
    if importlib.util.find_spec("pyspark") is not None:
        return Path(sys.executable)
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: it makes the venv that Spark lives in")
    python = folder / "bin" / "python"
    try:
        _uv("venv", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(python), "-r", str(ROOT / "pyproject.toml"), "--extra", "spark")
    except subprocess.SubprocessError as error:
        pytest.skip(f"Spark cannot be installed here: {error}")
    return python


def _uv(*command: str) -> None:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *command], check=True, timeout=INSTALL_S_MAX, env=settings)
