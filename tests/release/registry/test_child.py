"""The process that fetches a version for a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import RegistryError
from tailrace.release.registry.child import HoldRenewal, _fetch, _renew, _Wanted, fetch_for_release
from tailrace.release.registry.notes import let_go
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import open_registry


def test_modules_of_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is started in a folder of a stranger's runs none of its modules when it fetches."""
    for name in ("tailrace", "hashlib", "msgspec"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=r"no registry|is no|there is"):
        fetch_for_release("fraud@1", str(tmp_path / "absent"), (), tmp_path / "out", "here")
    assert not (tmp_path / "ran").exists()


def test_hold_in_a_bucket_is_renewed_where_it_was_made(s3_url: str, model: Path, tmp_path: Path) -> None:
    """A release keeps the bucket's region and endpoint: without them another server would be asked, or none."""
    registry = open_registry(s3_url, create=True)
    register(registry, model, "fraud")
    (tmp_path / "out").mkdir()
    fetched = _fetch(_Wanted(s3_url, "fraud@1", (), str(tmp_path / "out"), "/kept"))
    ((hold_id, _),) = registry.holds("fraud", 1).items()
    let_go(registry, "fraud", 1, hold_id)
    _renew(HoldRenewal(fetched.url, fetched.reference, (), "/kept"))
    assert list(registry.holds("fraud", 1)) == [hold_id]
