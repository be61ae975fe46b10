"""The version of Tailrace. A package index reads the same from pyproject.toml (tests/test_wheel.py)."""

from typing import Final

VERSION: Final = "0.1.0"
