"""Programs that tests need and pip does not bring."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def find_program(name: str, package: str) -> str:
    """Return the path of a program, where root's PATH finds it too. Without it the test is skipped; in CI it fails."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        do_without(f"{name} is missing: apt-get install {package}")
    return found


def do_without(missing: str) -> NoReturn:
    """Skip the test for what is missing; in CI it fails."""
    pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
