"""`tailrace keys`: a key is shown once, and its file holds what a server needs of it, whole at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tailrace.cli.main import app
from tailrace.errors import SetupError
from tailrace.server import key_file
from tailrace.server.key_file import changing, make_key, read_keys


def run(*arguments: str, **env: str) -> Result:
    """Run a command of `tailrace keys`."""
    return CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "140", "TAILRACE_KEYS": "", **env})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the keys shall be."""
    return tmp_path / "keys.json"


def test_key_is_shown_once_and_its_digest_is_kept(file: Path) -> None:
    """Standard output is the key alone; the file has its SHA-256, its scopes and its times, and is its owner's."""
    made = run("create", "web", "--pipeline", "fraud", "--stream", "*", "--expires", "90d", "--keys", str(file))
    assert made.exit_code == 0
    secret = made.stdout.strip()
    [key] = read_keys(file)
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert (key.name, key.scopes) == ("web", ("pipelines/fraud", "streams/*"))
    assert key.expires is not None
    assert (key.expires - key.created).days in (89, 90)
    assert key.id in made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = [
        made.stderr,
        file.read_text(),
        *(run("list", "--keys", str(file), *more).stdout for more in ((), ("--json",))),
    ]
    assert not any(secret[16:] in text for text in shown)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_file_stays_whose_it_was(file: Path) -> None:
    """Root revokes a key of a server that runs as another user, which must still be able to read the file."""
    run("create", "web", "--pipeline", "*", "--keys", str(file))
    os.chown(file, 12_345, 23_456)
    file.chmod(0o640)
    assert run("revoke", "web", "--keys", str(file)).exit_code == 0
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12_345, 23_456, 0o640)


def test_certificate_stands_in_place_of_a_key(file: Path) -> None:
    """No secret is made; it is listed by its name, and revoked as a key is."""
    made = run("create", "checkout", "--pipeline", "fraud", "--certificate", "DNS:a.internal", "--keys", str(file))
    assert made.exit_code == 0
    assert "tr_" not in made.stdout + made.stderr
    [row] = json.loads(run("list", "--keys", str(file), "--json").stdout)
    assert (row["certificate"], row["state"]) == ("DNS:a.internal", "active")
    assert run("revoke", "checkout", "--keys", str(file)).exit_code == 0
    assert read_keys(file)[0].revoked is not None


def test_key_is_revoked_by_its_name_or_id(file: Path) -> None:
    """A revoked key stays in the list; a name that two have needs the id, and nothing is revoked twice."""
    names = ["web", "app", "app"]
    for name in names:
        assert run("create", name, "--pipeline", "*", TAILRACE_KEYS=str(file)).exit_code == 0
    ids = [key.id for key in read_keys(file)]
    assert run("revoke", "web", "--keys", str(file)).exit_code == 0
    for wanted, told in (("web", "no such key"), ("app", f"{ids[1]}, {ids[2]}"), ("nobody", "no such key")):
        error = run("revoke", wanted, "--keys", str(file)).exception
        assert isinstance(error, SetupError)
        assert told in str(error)
    assert run("revoke", ids[1], "--keys", str(file)).exit_code == 0
    rows = json.loads(run("list", "--keys", str(file), "--json").stdout)
    assert [(row["id"], row["state"]) for row in rows] == [(ids[0], "revoked"), (ids[1], "revoked"), (ids[2], "active")]
    table = run("list", "--keys", str(file)).stdout
    assert all(number in table for number in ids)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["web"], "scopes"),
        (["we b", "--pipeline", "a"], "no name"),
        (["web", "--pipeline", "a/b"], "no scope"),
        (["web", "--stream", ""], "no scope"),
        (["web", "--pipeline", "a\n"], "no scope"),
        (["web", "--pipeline", "a", "--expires", "soon"], "--expires"),
        (["web", "--pipeline", "a", "--expires", "9000000d"], "calendar"),
        (["web", *(["--pipeline", "a"] * 65)], "scopes"),
    ],
)
def test_key_that_cannot_be_is_refused(file: Path, arguments: list[str], told: str) -> None:
    """A name, a scope or a time that no key has is an error, and no file is made."""
    error = run("create", *arguments, "--keys", str(file)).exception
    assert isinstance(error, SetupError)
    assert told in str(error)
    assert not file.exists()


def test_variable_that_is_empty_is_refused(file: Path) -> None:
    """A secret that was not mounted must not open a server: `serve` says so before anything else."""
    done = CliRunner().invoke(app, ["serve", str(file)], env={"TAILRACE_KEYS": ""})
    assert isinstance(done.exception, SetupError)
    assert "TAILRACE_KEYS is set and empty" in str(done.exception)


def test_server_with_a_file_that_holds_no_keys_does_not_start(file: Path) -> None:
    """It is told before anything is pinned, by the file's name and nothing of what is in it."""
    file.write_text('{"version": 1, "keys": [{"id": "a secret"}]}')
    done = CliRunner().invoke(app, ["serve", "absent.py", "--keys", str(file)])
    assert isinstance(done.exception, SetupError)
    assert str(file) in str(done.exception)
    assert "a secret" not in str(done.exception)


def test_keys_made_at_once_are_all_there(file: Path) -> None:
    """Writers wait for each other, and who reads meanwhile finds a whole file."""
    with changing(file, create=True):
        pass

    def make(number: int) -> int:
        with changing(file, create=True) as known:
            known.append(make_key(f"k{number}", ["pipelines/*"])[1])
        return len(read_keys(file))

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(make, range(24))) == 24
    assert {key.name for key in read_keys(file)} == {f"k{number}" for number in range(24)}


def test_write_that_fails_leaves_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, or an error while keys are changed, leaves what was there; so does a mode, or a link."""
    with changing(file, create=True) as known:
        known.append(make_key("first", ["pipelines/*"])[1])
    file.chmod(0o640)
    link = file.with_name("link.json")
    link.symlink_to(file)
    kept = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(key_file, "flush", lambda path: os.stat(path / "x"))
        with pytest.raises(SetupError, match="cannot be written"), changing(link) as known:
            known.clear()
    with pytest.raises(ZeroDivisionError), changing(link) as known:
        known[0] = known[1 // 0]
    with pytest.raises(SetupError, match="10000 keys at most"), changing(link) as known:
        known.extend(known * 10_000)
    assert file.read_bytes() == kept
    with changing(link) as known:
        known.append(make_key("second", ["pipelines/*"])[1])
    assert link.is_symlink()
    assert len(read_keys(file)) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
