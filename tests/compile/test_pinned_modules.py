"""Modules read from a copy: which of those that a process has loaded are of the release."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tailrace.compile.pinned_modules import PinnedFolder, read_from_copy, unpinned_modules

COMPILED = "xxlimited"
"""An example that comes with Python, compiled; nothing imports it."""


def test_compiled_module_of_a_copy_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded from the copy, which is its `__file__`; one beside it that is not pinned is told."""
    spec = importlib.util.find_spec(COMPILED)
    if spec is None or spec.origin is None:
        pytest.skip(f"this Python has no {COMPILED}")
    folders = PinnedFolder(tmp_path / "original", tmp_path / "copy")
    for folder in folders:
        folder.mkdir()
        shutil.copy(spec.origin, folder)
    (folders.original / "unpinned_neighbour.py").write_text("")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.syspath_prepend(folders.original)
    read_from_copy(folders)
    before = unpinned_modules()
    try:
        compiled = importlib.import_module(COMPILED)
        importlib.import_module("unpinned_neighbour")
        assert compiled.__file__ == str(folders.copy / Path(spec.origin).name)
        assert set(unpinned_modules()) - set(before) == {"unpinned_neighbour"}
    finally:
        for name in (COMPILED, "unpinned_neighbour"):
            sys.modules.pop(name, None)
