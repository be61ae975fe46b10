"""The process that fetches a version for a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import RegistryError
from tailrace.release.registry.child import fetch_for_release


def test_modules_of_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is started in a folder of a stranger's runs none of its modules when it fetches."""
    for name in ("tailrace", "hashlib", "msgspec"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=r"no registry|is no|there is"):
        fetch_for_release("fraud@1", str(tmp_path / "absent"), (), tmp_path / "out", "here")
    assert not (tmp_path / "ran").exists()
