"""A signature vouches for a version's content, name and number; with a trusted key nothing else is taken."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from programs import find_program
from tailrace.cli.main import app
from tailrace.errors import RegistryError
from tailrace.release.registry.envelope import Signer, Trust, seal
from tailrace.release.registry.records import encode
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import Registry, open_registry, version_key

pytest.importorskip("cryptography")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return an empty registry."""
    return open_registry(str(tmp_path / "registry"), create=True)


def trusting(registry: Registry, *keys: Path) -> Registry:
    """Return the registry for one who trusts keys."""
    return Registry(registry.storage, Trust.read(keys))


def test_version_that_a_trusted_key_signed_is_taken(registry: Registry, model: Path, keys: Path) -> None:
    """With that key among the trusted ones the version is read, and says who signed it."""
    signer = Signer.read(keys / "sign.pem")
    register(registry, model, "fraud", signer=signer)
    found = trusting(registry, keys / "other-trusted.pem", keys / "trusted.pem").version("fraud", 1)
    assert found.key_id == signer.key_id
    careless = registry.version("fraud", 1)
    assert (careless.key_id, careless.claimed_id) == ("", signer.key_id)


def test_version_without_a_good_signature_is_refused(registry: Registry, model: Path, keys: Path) -> None:
    """Unsigned, or signed by another: refused where a key is trusted, listed with the reason, taken where none is."""
    register(registry, model, "fraud")
    register(registry, model, "fraud", signer=Signer.read(keys / "other-sign.pem"))
    careful = trusting(registry, keys / "trusted.pem")
    with pytest.raises(RegistryError, match="it is not signed, and a trusted key is required"):
        careful.version("fraud", 1)
    with pytest.raises(RegistryError, match="no trusted key has signed it"):
        careful.version("fraud", 2)
    assert [(each.version, bool(each.fault)) for each in careful.versions("fraud")] == [(None, True)] * 2
    assert registry.version("fraud", 1).key_id == ""


def test_record_altered_under_its_signature_is_refused(registry: Registry, model: Path, keys: Path) -> None:
    """Another's record with the signature of a good one is not taken: neither altered, nor under another number."""
    record = register(registry, model, "fraud", signer=Signer.read(keys / "sign.pem")).record
    key = version_key("fraud", 1)
    signed = msgspec.json.decode(registry.storage.read(key))
    forged = msgspec.json.decode(seal(encode(msgspec.structs.replace(record, metrics={"auc": 1.0})), None))
    registry.storage.write(key, msgspec.json.encode(forged | {"signatures": signed["signatures"]}))
    careful = trusting(registry, keys / "trusted.pem")
    with pytest.raises(RegistryError, match="no trusted key has signed it as it is"):
        careful.version("fraud", 1)
    registry.storage.write(version_key("fraud", 2), msgspec.json.encode(signed))
    with pytest.raises(RegistryError, match="it is the record of fraud@1"):
        careful.version("fraud", 2)


def test_signature_is_shown_as_a_claim_unless_a_trusted_key_verified_it(
    registry: Registry, model: Path, keys: Path
) -> None:
    """Anyone who may write can name the key of another: only with the key given does a list say who signed."""
    signer = Signer.read(keys / "sign.pem")
    register(registry, model, "fraud", signer=signer)
    key = version_key("fraud", 1)
    signed = msgspec.json.decode(registry.storage.read(key))
    forged = signed | {"signatures": [{"keyid": signer.key_id, "sig": "AAAA"}]}
    registry.storage.write(key, msgspec.json.encode(forged))

    def told(*words: str) -> str:
        return CliRunner().invoke(app, ["models", *words, "--registry", registry.url]).output

    for words in (("list", "fraud"), ("show", "fraud@1")):
        assert signer.key_id[:8] in told(*words)
        assert "claimed" in told(*words)
    shown = json.loads(told("show", "fraud@1", "--json"))
    assert (shown["signed_by"], shown["signed_by_claimed"]) == ("", signer.key_id)
    registry.storage.write(key, msgspec.json.encode(signed))
    trusted = ("show", "fraud@1", "--trusted-key", str(keys / "trusted.pem"))
    assert "claimed" not in told(*trusted)
    assert json.loads(told(*trusted, "--json"))["signed_by"] == signer.key_id


def test_key_that_is_none_is_refused(keys: Path) -> None:
    """The error says how keys are made, and shows nothing of the file."""
    for path in (keys / "trusted.pem", keys / "absent.pem"):
        with pytest.raises(RegistryError):
            Signer.read(path)
    for path in (keys / "sign.pem", keys / "absent.pem"):
        with pytest.raises(RegistryError) as caught:
            Trust.read([path])
        assert "PRIVATE" not in str(caught.value)
    openssl = find_program("openssl", "openssl")
    subprocess.run([openssl, "genpkey", "-algorithm", "x25519", "-out", keys / "x.pem"], check=True, timeout=30)
    with pytest.raises(RegistryError, match="no private key of Ed25519"):
        Signer.read(keys / "x.pem")
