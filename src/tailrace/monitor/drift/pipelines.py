"""The models of a server's pipelines, watched for drift: what the observer tells of predictions, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tailrace.deadline import NS_PER_S
from tailrace.inference.declaration import Model, models_of
from tailrace.inference.drift import Drift
from tailrace.inference.manifest import MANIFEST_FILE, Profile, decode_manifest
from tailrace.monitor.drift.columns import Gathered, columns_of
from tailrace.monitor.drift.findings import Findings
from tailrace.monitor.drift.kept import Copied, copy, pack, recall
from tailrace.monitor.drift.series import series_of
from tailrace.monitor.drift.watch import DriftWatch
from tailrace.monitor.predictions import Predictions
from tailrace.pipeline import Pipeline

ROWS_AT_ONCE: Final = 2_048
"""Rows that are told of together, or those of a second: a call for each series costs more than a few rows do."""
RELEASE_NS: Final = 10 * NS_PER_S
"""A release that is told of no more for so long is over: while two are served, the one that was first is watched."""


@dataclass(slots=True)
class _Watched:
    declared: Drift
    profile: Profile
    watch: DriftWatch | None = None
    kept: bytes | None = None
    release: str = ""
    seen_ns: int = 0
    gathered: Gathered = field(default_factory=Gathered)


class PipelineDrift:
    """Watches the pipelines that declare it, one release of each."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._watched = {
            each.name: _Watched(each.drift, profile_of(each)) for each in pipelines if each.drift is not None
        }
        self.latest: dict[str, dict[str, Findings]] = {name: {} for name in self._watched}
        """The last window and the last cycle of each pipeline, by name and span."""

    def take(self, predictions: Predictions, now_ns: int, wall_s: float) -> tuple[Findings, ...]:
        """Tell of predictions; return what has ended with them.

        A release is watched once the one before it has ended; it begins with what was learned of that, if it fits.
        """
        watched = self._watched.get(predictions.pipeline)
        if watched is None or not predictions.rows:
            return ()
        if watched.watch is None or watched.release != predictions.release:
            if watched.watch is not None:
                if now_ns < watched.seen_ns + RELEASE_NS:
                    return ()
                watched.kept = pack(copy(watched.watch))
            outputs = predictions.scores.shape[1] if predictions.scores.ndim > 1 else 1
            series = series_of(watched.profile, predictions.labels, tuple(predictions.provenance), outputs)
            watched.watch, watched.release = DriftWatch(series, watched.declared, now_ns, wall_s), predictions.release
            if watched.kept is not None:
                recall(watched.watch, watched.kept)
                watched.kept = None
            watched.gathered = Gathered(now_ns)
        watched.seen_ns = now_ns
        of = predictions.row_request
        requests = predictions.rows if of is None else len(np.unique(of))
        watched.gathered.add(*columns_of(predictions), requests)
        if watched.gathered.rows < ROWS_AT_ONCE and now_ns < watched.gathered.since_ns + NS_PER_S:
            return ()
        columns, defaulted, requests = watched.gathered.take(now_ns)
        found = watched.watch.add(columns, now_ns, wall_s, defaulted, requests)
        self.latest[predictions.pipeline] |= {each.span: each for each in found}
        return found

    def give_up(self, pipeline: str) -> None:
        """Let go of all that a pipeline has gathered, but not of what it has learned, after a fault."""
        watched = self._watched.get(pipeline)
        if watched is None or watched.watch is None:
            return
        watched.kept = pack(copy(watched.watch))
        watched.watch, watched.gathered = None, Gathered()

    def copy(self) -> dict[str, Copied | bytes]:
        """Copy what is to be kept, by pipeline; of those that have not been told of anything, what was kept."""
        found = {name: copy(each.watch) if each.watch else each.kept for name, each in self._watched.items()}
        return {name: data for name, data in found.items() if data is not None}

    def keep(self) -> dict[str, bytes]:
        """Return what is to be kept, by pipeline."""
        return pack_all(self.copy())

    def recall(self, kept: Mapping[str, bytes]) -> None:
        """Take what a predecessor has kept; each pipeline has it with its first predictions, where it still fits."""
        for name, data in kept.items():
            if name in self._watched:
                self._watched[name].kept = data


def pack_all(copied: Mapping[str, Copied | bytes]) -> dict[str, bytes]:
    """Return as bytes what was copied of each pipeline; it takes long, and no watch has to wait for it."""
    return {name: each if isinstance(each, bytes) else pack(each) for name, each in copied.items()}


def profile_of(pipeline: Pipeline) -> Profile:
    """Return the reference of a pipeline: the profile of its model.

    Of a stage of several models it is that of all their features, the first model's where two have one, and none of
    the scores, which are of no single model: what they are like is learned. Remote models and those in Python have no
    profile.
    """
    models = models_of(pipeline.model)
    profiles = [decode_manifest(model.directory(pipeline.base_dir) / MANIFEST_FILE).profile for model in models]
    if isinstance(pipeline.model, Model):
        return profiles[0]
    features = {name: each for profile in reversed(profiles) for name, each in profile.features.items()}
    return Profile(max((profile.rows for profile in profiles), default=0), features, ())
