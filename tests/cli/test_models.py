"""`tailrace models`: what a person types, and what is printed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.model_graphs import linear
from programs import find_program
from tailrace.cli.main import app, main
from tailrace.cli.models.options import carried
from tailrace.errors import RegistryError
from tailrace.release.registry.notes import hold
from tailrace.release.registry.registry import file_key, open_registry, version_key

Run = Callable[..., str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two model directories of the same inputs, and one of others."""
    folder = tmp_path_factory.mktemp("models")
    linear(folder, "fraud", {"amount": 0.001})
    linear(folder, "later", {"amount": 0.002}, bias=-0.5)
    linear(folder, "other", {"price": 0.001})
    return folder


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the place of a registry, named in the environment as a person would."""
    monkeypatch.setenv("TAILRACE_REGISTRY", str(tmp_path / "registry"))
    return str(tmp_path / "registry")


@pytest.fixture
def run(url: str) -> Run:
    """Return what runs a command of `tailrace models` and returns what it prints; its error is raised."""

    def run_command(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["models", *map(str, words)], env={"COLUMNS": "100"})
        if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    return run_command


def told(run: Run, *words: object, code: int = 0) -> Any:
    """Return what a command prints as JSON."""
    return json.loads(run(*words, "--json", code=code))


def test_versions_are_registered_listed_and_shown(run: Run, models: Path, tmp_path: Path) -> None:
    """Numbers, aliases, lineage and metrics are where a person looks for them."""
    (tmp_path / "training.csv").write_text("amount\n1\n")
    assert run("register", models / "fraud", "--alias", "production").splitlines() == ["fraud@1"]
    words = (
        "--parent",
        "fraud@production",
        "--data",
        tmp_path / "training.csv",
        "--command",
        "make [bold]it :x:",
        "--code",
        "v2",
    )
    assert told(run, "register", models / "later", "--name", "fraud", *words)["number"] == 2
    shown = told(run, "show", "fraud@2")
    lineage = shown["lineage"]
    assert list(lineage["parents"]) == ["fraud@1"]
    assert lineage["parents"]["fraud@1"] == told(run, "show", "fraud@production")["digest"]
    assert len(lineage["data_sha256"]) == 64
    assert lineage["code"] == "v2"
    assert "make [bold]it :x:" in run("show", "fraud@2")
    assert "production → 1" in run("list")
    listed = told(run, "list", "fraud")
    assert [(each["number"], each["aliases"]) for each in listed] == [(2, []), (1, ["production"])]
    assert "production" in run("list", "fraud")


def test_commit_of_the_working_directory_is_noted(
    run: Run, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a repository the commit goes along, and that it has changes; elsewhere nothing does."""
    git = find_program("git", "git")
    (tmp_path / "code").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path / "code")
    run("register", models / "fraud")
    assert told(run, "show", "fraud@1")["lineage"]["code"] == ""
    (tmp_path / "code" / "train.py").write_text("")
    who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "a")):
        subprocess.run([git, *words], check=True, timeout=30)
    run("register", models / "fraud")
    assert len(told(run, "show", "fraud@2")["lineage"]["code"]) == 40
    (tmp_path / "code" / "train.py").write_text("1")
    run("register", models / "fraud")
    assert told(run, "show", "fraud@3")["lineage"]["code"].endswith("+changes")


def test_comparison_shows_metrics_and_scores(run: Run, models: Path) -> None:
    """Both models score the golden rows of both; a version compared with itself differs in nothing."""
    for name in ("fraud", "later"):
        run("register", models / name, "--name", "fraud")
    same = [told(run, "compare", version, version)["differences"] for version in ("fraud@1", "fraud@2")]
    assert [(each["max"], each["mean"], each["unscored"]) for each in same] == [(0.0, 0.0, 0)] * 2
    found = told(run, "compare", "fraud@1", "fraud@2")["differences"]
    assert 2 * found["rows"] == sum(each["rows"] for each in same)  # the golden rows of both
    assert found["max"] >= found["quantiles"][2] >= found["quantiles"][0] > 0
    assert "golden rows of both" in run("compare", "fraud@1", "fraud@2")


def test_versions_of_other_features_are_compared_by_metrics(run: Run, models: Path) -> None:
    """What cannot score the same rows is told, and is no error."""
    for name in ("fraud", "other"):
        run("register", models / name, "--name", "fraud")
    found = told(run, "compare", "fraud@1", "fraud@2")
    assert found["differences"] is None
    assert found["not_compared"] == "they take other features: only the first takes amount; only the second takes price"
    assert "are not compared" in run("compare", "fraud@1", "fraud@2")


def test_alias_and_tag_are_set_moved_and_removed(run: Run, models: Path) -> None:
    """Each says what it was."""
    for _ in range(2):
        run("register", models / "fraud")
    assert told(run, "alias", "fraud@staging", "1") == {
        "name": "fraud",
        "alias": "staging",
        "number": 1,
        "before": None,
    }
    assert run("alias", "fraud@staging", "2") == "fraud@staging is 2, it was 1\n"
    assert run("alias", "fraud@production", "fraud@staging") == "fraud@production is 2\n"
    assert run("alias", "fraud@staging", "--remove") == "fraud@staging is removed, it was 2\n"
    assert run("tag", "fraud@production", "reviewed-by", "risk") == "fraud@2: reviewed-by is risk\n"
    assert "risk" in run("show", "fraud@2")
    assert run("tag", "fraud@2", "reviewed-by", "--remove") == "fraud@2: reviewed-by is removed\n"
    for words in (
        ("fraud@3", "1"),
        ("fraud@x",),
        ("fraud@x", "1", "--remove"),
        ("fraud@x", "other@1"),
        ("../x@y", "1"),
    ):
        with pytest.raises(RegistryError):
            run("alias", *words)
    with pytest.raises(RegistryError, match="either"):
        run("tag", "fraud@2", "reviewed-by")


def test_held_version_is_not_deleted_and_the_rest_is_collected(run: Run, models: Path, url: str) -> None:
    """Deletion goes by number, refuses what an alias needs, and the files go with gc."""
    run("register", models / "fraud", "--alias", "production")
    run("register", models / "later", "--name", "fraud")
    with pytest.raises(RegistryError, match="held by the alias 'production'"):
        run("delete", "fraud@1")
    with pytest.raises(RegistryError, match="by number"):
        run("delete", "fraud@production")
    assert run("delete", "fraud@2") == "fraud@2 is deleted\n"
    assert run("gc").startswith("0 versions, 2 files (")
    assert "fraud@1 stays: the alias 'production'" in run("gc", "--keep", "0", "--older-than", "0s")
    with pytest.raises(RegistryError, match="may be silent"):
        run("gc", "--dead-after", "1m")
    assert len(open_registry(url).storage.find(file_key(""))) == 2


def test_damaged_version_is_found(run: Run, models: Path, url: str) -> None:
    """Verification names the file, ends with 1, and goes on with the others; a list says that a record is refused."""
    for _ in range(2):
        run("register", models / "fraud")
    assert run("verify") == "fraud@1: whole\nfraud@2: whole\n"
    storage = open_registry(url).storage
    sha256 = told(run, "show", "fraud@1")["files"]["model.onnx"]["sha256"]
    storage.write(file_key(sha256), b"?")
    assert [each["fault"].partition(":")[0] for each in told(run, "verify", code=1)] == ["model.onnx"] * 2
    storage.write(version_key("fraud", 1), b"?")
    assert "fraud@1: it was cut short or altered" in run("verify", "fraud@1", code=1)
    assert "fraud@1 is refused: it was cut short or altered" in run("list", "fraud")


def test_what_others_wrote_does_not_move_the_terminal(
    run: Run, models: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write to a registry writes into reports and errors: no escape comes through, no markup is read."""
    run("register", models / "fraud")
    registry = open_registry(url)
    hold(registry, "fraud", 1, hold_id="log", holder="\x1b[2J[bold]", why="kept", until_s=registry.now_s() + 600)
    shown = run("gc", "--keep", 0, "--older-than", "0s")
    assert "fraud@1 stays: ?[2J[bold] until" in shown
    monkeypatch.setattr(sys, "argv", ["tailrace", "models", "delete", "fraud@1", "--registry", url])
    with pytest.raises(SystemExit):
        main()
    assert "held by ?[2J[bold] until" in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    with carried("reading") as show:
        show("[/of no tag]", 1, 2)
    assert "[/of no tag]" in capsys.readouterr().err


def test_nothing_to_verify_is_told(run: Run, models: Path) -> None:
    """An empty registry, or one whose versions are gone, is not whole; unless it is said that it may be empty."""
    run("register", models / "fraud")
    run("delete", "fraud@1")
    assert run("verify", code=1) == "0 versions\n"
    assert told(run, "verify", code=1) == []
    assert run("verify", "--allow-empty") == "0 versions\n"
    assert told(run, "verify", "--allow-empty") == []


def test_alias_that_cannot_be_set_leaves_the_number_told(run: Run, models: Path, url: str) -> None:
    """The version is there, and its number is printed; then comes the error, which says how to go on."""
    blocked = Path(url, "models", "fraud", "aliases", "staging.json")
    blocked.mkdir(parents=True)  # in its place no alias can be written
    for number, words in ((1, ()), (2, ("--json",))):
        aliases = ("--alias", "staging", "--alias", "production")
        done = CliRunner().invoke(app, ["models", "register", str(models / "fraud"), *aliases, *words])
        assert isinstance(done.exception, RegistryError)
        assert f"fraud@{number}: the version is registered, but 'staging' does not name it" in str(done.exception)
        assert f"tailrace models alias fraud@staging {number}" in str(done.exception)
        assert done.stdout.splitlines()[0] == "fraud@1" if not words else json.loads(done.stdout)["number"] == 2
        assert told(run, "show", f"fraud@{number}")["aliases"] == ["production"]


def test_bad_object_stops_no_command(run: Run, models: Path, url: str) -> None:
    """A record or an alias of over 1 MiB is told as a fault where it lies, and the rest is listed and collected."""
    for _ in range(2):
        run("register", models / "fraud")
    storage = open_registry(url).storage
    storage.write(version_key("fraud", 1), bytes(2 << 20))
    storage.write("models/fraud/aliases/production.json", bytes(2 << 20))
    for words in (("list",), ("list", "fraud"), ("show", "fraud@2"), ("gc", "--keep", "1", "--older-than", "0s")):
        assert "fraud@production: it was cut short or altered: it has over 1048576 bytes" in run(*words)
    assert "fraud@1: it was cut short" in run("verify", code=1)
    assert run("alias", "fraud@production", "--remove") == "fraud@production is removed\n"
    run("delete", "fraud@1")
    assert run("gc").startswith("0 versions, 0 files")


def test_fetched_directory_is_the_registered_one(run: Run, models: Path, tmp_path: Path) -> None:
    """A fetch writes the files, and replaces a directory only where it is told to."""
    run("register", models / "fraud")
    out = tmp_path / "out"
    run("fetch", "fraud@1", "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (models / "fraud").iterdir()
    }
    with pytest.raises(RegistryError, match="exists"):
        run("fetch", "fraud@1", "--out", out)
    shutil.rmtree(out)
    assert told(run, "fetch", "fraud@1", "--out", out, "--overwrite")["version"] == "fraud@1"


def test_absent_registry_and_model_are_told(run: Run, models: Path) -> None:
    """An empty list would say that all is well."""
    with pytest.raises(RegistryError, match="there is no registry"):
        run("list")
    run("register", models / "fraud")
    with pytest.raises(RegistryError, match="no model 'pay'"):
        run("list", "pay")
    with pytest.raises(RegistryError, match="names no version"):
        run("show", "fraud")


def test_registry_must_be_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the flag and the variable the command line cannot be read."""
    monkeypatch.delenv("TAILRACE_REGISTRY")
    assert "TAILRACE_REGISTRY" in run("list", code=2)
