"""A release of three pipelines, kept as a server keeps it, and a log of what they have answered."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from tailrace.features.stores.opening import open_writer
from tailrace.monitor.frames import FrameReader
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.ring import RingReader, RingWriter, make_ring_fd
from tailrace.monitor.tap import Tap
from tailrace.offline.explanation.explain import Asking
from tailrace.testing import ManualClock, TestClient

PIPELINES = '''
"""Payments, a ranking, and one that has a secret."""

from typing import Annotated

import numpy as np

import tailrace as tr


class Payment(tr.Request):
    customer_id: int
    amount: float


class Secret(tr.Request):
    card: Annotated[str, tr.REDACTED]
    amount: float


class Ranking(tr.Request):
    item_ids: list[int]
    amount: float


class Decision(tr.Response):
    decision: str
    score: float


class Explained(Decision):
    explanation: dict[str, float] | None


class Items(tr.Response):
    item_ids: list[int]
    score: list[float]


class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profiles.parquet")
    debt: float = 0.0
    kind: str = "new"


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    price: float = 1.0


@tr.on_demand
def share(request: Payment, profile: Profile) -> np.ndarray:
    return profile.debt / np.maximum(request.amount, 1.0)


class Total:
    """Adds the inputs up, and says so. What is asked of it a second time differs once `moved` says so."""

    moved = 0.0

    def predict(self, feeds):
        print("adding up")
        return feeds["features"].astype(float).sum(axis=1) + Total.moved


fraud = tr.Pipeline(
    name="fraud",
    request=Payment,
    response=Explained,
    features=[Payment.amount, Profile.debt, share],
    explain=1,
    model=tr.Model("fraud", fallback=tr.Constant(0.5)),
    decision=tr.bands("score", allow=0.0, block=0.5),
    rules=[
        tr.Rule("small_amount", when=lambda request: request.amount == 9, then="allow"),
        tr.Rule("old", when=lambda profile: profile.kind == "old", then="block"),
    ],
    budget=tr.Budget("5s", request="1s", features="1s", inference="1s"),
)
secret = tr.Pipeline(
    name="secret",
    request=Secret,
    response=Decision,
    features=[Secret.amount],
    model=tr.PythonModel("total", Total),
    decision=tr.bands("score", allow=0.0, block=0.5),
    budget=tr.Budget("5s"),
)
tried = tr.Pipeline(
    name="tried",
    request=Payment,
    response=Decision,
    features=[Payment.amount, Profile.debt, share],
    model=tr.Split(
        "ab",
        {"champion": tr.Model("fraud"), "challenger": tr.PythonModel("total", Total, classes=(0, 1))},
        by=Payment.customer_id,
        shares={"champion": 0.5, "challenger": 0.5},
    ),
    decision=tr.bands("score", allow=0.0, block=0.5),
    budget=tr.Budget("5s"),
)
ranking = tr.Pipeline(
    name="ranking",
    request=Ranking,
    response=Items,
    features=[Ranking.amount, Item],
    model=tr.PythonModel("total", Total),
    budget=tr.Budget("5s"),
)
'''
FEATURES = ("amount", "Profile.debt", "share")


_NUMBERS = count()
"""Of the files: each has a time of its own."""


@dataclass(frozen=True)
class World:
    """A folder with a release, and its log. root: of the shelf."""

    folder: Path
    release: str
    pipelines: dict[str, Any]

    @property
    def root(self) -> Path:
        """The shelf."""
        return self.folder / "releases"

    @property
    def log(self) -> Path:
        """The log's directory."""
        return self.folder / "log"

    def asking(self, **changed: Any) -> Asking:
        """Return a question to the log."""
        return replace(Asking(log=self.log, releases=[self.root]), **changed)

    def serve(
        self,
        name: str,
        requests: Sequence[Any],
        ids: Sequence[str],
        *,
        debt: float | None = None,
        seal: bool = False,
        **changed: Any,
    ) -> None:
        """Answer requests, and log them under ids. debt: of customer 1. changed: of the predictions."""
        pipeline, clock = self.pipelines[name], ManualClock(wall_ns=1_750_000_000 * 10**9)
        fd = make_ring_fd("explained", 1 << 20)
        try:
            with TestClient(pipeline, clock=clock) as client:
                if debt is not None:
                    client.put(pipeline.views[0], 1, debt=debt)
                clock.advance(7_200_000)
                tap = Tap(pipeline, self.release, RingWriter(fd, 0), clock, _NoTimers(), None)  # type: ignore[arg-type]
                batch = client.run([json.dumps(each).encode() for each in requests])
                tap.record(batch, batch.marks_ns[-1])
                tap.flush()
            (found,) = [FrameReader().read(data) for data in RingReader(fd).read()]
        finally:
            os.close(fd)
        files = LogFiles(self.log / name, lambda: 1_750_000_000.0 + next(_NUMBERS))
        files.write([log_table(replace(found, **{"request_ids": list(ids)} | changed))])
        if seal:
            files.seal()
        else:
            let_go(files)


def let_go(files: LogFiles) -> None:
    """Leave a draft as a writer does that is killed."""
    assert files._draft is not None
    files._draft.close()


class _NoTimers:
    """A loop that calls nothing."""

    def call_later(self, delay: float, callback: Any) -> object:
        """Leave it."""
        return callback


def put_debt(world: World, debt: float, kind: str = "new") -> str:
    """Write what customer 1 owes into a store; return its URL."""
    codec = world.pipelines["fraud"].views[0].spec.codec()
    (row,) = codec.pack([1], {"debt": [debt], "kind": [kind]}, 0, 0)
    url = f"lmdb:{world.folder / 'store'}"
    writer = open_writer(url)
    writer.exchange([(codec.key(1), row)], [])
    writer.close()
    return url
