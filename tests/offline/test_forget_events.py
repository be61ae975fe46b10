"""Forgetting what events left: the state of a stream view goes as a row does, and no event brings it back."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tailrace.compile.loading import load_pipelines
from tailrace.features.stores.opening import open_writer
from tailrace.features.updates import Fate
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.offline.forget import forget, unforget
from tailrace.pipeline import stream_views
from tailrace.testing import ManualClock


def test_forget_removes_the_states_of_an_entity(tmp_path: Path, pipelines_dir: Path) -> None:
    """Of every stream view; its later events are refused until it is unforgotten, those of others are not."""
    (pipeline,) = load_pipelines(pipelines_dir / "activity.py")
    specs = [view.spec for view in stream_views(pipeline)]
    at = datetime(2018, 8, 1, tzinfo=UTC)
    activity = next(spec for spec in specs if spec.name == "CustomerActivity")
    with closing(open_writer(f"lmdb:{tmp_path / 'store'}")) as writer:
        applier = Applier(activity.stream, [activity], writer, ManualClock())

        def count(number: int) -> list[Fate]:
            events = [
                pipeline.request(
                    transaction_id=10 * number + each, customer_id=each, terminal_id=1, amount=1.0, time=at
                )
                for each in (7, 70)
            ]
            return list(map(Fate, applier.apply(DecodedEvents(activity.stream).columns(events)).tolist()))

        assert count(1) == [Fate.COUNTED] * 2
        report = forget(writer, "customer", [7], specs, 1)
        assert (report.views, report.removed) == (("CustomerActivity",), 1)
        assert [writer.get(key) is None for key in activity.codec().keys([7, 70])] == [True, False]
        assert count(20) == [Fate.FORGOTTEN, Fate.COUNTED]
        assert unforget(writer, "customer", [7])
        assert count(40) == [Fate.COUNTED] * 2
