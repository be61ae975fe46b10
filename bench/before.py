"""The hot path beside that of an earlier commit, in pairs: both served at once, asked in turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from figures import Figures
from machine import SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import PIPELINE, ROOT, start_tailrace
from recording import read_recordings

PAIRS: Final = 7
SECONDS: Final = 2.0
CLIENT_SECONDS: Final = 1.5
TREE: Final = ROOT / "build" / "before"
CLIENT: Final = "browser"
"""The client that is compared too where bench.json does not say which is slowest: it has the longest head."""
SIZE: Final = ("--customers", "10000", "--terminals", "10000", "--days", "60")
"""Of the world that is prepared today: both stores have the entities that are asked for."""


def measure(session: Session) -> Figures:
    """Return the median of the pairs' ratios and their spread, for a plain client and for the slowest real one."""
    session.tell(f"before: preparing {session.base}")
    commit = export_tree(session.base, TREE)
    entry = TREE / "src" / "tailrace" / "cli" / "entry.py"
    if not entry.exists():  # the command of this environment begins there; that of an older commit in main.py
        entry.write_text("from tailrace.cli.main import main as main\n")
    prepare_tree(TREE)
    client = session.known.get("hot_path", {}).get("real_clients_slowest", CLIENT)
    recording = read_recordings().get(client)
    pairs = session.pick(PAIRS, 1)
    with ExitStack() as stack:
        session.tell("before: starting both")
        core = {SERVER_CORE}
        now = start_tailrace(stack, cores=core, name="tailrace-now").url
        file = file_of(TREE)
        base = start_tailrace(stack, cores=core, name="tailrace-before", file=file, source=TREE / "src").url
        for url in (now, base):
            session.replay.plain(url, session.bodies, 1.0, judged=False)

        def plain(url: str) -> float:
            return session.replay.plain(url, session.bodies, session.pick(SECONDS, 1.0)).rps

        rates = measure_pairs(session, plain, now, base, pairs)
        figures = {"commit": commit[:12], "pairs": pairs, **summarize(rates)}
        if recording is not None:

            def real(url: str) -> float:
                return session.replay.client(url, recording, session.bodies, session.pick(CLIENT_SECONDS, 1.0)).rps

            rates = measure_pairs(session, real, now, base, pairs)
            figures |= {"client": client} | {f"client_{name}": value for name, value in summarize(rates).items()}
    return {"before": figures}


def measure_pairs(
    session: Session, run: Callable[[str], float], now: str, base: str, pairs: int
) -> list[tuple[float, float]]:
    """Return the rates of both, pair by pair; who is first changes, so that a machine that slows favours neither."""
    rates = []
    for number in range(pairs):
        session.tell(f"before, pair {number + 1} of {pairs}")
        if number % 2:
            base_rps = run(base)
            rates.append((run(now), base_rps))
        else:
            now_rps = run(now)
            rates.append((now_rps, run(base)))
    return rates


def summarize(rates: list[tuple[float, float]]) -> Figures:
    """Return the medians, and the least and the greatest ratio of a pair."""
    ratios = [now / base for now, base in rates]
    return {
        "rps": round(median(now for now, _ in rates)),
        "base_rps": round(median(base for _, base in rates)),
        "rps_ratio": round(median(ratios), 3),
        "rps_ratio_min": round(min(ratios), 3),
        "rps_ratio_max": round(max(ratios), 3),
    }


def export_tree(base: str, tree: Path) -> str:
    """Lay the files of a commit under a folder, unless they lie there; return its full hash.

    Raises BenchError where there is no such commit.
    """
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    commit = found.stdout.strip()
    if found.returncode:
        raise BenchError(f"there is no commit {base!r} in this repository to compare with: name another with BASE=")
    stamp = tree / ".commit"
    if not stamp.is_file() or stamp.read_text() != commit:
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        stamp.write_text(commit)
    return commit


def file_of(tree: Path) -> Path:
    """Return the file that is compared; before there were windows over events it had another name."""
    folder = tree / "examples" / "fraud"
    own = folder / PIPELINE.name
    return own if own.is_file() else folder / "pipeline.py"


def prepare_tree(tree: Path) -> None:
    """Compile the kernel of a tree and prepare its fraud example, with its own code."""
    if not (tree / "src" / "tailrace" / "inference" / "libbitvector.so").is_file():
        run_in(tree, "hatch_build.py")
    run_in(tree, "examples/fraud/prepare.py", *SIZE)


def run_in(tree: Path, script: str, *arguments: str) -> None:
    """Run a script of a tree with its own Tailrace. Raises BenchError with what it said when it fails."""
    done = subprocess.run(
        [sys.executable, str(tree / script), *arguments],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"{script} of the commit before failed:\n{done.stdout}{done.stderr}")


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    before = figures["before"]
    told = []
    for client, prefix in (("plain", ""), (before.get("client", ""), "client_")):
        if client:
            low, high = before[f"{prefix}rps_ratio_min"], before[f"{prefix}rps_ratio_max"]
            told += [
                Line(f"{client}: now, requests/s", before[f"{prefix}rps"]),
                Line(f"  {before['commit'][:7]}, requests/s", before[f"{prefix}base_rps"]),
                Line(f"  ratio, of pairs from {low:.3f} to {high:.3f}", f"{before[f'{prefix}rps_ratio']:.3f}"),
            ]
    return told


PART: Final = Part(
    name="before",
    about="requests/s beside an earlier commit's",
    caveats=("before: both are served at once on one core and asked in turns; the ratio is the median of the pairs'.",),
    steps=lambda session: 2 + 2 * session.pick(PAIRS, 1),
    measure=measure,
    lines=lines,
)
