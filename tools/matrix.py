"""`make matrix`: every Python × the lowest and the newest dependencies × each extra alone, and the suite once a Python.

A cell is a fresh venv with the wheel, what it and the one extra depend on, and a smoke that uses it. What passed is
kept in build/matrix.json until the wheel, the smokes, or the day change, so that a run that was cut short goes on. What
the page tells of other cells stays as it is there.

    make matrix                          all of it, an hour; the table goes to docs/reference/platforms.md
    make matrix ONLY=3.12-lowest-package one cell; or 3.13-*
    make matrix SHORT=1                  what CI runs: the ends of the range
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BUILD: Final = ROOT / "build" / "matrix"
RESULTS: Final = ROOT / "build" / "matrix.json"
PAGE: Final = ROOT / "docs" / "reference" / "platforms.md"
UV: Final = Path(sys.executable).with_name("uv")
PYTHONS: Final = ("3.11", "3.12", "3.13")
VERSIONS: Final = ("lowest", "newest")
SUITE: Final = "suite"
SMOKES: Final = (
    "serve", "offline", "postgres", "spark", "package", "catboost", "lightgbm", "xgboost", "sklearn", "torch",
    "dynamodb", "registry", "kafka", "arrow", "zstd", "grpc", "jwt", "tracing", "bench", "dev",
)  # fmt: skip
EXTRAS: Final = {
    "serve": (),
    SUITE: ("offline", "postgres", "package", "dynamodb", "registry", "kafka", "grpc", "jwt", "bench", "dev"),
}
"""What a cell installs, where that is not the extra of its name."""
SHORT: Final = ("serve", "offline", "package")
"""What the short form tries: the ends of the range, with what people install."""
SMOKES_AT_ONCE: Final = 2
SMOKE_S_MAX: Final = 600.0
SUITE_S_MAX: Final = 3_000.0
MARKED: Final = re.compile(r"(<!-- matrix -->\n).*?(<!-- end -->)", re.DOTALL)
SIGNS: Final = {"passed": "✓", "failed": "✗", "absent": "no such Python", "": ""}
Versions = dict[str, str]
"""Of packages, by name."""
STATUSES: Final = {sign: status for status, sign in SIGNS.items()}


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: a Python, "lowest" or "newest", and an extra, "serve" for none or "suite"."""

    python: str
    versions: str
    extra: str

    @property
    def name(self) -> str:
        """How it is asked for."""
        return f"{self.python}-{self.versions}-{self.extra}"


@dataclass(frozen=True, slots=True)
class Result:
    """How a cell ended. key: of what was tried, "" where only the page tells of it. python: the whole version.

    versions: of the packages in its venv.
    """

    status: str
    key: str
    date: str = ""
    seconds: float = 0.0
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)


class CellError(Exception):
    """A command of a cell that failed; its output is in the cell's log."""


def cells() -> list[Cell]:
    """Return all cells. The suite runs once a Python: with the lowest on the lowest one, else with the newest."""
    smokes = [Cell(python, versions, extra) for python in PYTHONS for versions in VERSIONS for extra in SMOKES]
    return smokes + [Cell(python, "lowest" if python == PYTHONS[0] else "newest", SUITE) for python in PYTHONS]


def extras_of(cell: Cell) -> tuple[str, ...]:
    """Return the extras that a cell installs."""
    return EXTRAS.get(cell.extra, (cell.extra,))


def short_cells() -> list[str]:
    """Return the lowest on the lowest Python, and the newest on the newest one that is here."""
    here = [python for python in PYTHONS if find_python(python)]
    ends = ((PYTHONS[0], "lowest"), (here[-1] if here else PYTHONS[-1], "newest"))
    return [Cell(python, versions, extra).name for python, versions in ends for extra in SHORT]


def key_of(cell: Cell, today: str) -> str:
    """Return the digest of what a cell tries; the newest are those of a day."""
    folders = ("src", "tools/smoke")
    if cell.extra == SUITE:
        folders += ("tests", "tools", "bench", "examples", "docs")
    files = [ROOT / "hatch_build.py"]
    for folder in folders:
        files += sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".c", ".h", ".md"})
    digest = hashlib.sha256(repr((bounds_of(cell), today if cell.versions == "newest" else "")).encode())
    for path in files:
        digest.update(path.read_bytes() if path != PAGE else b"")
    return digest.hexdigest()[:16]


def bounds_of(cell: Cell) -> list[str]:
    """Return the requirements of a cell: Tailrace's own, and those of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][extra] for extra in extras_of(cell)]
    return [each for bounds in (project["dependencies"], *extras) for each in bounds]


def find_python(version: str) -> Path | None:
    """Return the interpreter of a version, where there is one."""
    done = subprocess.run(
        ["sh", ROOT / "tools" / "find_python.sh", version], capture_output=True, text=True, check=False
    )
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def run(log: Path, *command: str | Path, cwd: Path = ROOT, limit_s: float = SMOKE_S_MAX) -> None:
    """Run a command with its output in the log, and nothing of this venv around it. Raises CellError."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with log.open("ab") as out:
        out.write(f"$ {' '.join(map(str, command))}\n".encode())
        out.flush()
        try:
            subprocess.run(command, cwd=cwd, env=settings, stdout=out, stderr=out, timeout=limit_s, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise CellError(str(error)) from error


def install(cell: Cell, interpreter: Path, folder: Path, wheel: Path, log: Path) -> Path:
    """Make the cell's venv; return its interpreter."""
    venv, locked = folder / "venv", folder / "requirements.txt"
    python = venv / "bin" / "python"
    extras = [f"--extra={extra}" for extra in extras_of(cell)]
    resolution = "lowest-direct" if cell.versions == "lowest" else "highest"
    seed = ("--seed",) if cell.extra == SUITE else ()  # its tests of the wheel want pip
    run(log, UV, "venv", "--quiet", *seed, "--python", interpreter, venv)
    run(log, UV, "pip", "compile", "--quiet", "--python", python, "--resolution", resolution, *extras,
        "--no-header", "--output-file", locked, "pyproject.toml")  # fmt: skip
    run(log, UV, "pip", "install", "--quiet", "--python", python, "--requirements", locked)
    own = ("--editable", ROOT) if cell.extra == SUITE else (wheel,)
    run(log, UV, "pip", "install", "--quiet", "--python", python, "--no-deps", *own)
    return python


def versions_of(python: Path) -> dict[str, str]:
    """Return the packages in a venv, and Python's own version."""
    program = ("import importlib.metadata as m, json, platform;"
               "print(json.dumps({'python': platform.python_version()} | "
               "{d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))")  # fmt: skip
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def try_cell(cell: Cell, key: str, today: str, wheel: Path, prepared: Path) -> Result:
    """Run one cell in a folder of its own, which is gone afterwards but for its log."""
    interpreter = find_python(cell.python)
    if interpreter is None:
        return Result("absent", key, today)
    folder, log = BUILD / cell.name, BUILD / f"{cell.name}.log"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.unlink(missing_ok=True)
    began_s, status, versions = time.monotonic(), "passed", {}
    try:
        python = install(cell, interpreter, folder, wheel, log)
        versions = versions_of(python)
        if cell.extra == SUITE:
            run(log, python, "-m", "pytest", "-p", "no:cacheprovider", limit_s=SUITE_S_MAX)
        else:
            work = shutil.copytree(prepared, folder / "work")
            run(log, python, ROOT / "tools" / "smoke" / "smoke.py", cell.extra, work, cwd=work)
    except CellError:
        status = "failed"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(status, key, today, round(time.monotonic() - began_s, 1), versions.pop("python", ""), versions)


def try_all(left: list[Cell], attempt: Callable[[Cell], Result]) -> Iterator[tuple[Cell, Result]]:
    """Yield cells with how they ended: the smokes, some at once, and then each suite, which has the machine alone."""
    smokes = [cell for cell in left if cell.extra != SUITE]
    with ThreadPoolExecutor(SMOKES_AT_ONCE) as pool:
        yield from zip(smokes, pool.map(attempt, smokes), strict=True)
    for cell in left:
        if cell.extra == SUITE:
            yield cell, attempt(cell)


def prepare() -> tuple[Path, Path]:
    """Return this tree's wheel, and the folder that the smokes start from."""
    shutil.rmtree(BUILD / "dist", ignore_errors=True)
    prepared = BUILD / "prepared"
    shutil.rmtree(prepared, ignore_errors=True)
    prepared.mkdir(parents=True)
    log = BUILD / "prepare.log"
    log.unlink(missing_ok=True)
    try:
        run(log, sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", BUILD / "dist", ROOT)
        run(log, sys.executable, ROOT / "tools" / "smoke" / "prepare.py", prepared)
    except CellError:
        sys.exit(f"the matrix cannot be prepared:\n{tail(log)}")
    (wheel,) = (BUILD / "dist").glob("*.whl")
    return wheel, prepared


def tail(log: Path) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.is_file() else ""


def read_results() -> dict[str, Result]:
    """Return what earlier runs found."""
    if not RESULTS.is_file():
        return {}
    return {name: Result(**each) for name, each in json.loads(RESULTS.read_text())["cells"].items()}


def write_results(results: dict[str, Result]) -> None:
    """Keep what was found so far."""
    RESULTS.parent.mkdir(exist_ok=True)
    told = {"cells": {name: asdict(results[name]) for name in sorted(results)}}
    RESULTS.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read_page() -> tuple[dict[str, Result], Versions, Versions]:
    """Return what the page tells of cells, and the lowest and newest versions that it lists.

    Another machine may have run them, or a build folder that is gone.
    """
    found = MARKED.search(PAGE.read_text())
    lines = found[0].splitlines() if found else []
    days = re.findall(r"^Run (\d{4}-\d\d-\d\d)", "\n".join(lines), re.MULTILINE)
    low: Versions = {}
    new: Versions = {}
    told: dict[str, Result] = {}
    heads: list[str] = []
    for cells_of_line in map(split_line, lines):
        if cells_of_line[:2] == ["Python", "dependencies"]:
            heads = cells_of_line[2:]
        elif heads and cells_of_line[1:2] and cells_of_line[1] in VERSIONS:
            python, versions, *signs = cells_of_line
            for extra, sign in zip(heads, signs, strict=False):
                if status := STATUSES.get(sign, ""):
                    name = Cell(".".join(python.split(".")[:2]), versions, extra).name
                    told[name] = Result(status, "", days[0] if days else "", 0.0, python)
        elif len(cells_of_line) == 3 and re.fullmatch(r"[\d.]*", cells_of_line[1]):
            name, lowest, newest = cells_of_line
            low |= {name: lowest} if lowest else {}
            new |= {name: newest} if newest else {}
    return told, low, new


def split_line(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table."""
    return [each.strip() for each in line.strip("|").split("|")]


def table(results: dict[str, Result], low: Versions, new: Versions) -> str:
    """Return the Markdown of both tables: the cells, and the versions that were tried, by these cells or before."""
    heads, days = [*SMOKES, SUITE], sorted({each.date for each in results.values()})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    lines = [f"Run {when}, on Linux x86-64.\n", f"| Python | dependencies | {' | '.join(heads)} |",
             "| --- | --- |" + " --- |" * len(heads)]  # fmt: skip
    for python in PYTHONS:
        for versions in VERSIONS:
            found = [results.get(Cell(python, versions, extra).name) for extra in heads]
            exact = next((each.python for each in found if each and each.python), python)
            signs = [SIGNS[each.status if each else ""] for each in found]
            lines.append(f"| {exact} | {versions} | {' | '.join(signs)} |")
    lines += ["", "| package | lowest | newest |", "| --- | --- | --- |"]
    lines += [f"| {name} | {low} | {new} |" for name, low, new in tried(results, low, new)]
    return "\n".join(lines) + "\n"


def tried(results: dict[str, Result], low: Versions, new: Versions) -> Iterable[tuple[str, str, str]]:
    """Yield each direct dependency with the versions tried: the lowest on the lowest Python, the newest on the last.

    low, new: what was tried before, where no result says otherwise.
    """
    for extra in SMOKES:
        low = low | versions_in(results, Cell(PYTHONS[0], "lowest", extra))
        new = new | versions_in(results, Cell(PYTHONS[-1], "newest", extra))
    direct = set().union(*(names_of(bounds_of(cell)) for cell in cells()))
    for name in sorted(direct & (low.keys() | new.keys())):
        yield name, low.get(name, ""), new.get(name, "")


def versions_in(results: dict[str, Result], cell: Cell) -> Versions:
    """Return the versions that were tried in a cell, of what it depends on directly; none where it has no result.

    What comes by another package is the newest that fits it, in the cells of the lowest versions too.
    """
    if cell.name not in results:
        return {}
    direct = names_of(bounds_of(cell))
    return {name: version for name, version in results[cell.name].versions.items() if name in direct}


def names_of(bounds: Iterable[str]) -> set[str]:
    """Return the names of the packages that are required."""
    return {re.split(r"[^a-z0-9-]", each)[0] for each in bounds}


def main(arguments: list[str]) -> int:
    """Run what is asked for and not known yet; return 0 where nothing of it failed."""
    parser = argparse.ArgumentParser(description="Try every Python, the lowest and newest dependencies, each extra.")
    parser.add_argument("--only", default="", help="cells, such as 3.12-lowest-package or 3.13-*; commas between")
    parser.add_argument("--short", action="store_true", help="the ends of the range only")
    parser.add_argument("--fresh", action="store_true", help="what passed already too")
    options = parser.parse_args(arguments)
    patterns = options.only.split(",") if options.only else short_cells() if options.short else ["*"]
    chosen = [cell for cell in cells() if any(fnmatch(cell.name, pattern) for pattern in patterns)]
    if not chosen:
        parser.error(f"there is no cell {options.only!r}; {', '.join(cell.name for cell in cells())}")
    today = datetime.now(UTC).date().isoformat()
    results = read_results()
    keys = {cell: key_of(cell, today) for cell in chosen}
    left = [cell for cell in chosen if options.fresh or not is_known(results.get(cell.name), keys[cell])]
    wheel, prepared = prepare() if left else (BUILD, BUILD)
    for cell, result in try_all(left, lambda cell: try_cell(cell, keys[cell], today, wheel, prepared)):
        results[cell.name] = result
        write_results(results)
        end = f"{result.status} in {result.seconds:.0f} s" if result.python else SIGNS[result.status]
        print(f"{cell.name:<22}{end}", flush=True)
        if result.status == "failed":
            print(tail(BUILD / f"{cell.name}.log"))
    if options.short:
        print(table({cell.name: results[cell.name] for cell in chosen}, {}, {}))
    else:
        told, low, new = read_page()
        text = table(told | results, low, new)
        PAGE.write_text(MARKED.sub(lambda found: found[1] + text + found[2], PAGE.read_text()))
        print(text)
    return int(any(results[cell.name].status == "failed" for cell in chosen))


def is_known(result: Result | None, key: str) -> bool:
    """Say whether a result is of what would be tried now, and good."""
    return result is not None and result.status == "passed" and result.key == key


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
