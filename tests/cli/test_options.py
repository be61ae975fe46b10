"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from tailrace.cli.main import app


def options_of(command: Any, flag: str) -> Iterator[tuple[str | None, str | None]]:
    """Give the help and the environment variable of a flag in each command that has it."""
    for found in getattr(command, "commands", {}).values():
        yield from options_of(found, flag)
    yield from ((each.help, each.envvar) for each in command.params if flag in each.opts)


@pytest.mark.parametrize("flag", ["--trusted-key", "--sign-key"])
def test_option_says_the_same_in_each_command(flag: str) -> None:
    """Whoever has read it in one command knows it in all."""
    found = list(options_of(typer.main.get_command(app), flag))
    assert len(found) > 1
    assert len(set(found)) == 1


def test_variable_of_keys_that_is_empty_is_an_error(tmp_path: Path) -> None:
    """A secret that was not mounted switches no signatures off: neither of who serves nor of who registers."""
    registry = ("--registry", str(tmp_path / "registry"))
    for name, words in {
        "TAILRACE_TRUSTED_KEYS": [
            ("models", "list", *registry), ("check", "pipeline.py"), ("serve", "pipeline.py", "--port", "0"),
        ],
        "TAILRACE_SIGN_KEY": [("models", "register", str(tmp_path), *registry)],
    }.items():  # fmt: skip
        for command in words:
            done = CliRunner().invoke(app, command, env={name: ""})
            assert f"{name} is set and empty" in str(done.exception) + done.output, command
