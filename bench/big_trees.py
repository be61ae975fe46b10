"""A boosted model of 500 trees beside one of 200, on the fraud example's features: capacity and tail."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from answers import check_whole
from figures import Figures
from machine import LOAD_CORE, SERVER_CORE
from part import Session
from peers import PIPELINE, PREPARED, WORKPLACE, start_tailrace
from ratios import bounds, measure_pairs
from tailrace.inference.manifest import NumberProfile
from tailrace.inference.model_directory import read_manifest
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load
from tails import p99_ms

FOLDER: Final = WORKPLACE / "trees"
TREES: Final = (200, 500)
ROWS: Final = 20_000
PAIRS: Final = 8
SECONDS: Final = 0.6
RATE: Final = 5_000
OPEN_S: Final = 4.0
FILE: Final = '''"""The fraud example on a model of other trees."""

from dataclasses import replace

import nightly

import tailrace as tr

fraud = replace(nightly.fraud, store="lmdb:{store}", model=tr.Model("{name}", path="{model}"))
'''


def measure_big_trees(session: Session) -> Figures:
    """Return the larger model's capacity in parts of the smaller one's, and its p99 under an open load."""
    session.tell("inference: training 200 and 500 trees")
    small_file, large_file = (make_file(trees) for trees in TREES)
    bodies = session.bodies.read_bytes().splitlines()
    with ExitStack() as stack:
        cores = {SERVER_CORE}
        small = start_tailrace(stack, cores=cores, file=small_file, name="tailrace-trees200").url
        large = start_tailrace(stack, cores=cores, file=large_file, name="tailrace-trees500").url
        for url in (small, large):
            check_whole(url, bodies[0])
            session.replay.plain(url, session.bodies, 0.5, judged=False)

        def capacity(url: str) -> float:
            return session.replay.plain(url, session.bodies, SECONDS).rps

        pairs = measure_pairs(
            session, "inference: 500 trees beside 200", session.pick(PAIRS, 1),
            lambda: capacity(large), lambda: capacity(small),
        )  # fmt: skip
    with ExitStack() as stack:
        session.tell(f"inference: 500 trees at {RATE:,}/s")
        both = {SERVER_CORE, LOAD_CORE}
        url = start_tailrace(stack, cores=both, file=large_file, name="tailrace-trees-open").url
        run_load(LoadPlan(url=url, bodies=bodies, rate=RATE, duration_s=1.0))
        report = run_load(LoadPlan(url=url, bodies=bodies, rate=RATE, duration_s=session.pick(OPEN_S, 2.0)))
    ratios = [one / other for one, other in pairs]
    return {
        "trees200_rps": round(median(other for _, other in pairs)),
        "trees500_rps": round(median(one for one, _ in pairs)),
        "trees500_ratio_200": round(median(ratios), 3),
        "trees500_ratio_200_bounds": [round(each, 3) for each in bounds(ratios)],
        "trees500_p99_ms": round(p99_ms(report, "500 trees"), 2),
    }


@cache
def make_file(trees: int) -> Path:
    """Train so many trees on rows like the example's; return a file that serves them from the example's store.

    They are trained once a run, by whoever needs them first.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("pipeline.py", "nightly.py"):
        shutil.copy(PIPELINE.with_name(name), FOLDER)
    model, path = FOLDER / f"model{trees}", FOLDER / f"trees{trees}.py"
    train(trees, model)
    path.write_text(FILE.format(store=PREPARED / "nightly_store", name=f"trees{trees}", model=model))
    return path


def train(trees: int, out: Path) -> None:
    """Train so many trees of 31 leaves and package them."""
    import lightgbm
    import pyarrow as pa

    from tailrace.release.package import package

    rows, target = draw_rows()
    data = lightgbm.Dataset(np.column_stack(list(rows.values())), target, feature_name=list(rows))
    # One thread: two wait for each other at each leaf, many times as long where another program has one of the cores.
    model = lightgbm.train({"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}, data, trees)
    package(model, pa.table(rows), name=out.name, out=out, overwrite=True)


def draw_rows() -> tuple[dict[str, Any], Any]:
    """Return rows whose columns are distributed as the example's, and an outcome that depends on several of them."""
    manifest = read_manifest(PREPARED / "nightly")
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    for name in manifest.signature.feature_names:
        profile = manifest.profile.features[name]
        assert isinstance(profile, NumberProfile)
        edges = np.array(profile.edges)
        share = rng.random(ROWS) * (len(edges) - 1)
        rows[name] = np.interp(share, np.arange(len(edges)), edges).astype(np.float32)
    ranks = np.array([column.argsort().argsort() / ROWS for column in rows.values()])
    weights = rng.normal(size=len(ranks))
    signal = weights @ ranks + 2 * (ranks[0] - 0.5) * (ranks[1] - 0.5)
    return rows, (signal + rng.normal(0, 0.3, ROWS) > np.quantile(signal, 0.8)).astype(int)
