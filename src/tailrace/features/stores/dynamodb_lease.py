"""The lease of a view on DynamoDB: an item that ends by itself, and a thread that renews it.

DynamoDB tells no time, so the end is one by the holders' own clocks. A clock that is ahead takes a lease too early;
then the run's mark, which knows of no clock, keeps the two apart (runs.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Final

import msgspec

from tailrace.errors import StoreError
from tailrace.features.stores.dynamodb_table import name_of
from tailrace.features.stores.dynamodb_transaction import TransactionWriter
from tailrace.features.stores.lease import Holder, held_error

LEASE_MS: Final = 30_000
"""How long a lease outlives a run that died; one that lives renews it three times in this time."""


class DynamoLease:
    """Raises LeaseError where another run holds it."""

    def __init__(self, items: TransactionWriter, view: str, lease_ms: int = LEASE_MS) -> None:
        self.holder = Holder.here()
        self._items = items
        self._view = view
        self._key = b"tailrace:lease:%b" % view.encode()
        self._own = msgspec.json.encode(self.holder)
        self._lease_ms = lease_ms
        self._taken_by: bytes | None = None
        self._ended = threading.Event()
        if not self._take():
            raise held_error(view, self._held(), items.table.where)
        self._thread = threading.Thread(target=self._renew_until_ended, name=f"lease-{view}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseError where another run is known to hold it by now."""
        if self._taken_by is not None:
            raise held_error(self._view, self._taken_by, self._items.table.where)

    def close(self) -> None:
        """Let the next run have it, if it is still this one's."""
        self._ended.set()
        self._thread.join()
        condition = {"ConditionExpression": "v = :own", "ExpressionAttributeValues": {":own": {"B": self._own}}}
        release = {"Delete": {"TableName": self._items.table.name, "Key": name_of(self._key), **condition}}
        with contextlib.suppress(StoreError):  # then it ends by itself
            self._items.write([release])

    def _take(self) -> bool:
        """Take it, or renew it; return whether that could be."""
        now_ms = time.time_ns() // 1_000_000
        values: dict[str, Any] = {":own": {"B": self._own}, ":now": {"N": str(now_ms)}}
        item = name_of(self._key) | {"v": {"B": self._own}, "until": {"N": str(now_ms + self._lease_ms)}}
        condition = {
            "ConditionExpression": "attribute_not_exists(k) OR v = :own OR #until < :now",
            "ExpressionAttributeNames": {"#until": "until"},
            "ExpressionAttributeValues": values,
        }
        return not self._items.write([{"Put": {"TableName": self._items.table.name, "Item": item, **condition}}])

    def _held(self) -> bytes:
        return self._items.get_many([self._key]).get(self._key, b"")

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._lease_ms / 3_000):
            with contextlib.suppress(StoreError):  # tried again; if it is lost meanwhile, the run's mark tells
                if not self._take():
                    self._taken_by = self._held()
                    return
