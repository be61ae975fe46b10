"""A registry of each kind, empty: in a directory, in S3 as moto's server plays it, and in fsspec's own memory."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.model_graphs import linear
from programs import find_program
from release.registry.s3_server import BUCKET, KEYS, S3Server

KINDS = ("folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("memory", "s3")))
"""The others have a test of their own among the quick ones."""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Yield where an S3 listens that has a bucket, started once."""
    server = S3Server()
    try:
        server.start()
        yield server.endpoint
    finally:
        server.kill()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty prefix in the bucket, with keys for it in the environment."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}?region=eu-west-1&endpoint={s3_endpoint}"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty place of each kind."""
    if request.param == "folder":
        return str(tmp_path / "registry")
    if request.param == "s3":
        found: str = request.getfixturevalue("s3_url")
        return found
    pytest.importorskip("fsspec")
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two model directories, `one` and `two`, of the same inputs; a test leaves them whole."""
    folder = tmp_path_factory.mktemp("packaged")
    linear(folder, "one", {"amount": 0.001})
    linear(folder, "two", {"amount": 0.002}, bias=-0.5)
    return folder


@pytest.fixture
def model(packaged: Path, tmp_path: Path) -> Path:
    """Return a model directory of the test's own."""
    return shutil.copytree(packaged / "one", tmp_path / "model")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder with two pairs of keys, made as the how-to says: sign.pem, trusted.pem, and other-*.pem."""
    openssl = find_program("openssl", "openssl")
    for prefix in ("", "other-"):
        private, public = tmp_path / f"{prefix}sign.pem", tmp_path / f"{prefix}trusted.pem"
        subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", private], check=True, timeout=30)
        subprocess.run([openssl, "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=30)
    return tmp_path
