"""A release of three pipelines, kept as a server keeps it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
from explained_world import FEATURES, PIPELINES, World

from tailrace.compile.loading import load_pipelines
from tailrace.compile.pinned_modules import PinnedFolder
from tailrace.release.package import package
from tailrace.release.pin import pin
from tailrace.release.settle import settle, with_pinned_models


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Yield a release on a shelf, without a log."""
    folder = tmp_path_factory.mktemp("explained")
    rows = np.random.default_rng(0).uniform(0, 100, (200, 3)).astype(np.float32)
    given = lightgbm.Dataset(rows, rows[:, 0] + rows[:, 1] > 100, feature_name=list(FEATURES))
    trained = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 7}, given, 5)
    table = pa.table(dict(zip(FEATURES, rows.T, strict=True)))
    package(trained, table, name="fraud", out=folder / "models" / "fraud", explain=True)
    file = folder / "pipelines.py"
    file.write_text(PIPELINES)
    finders, modules = list(sys.meta_path), set(sys.modules)
    with pin([str(file)], str(folder / "releases")) as pinned:
        declared = load_pipelines(file, PinnedFolder(folder, Path(pinned.copy_of(str(file)))))
        release = settle(pinned, declared)
        pipelines = {each.name: with_pinned_models(each, release) for each in declared}
        yield World(folder, release.id, pipelines)
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.startswith("tailrace_pipeline_"):
            del sys.modules[name]


@pytest.fixture
def world(released: World, tmp_path: Path) -> World:
    """Return a release whose log is the test's own."""
    for each in ("models", "releases", "pipelines.py"):
        (tmp_path / each).symlink_to(released.folder / each)
    return World(tmp_path, released.release, released.pipelines)
