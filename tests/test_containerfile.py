"""The image's promises, read from its Containerfile: no root, nothing unlocked, from the wheel, healthy when ready."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tailrace.cli.main import app
from tailrace.loadtest.processes import free_port
from tailrace.server.options import ServeOptions

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile: word and rest, without comments, lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    """Return the instructions of what is shipped."""
    lines = instructions()
    return lines[max(place for place, (word, _) in enumerate(lines) if word == "FROM") :]


def told(word: str) -> str:
    """Return the rest of the one instruction of this word in what is shipped."""
    (rest,) = (rest for each, rest in last_stage() if each == word)
    return rest


def locked() -> dict[str, str]:
    """Return the version that requirements.lock names of each package."""
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z]+\])?==([^ ;\\]+)", LOCK, re.MULTILINE))


def test_every_base_names_its_version() -> None:
    """No stage starts from `latest`, spoken or not."""
    (python,) = (rest for word, rest in instructions() if word == "ARG")
    name, version = python.split("=")
    assert name == "PYTHON"
    assert re.fullmatch(r"3\.\d+-slim-[a-z]+", version)
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert bases == ["docker.io/library/python:${PYTHON}"] * 2


def test_what_is_shipped_runs_as_no_root() -> None:
    """The user is a number that is not 0, which a cluster can check, and nothing follows that is root's."""
    user, group = told("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    words = [word for word, _ in last_stage()]
    assert "RUN" not in words[words.index("USER") :]


def test_everything_is_installed_by_hash_or_from_the_wheel() -> None:
    """All that pip installs is what the lock names, with hashes demanded, and the wheel, without an index."""
    calls = [
        shlex.split(call)
        for word, rest in instructions()
        if word == "RUN"
        for call in rest.split("&&")
        if "pip install" in call
    ]
    by_lock, by_wheel = calls
    assert {"--require-hashes", "--only-binary", "/install/requirements.lock"} <= set(by_lock)
    assert {"--no-index", "--no-deps", "/install/*.whl"} <= set(by_wheel)
    assert "apt-get" not in (ROOT / "Containerfile").read_text()


def test_lock_holds_all_that_the_server_needs() -> None:
    """Every package that tailrace needs, and what that needs, is locked at a version that the bounds take, by hash."""
    versions, seen = locked(), set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    while wanted:
        requirement = wanted.pop()
        name, extras = re.sub(r"[-_.]+", "-", requirement.name.lower()), ["", *requirement.extras]
        if name in seen:
            continue
        seen.add(name)
        assert requirement.specifier.contains(versions[name]), f"{name}: run `make lock`"
        needs = [Requirement(text) for text in distribution(name).requires or ()]
        wanted += [each for each in needs if not each.marker or any(each.marker.evaluate({"extra": e}) for e in extras)]
    assert "hiredis" in seen
    blocks = re.split(r"\n(?=[a-z])", LOCK)
    assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))
    assert "://" not in LOCK


def test_command_is_one_that_the_command_line_takes() -> None:
    """The image serves on all addresses, and SIGTERM reaches the supervisor itself."""
    import typer.main

    program, command = json.loads(told("ENTRYPOINT")), json.loads(told("CMD"))
    assert program == ["tailrace"]
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = serve.make_context("serve", command[1:]).params
    assert command[0] == "serve"
    assert (given["host"], str(given["port"])) == ("0.0.0.0", told("EXPOSE"))
    assert given["no_auth"]
    ServeOptions(files=("pipeline.py",), host=given["host"], no_auth=given["no_auth"])


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_health_is_readiness(status: int | None, code: int) -> None:
    """The check of health ends with 0 where /readyz answers 200, with 1 where it answers 503, or nobody does."""
    health = told("HEALTHCHECK")
    check = json.loads(health[health.index("CMD") + 3 :])
    asked: list[str] = []

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status or 0)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    port = free_port()
    check = [sys.executable, *(word.replace(":8080", f":{port}") for word in check[1:])]
    if status is None:
        assert subprocess.run(check, capture_output=True, timeout=20, check=False).returncode == code
        return
    with HTTPServer(("127.0.0.1", port), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert subprocess.run(check, capture_output=True, timeout=20, check=False).returncode == code
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/readyz"]
