"""DynamoDB's writer: what is compared and written in one step is a transaction of conditions and puts.

A page is read, compared here, and written in transactions of up to 49 rows: each holds the condition that the run's
mark is the last, and for each row that it is as it was read and that its entity is not forgotten. A transaction whose
conditions do not hold writes nothing; its rows are read and compared once more.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from tailrace.errors import NoStoreError, StoreError
from tailrace.features.stores.dynamodb_lease import DynamoLease
from tailrace.features.stores.dynamodb_table import NEXT, DynamoTable, code_of, key_of, name_of
from tailrace.features.stores.dynamodb_transaction import (
    ACTIONS_MAX,
    TransactionWriter,
    absent,
    parts,
    put,
    remove,
    unchanged,
)
from tailrace.features.stores.protocol import Changes
from tailrace.features.stores.runs import PageCounts, PageRow, Run, lost_run, next_run, run_key, write_page

ROWS_MAX: Final = (ACTIONS_MAX - 1) // 2
"""Of a transaction: a put and a tombstone's condition each, beside the mark's."""

ROUNDS_MAX: Final = 50
"""How often rows are read anew that others change meanwhile."""

ATTEMPTS_MAX: Final = 8
CONNECT_S_MAX: Final = 5.0
ANSWER_S_MAX: Final = 10.0
CREATE_S_MAX: Final = 120.0


class DynamoWriter:
    """Writes one table of DynamoDB.

    create: make the table where it is missing, paid for by request. Raises StoreError where it cannot be written.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._table = DynamoTable.parse(url)
        self.where = self._table.where
        self._client = self._table.client(
            connections=4, attempts=ATTEMPTS_MAX, connect_s=CONNECT_S_MAX, answer_s=ANSWER_S_MAX
        )
        self._items = TransactionWriter(self._table, self._client)
        self._find_table(create)

    def lease(self, view: str) -> DynamoLease:
        """Return the lease of a view."""
        return DynamoLease(self._items, view)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; what earlier runs write from now on is refused."""
        while True:
            last = self.get(run_key(view))
            run = next_run(view, last)
            if not self._items.write([put(self._table, run.key, run.mark, unchanged(last))]):
                return run

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows that may be written, then its notes: some rows a transaction."""
        counts = PageCounts()
        for begin, end in parts([2 * len(row.row) for row in rows], ROWS_MAX):
            counts = counts.plus(self._write_part(run, rows[begin:end], newer_only=newer_only))
        for begin in range(0, len(notes), ACTIONS_MAX - 1):
            part = dict(notes[begin : begin + ACTIONS_MAX - 1])
            self._write_under(run, [put(self._table, key, value) for key, value in part.items()])
        if not rows and not notes:
            self._write_under(run, [])
        return counts

    def _write_part(self, run: Run, rows: Sequence[PageRow], *, newer_only: bool) -> PageCounts:
        for _ in range(ROUNDS_MAX):
            stored = self._items.get_many([key for row in rows for key in (row.key, row.tombstone)])
            found = _Overlay(stored)
            counts = write_page(found.get, found.put, rows, newer_only=newer_only)
            puts = found.puts
            actions = [put(self._table, key, value, unchanged(stored.get(key))) for key, value in puts.items()]
            tombstones = {row.tombstone for row in rows if row.key in puts}
            conditions = [absent(self._table, key) for key in tombstones]
            if self._write_under(run, [*actions, *conditions]):
                return counts
        raise self._overtaken(len(rows))

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run: some a transaction."""
        removed, own = 0, list(dict.fromkeys(keys))
        for begin in range(0, len(own), ACTIONS_MAX - 1):
            part = own[begin : begin + ACTIONS_MAX - 1]
            there = len(self._items.get_many(part))
            self._write_under(run, [remove(self._table, key) for key in part])
            removed += there
        return removed

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so. DynamoDB reads the whole table for it."""
        request: dict[str, Any] = {"TableName": self._table.name, "ProjectionExpression": "k", "ConsistentRead": True}
        if begin:
            request |= {
                "FilterExpression": "begins_with(k, :begin)",
                "ExpressionAttributeValues": {":begin": name_of(begin)["k"]},
            }
        while True:
            answer = self._items.ask("scan", **request)
            yield from (key for key in map(key_of, answer["Items"]) if key.endswith(end))
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write and remove keys: 100 a transaction."""
        pairs, gone = dict(puts), list(dict.fromkeys(removes))
        there = sum(key in pairs for key in gone)
        there += len(self._items.get_many([key for key in gone if key not in pairs]))
        actions = [put(self._table, key, value) for key, value in pairs.items() if key not in set(gone)]
        actions += [remove(self._table, key) for key in gone]
        self._items.write_all(actions)
        return there

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are, then write notes; ask anew for what another has changed meanwhile."""
        places: Sequence[int] = range(len(changes.keys))
        for _ in range(ROUNDS_MAX):
            if not places:
                break
            places = self._change(changes, places)
        if places:
            raise self._overtaken(len(places))
        self._items.write_all([put(self._table, key, value) for key, value in dict(notes).items()])

    def _change(self, changes: Changes, places: Sequence[int]) -> list[int]:
        """Write the new values of some keys; return the places of those that others have changed meanwhile."""
        pairs = [(changes.keys[place], changes.tombstones[place]) for place in places]
        stored = self._items.get_many([key for pair in pairs for key in pair])
        before = [stored.get(key) for key, _ in pairs]
        after = changes.values(places, before, [tombstone in stored for _, tombstone in pairs])
        new = [(place, *pair, old, value) for place, pair, old, value in zip(places, pairs, before, after, strict=True)
               if value is not None]  # fmt: skip
        lost: list[int] = []
        for begin, end in parts([len(old or b"") + len(value) for *_, old, value in new], ROWS_MAX):
            lost += self._swap(new[begin:end])
        return lost

    def _swap(self, new: Sequence[tuple[int, bytes, bytes, bytes | None, bytes]]) -> list[int]:
        """Write some values that are as they were; return the places of those that are not."""
        lost: list[int] = []
        left = list(new)
        while left:
            tombstones = list(dict.fromkeys(tombstone for _, _, tombstone, _, _ in left))
            actions = [put(self._table, key, value, unchanged(old)) for _, key, _, old, value in left]
            refused = self._items.write([*actions, *(absent(self._table, key) for key in tombstones)])
            if not refused:
                break
            gone = {tombstones[number - len(left)] for number in refused if number >= len(left)}
            is_lost = [number in refused or each[2] in gone for number, each in enumerate(left)]
            lost += [each[0] for each, is_own in zip(left, is_lost, strict=True) if is_own]
            left = [each for each, is_own in zip(left, is_lost, strict=True) if not is_own]
        return sorted(lost)

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._items.get_many([key]).get(key)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _write_under(self, run: Run, actions: Sequence[dict[str, Any]]) -> bool:
        """Write some actions while the run is the last; return whether they were. Raises LeaseError where it is not."""
        mark = {"ConditionCheck": {"TableName": self._table.name, "Key": name_of(run.key), **unchanged(run.mark)}}
        refused = self._items.write([mark, *actions])
        if 0 in refused:
            raise lost_run(run, self.get(run.key), self.where)
        return not refused

    def _overtaken(self, count: int) -> StoreError:
        return StoreError(f"{count} values were changed by others again and again", where=self.where,
                          next="let one consumer have the events of an entity: partition them by it")  # fmt: skip

    def _find_table(self, create: bool) -> None:
        """Make sure that the table is there. Raises NoStoreError where it is not and may not be made."""
        end_s = time.monotonic() + CREATE_S_MAX
        is_asked_for = False
        while True:
            try:
                status = self._client.describe_table(TableName=self._table.name)["Table"]["TableStatus"]
            except self._items.errors as error:
                if code_of(error) != "ResourceNotFoundException":
                    raise StoreError(f"cannot be asked: {error}", where=self.where, next=NEXT) from None
                if not create:
                    next_step = "name the one that is served, or write it: tailrace materialize FILE"
                    raise NoStoreError("there is no such table", where=self.where, next=next_step) from None
                status = None
            if status in {"ACTIVE", "UPDATING"}:
                return
            if status is None and not is_asked_for:
                self._create_table()
                is_asked_for = True
            if time.monotonic() > end_s:
                raise StoreError(f"the table is {status} still", where=self.where, next=NEXT)
            time.sleep(0.1)

    def _create_table(self) -> None:
        try:
            self._client.create_table(
                TableName=self._table.name,
                AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except self._items.errors as error:
            if code_of(error) != "ResourceInUseException":  # another has just made it
                raise StoreError(f"the table cannot be made: {error}", where=self.where, next=NEXT) from None


class _Overlay:
    """Stored values, and what is put over them: a page may have two rows of a key."""

    def __init__(self, stored: dict[bytes, bytes]) -> None:
        self.puts: dict[bytes, bytes] = {}
        self._stored = stored

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        return self.puts.get(key, self._stored.get(key))

    def put(self, key: bytes, value: bytes) -> None:
        """Put a value."""
        self.puts[key] = value
