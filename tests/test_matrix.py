"""`make matrix`: which cells there are, what is kept of them, and what a cell that fails or cannot run becomes."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from threading import Barrier

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "platforms.md"
sys.path.insert(0, str(ROOT / "tools"))

import matrix  # noqa: E402 - the path comes first
from matrix import Cell, Result  # noqa: E402

SERVE = Cell("3.11", "lowest", "serve")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep results, logs and the page in the test's folder."""
    monkeypatch.setattr(matrix, "BUILD", tmp_path / "matrix")
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "platforms.md")
    (tmp_path / "platforms.md").write_text("before\n<!-- matrix -->\nold\n<!-- end -->\nafter\n")


def test_cells_are_every_combination() -> None:
    """Each Python meets the lowest and the newest, with each extra; the suite runs once a Python."""
    names = [cell.name for cell in matrix.cells()]
    assert len(set(names)) == len(names) == 3 * 2 * 20 + 3
    assert [name for name in names if name.endswith("suite")] == [
        "3.11-lowest-suite", "3.12-newest-suite", "3.13-newest-suite",
    ]  # fmt: skip
    assert set(matrix.short_cells()) <= set(names)


def test_short_form_takes_the_newest_python_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last Python is missing, the newest versions are tried on the one before it."""
    monkeypatch.setattr(matrix, "find_python", lambda version: None if version == "3.13" else Path(version))
    assert {name[:11] for name in matrix.short_cells()} == {"3.11-lowest", "3.12-newest"}


def test_cell_without_its_python_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Python that is not here is said to be so, and is no failure."""
    monkeypatch.setattr(matrix, "find_python", lambda version: None)
    assert matrix.try_cell(SERVE, "key", "2026-01-01", tmp_path, tmp_path) == Result("absent", "key", "2026-01-01")


def test_cell_that_fails_leaves_its_log_and_no_venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command that fails makes its cell fail, with what it said in the log."""
    monkeypatch.setattr(matrix, "find_python", lambda version: Path("/bin/sh"))
    monkeypatch.setattr(matrix, "UV", Path("/bin/ls"))
    assert matrix.try_cell(SERVE, "key", "2026-01-01", tmp_path, tmp_path).status == "failed"
    assert "venv --quiet" in (matrix.BUILD / f"{SERVE.name}.log").read_text()
    assert not (matrix.BUILD / SERVE.name).exists()


def test_run_goes_on_where_it_was_cut_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What passed is not tried again; what failed, or was of another wheel or day, is; the page has all of it."""
    tried: list[str] = []
    fails = {"3.12-lowest-serve"}

    def try_cell(cell: Cell, key: str, today: str, *_: Path) -> Result:
        tried.append(cell.name)
        return Result(
            "failed" if cell.name in fails else "passed", key, today, 1.0, f"{cell.python}.7", {"numpy": "2.1.0"}
        )

    monkeypatch.setattr(matrix, "try_cell", try_cell)
    monkeypatch.setattr(matrix, "prepare", lambda: (Path(), Path()))
    assert matrix.main(["--only", "3.1[12]-*-serve"]) == 1
    assert sorted(tried) == ["3.11-lowest-serve", "3.11-newest-serve", "3.12-lowest-serve", "3.12-newest-serve"]
    tried.clear()
    fails.clear()
    assert matrix.main(["--only", "3.1[12]-*-serve"]) == 0
    assert tried == ["3.12-lowest-serve"]
    tried.clear()
    monkeypatch.setattr(matrix, "key_of", lambda cell, today: "another")
    assert matrix.main(["--only", "3.11-lowest-serve"]) == 0
    assert tried == ["3.11-lowest-serve"]
    page = matrix.PAGE.read_text()
    assert page.startswith("before\n<!-- matrix -->\nRun 20")
    assert page.endswith("<!-- end -->\nafter\n")
    assert "| 3.11.7 | lowest | ✓ |  |" in page
    assert "| numpy | 2.1.0 |" in page
    assert "3.12-lowest-serve" in json.loads(matrix.RESULTS.read_text())["cells"]
    assert "3.11-lowest-serve" in capsys.readouterr().out


def test_smokes_run_at_once_and_a_suite_alone() -> None:
    """Two smokes are under way together; a suite, whose tests take times, begins when they have ended."""
    together, under_way, order = Barrier(matrix.SMOKES_AT_ONCE), set[str](), []

    def attempt(cell: Cell) -> Result:
        under_way.add(cell.name)
        if cell.extra == matrix.SUITE:
            assert under_way == {cell.name}
        else:
            together.wait(20)
        order.append(cell.extra)
        under_way.discard(cell.name)
        return Result("passed", cell.name)

    left = [Cell("3.11", "lowest", extra) for extra in ("serve", matrix.SUITE, "offline")]
    ended = dict(matrix.try_all(left, attempt))
    assert {cell: result.key for cell, result in ended.items()} == {cell: cell.name for cell in left}
    assert order[-1] == matrix.SUITE


def test_page_keeps_the_cells_that_were_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build folder that knows nothing of them is no reason to forget them, nor the versions that were tried there."""
    matrix.PAGE.write_text("""
<!-- matrix -->
Run 2026-01-02 to 2026-01-04, on Linux x86-64.

| Python | dependencies | serve | dev | suite |
| --- | --- | --- | --- | --- |
| 3.11.2 | lowest | ✓ | ✓ |  |
| 3.12.1 | newest | ✓ | ✗ | ✓ |
| 3.13 | newest | no such Python | ✓ |  |

| package | lowest | newest |
| --- | --- | --- |
| mypy | 1.15.0 | 2.4.1 |
| numpy | 2.1.0 | 2.5.5 |
| redis |  | 8.1.0 |
<!-- end -->
""")
    monkeypatch.setattr(matrix, "prepare", lambda: (Path(), Path()))
    monkeypatch.setattr(
        matrix, "try_cell", lambda cell, key, *_: Result("passed", key, "2026-02-01", 1.0, "3.11.9", {"numpy": "2.1.3"})
    )
    for _ in range(2):  # what is told of the page is told of it again
        assert matrix.main(["--only", "3.11-lowest-serve"]) == 0
        page = matrix.PAGE.read_text()
        lines = [[each.strip() for each in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
        heads = lines[0]
        signs = {(line[0], line[1]): dict(zip(heads, line, strict=True)) for line in lines if len(line) == len(heads)}
        assert "Run 2026-01-02 to 2026-02-01" in page
        assert [signs["3.11.9", "lowest"][extra] for extra in ("serve", "dev", "suite")] == ["✓", "✓", ""]
        assert [signs["3.12.1", "newest"][extra] for extra in ("serve", "dev", "suite")] == ["✓", "✗", "✓"]
        assert [signs["3.13", "newest"][extra] for extra in ("serve", "dev")] == ["no such Python", "✓"]
        assert signs["3.12.1", "newest"]["offline"] == ""
        assert [line for line in lines if len(line) == 3][-3:] == [
            ["mypy", "1.15.0", "2.4.1"], ["numpy", "2.1.3", "2.5.5"], ["redis", "", "8.1.0"],
        ]  # fmt: skip


def test_cell_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no cell has ends with the names of all."""
    with pytest.raises(SystemExit):
        matrix.main(["--only", "3.11-middle-serve"])
    assert "3.13-newest-dev" in capsys.readouterr().err


def test_page_tells_the_versions_of_every_dependency() -> None:
    """Each direct dependency has its line, and its bounds take the lowest and the newest that were tried."""
    lines = re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+) \| ([0-9.]+) \|$", PAGE.read_text(), re.MULTILINE)
    tried = {name: versions for name, *versions in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    for requirement in map(Requirement, bounds):
        for version in tried[requirement.name]:
            assert requirement.specifier.contains(version), f"{requirement} does not take {version}: `make matrix`"


def test_key_of_the_newest_is_of_a_day() -> None:
    """The newest versions are those of a day; the lowest are the same on each."""
    lowest, newest = SERVE, Cell("3.11", "newest", "serve")
    assert matrix.key_of(lowest, "2026-01-01") == matrix.key_of(lowest, "2026-01-02")
    assert matrix.key_of(newest, "2026-01-01") != matrix.key_of(newest, "2026-01-02")
