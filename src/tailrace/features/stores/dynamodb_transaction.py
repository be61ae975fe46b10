"""Transactions of DynamoDB: puts, removals and conditions that happen together or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from tailrace.errors import StoreError
from tailrace.features.stores.dynamodb_table import NEXT, DynamoTable, code_of, name_of, names_of

ACTIONS_MAX: Final = 100
"""Of one transaction."""

BYTES_MAX: Final = 3_000_000
"""Of one transaction, which DynamoDB takes up to 4 MB of."""

_PUT_OFF: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
"""Reasons for which a transaction is cancelled that may be sent again."""

KEYS_PER_CALL: Final = 100
CONFLICTS_MAX: Final = 60
"""How often a transaction is sent that meets another one over the same items."""

PAUSE_S_MAX: Final = 0.2

Action = dict[str, Any]


def put(table: DynamoTable, key: bytes, value: bytes, condition: dict[str, Any] | None = None) -> Action:
    """Return the writing of a value, if a condition on the one that is there holds."""
    return {"Put": {"TableName": table.name, "Item": name_of(key) | {"v": {"B": value}}, **(condition or {})}}


def remove(table: DynamoTable, key: bytes) -> Action:
    """Return the removal of a key, which need not be there."""
    return {"Delete": {"TableName": table.name, "Key": name_of(key)}}


def absent(table: DynamoTable, key: bytes) -> Action:
    """Return the condition that a key is not there."""
    return {"ConditionCheck": {"TableName": table.name, "Key": name_of(key), **unchanged(None)}}


def unchanged(value: bytes | None) -> dict[str, Any]:
    """Return the condition that an item's value is this one; None for no item."""
    if value is None:
        return {"ConditionExpression": "attribute_not_exists(k)"}
    return {"ConditionExpression": "v = :v", "ExpressionAttributeValues": {":v": {"B": value}}}


def parts(sizes: Sequence[int], count_max: int) -> Iterator[tuple[int, int]]:
    """Yield where parts begin and end of so many at most that a transaction takes. sizes: in bytes."""
    begin = total = 0
    for place, size in enumerate(sizes):
        if place > begin and (place - begin == count_max or total + size > BYTES_MAX):
            yield begin, place
            begin, total = place, 0
        total += size
    if begin < len(sizes):
        yield begin, len(sizes)


class TransactionWriter:
    """Reads and writes the items of a table. Raises StoreError where DynamoDB cannot be asked, or refuses.

    errors: of boto3.
    """

    def __init__(self, table: DynamoTable, client: Any) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        self.table = table
        self.errors: Final = (BotoCoreError, ClientError)
        self._strict = replace(table, is_consistent=True)  # what is compared may not be behind
        self._client = client

    def ask(self, call: str, **request: Any) -> Any:
        """Return what DynamoDB answers to a call, named as boto3 does."""
        try:
            return getattr(self._client, call)(**request)
        except self.errors as error:
            raise self._refused(call, error) from None

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those of some keys that are there, as every write before left them."""
        found: dict[bytes, bytes] = {}
        names = names_of(dict.fromkeys(keys))
        for begin in range(0, len(names), KEYS_PER_CALL):
            left, tries = names[begin : begin + KEYS_PER_CALL], 0
            while left:
                try:
                    left = self._strict.get_batch(self._client, left, found)
                except self.errors as error:
                    raise self._refused("batch_get_item", error) from None
                if left:
                    tries = self._pause(tries, "batch_get_item")
        return found

    def write(self, actions: Sequence[Action]) -> list[int]:
        """Carry out some actions, all or none; return the numbers of those whose condition does not hold.

        Waits and goes on where another transaction is over the same items.
        """
        tries = 0
        while True:
            try:
                self._client.transact_write_items(TransactItems=list(actions))
                return []
            except self.errors as error:
                reasons = getattr(error, "response", {}).get("CancellationReasons", [])
                codes = [reason.get("Code", "None") for reason in reasons]
                refused = [number for number, code in enumerate(codes) if code == "ConditionalCheckFailed"]
                if refused:
                    return refused
                if not _PUT_OFF & set(codes) and code_of(error) != "TransactionInProgressException":
                    raise self._refused("transact_write_items", error) from None
            tries = self._pause(tries, "transact_write_items")

    def write_all(self, actions: Sequence[Action]) -> None:
        """Carry out actions without conditions, as many at a time as a transaction takes."""
        sizes = [len(action.get("Put", {}).get("Item", {}).get("v", {}).get("B", b"")) for action in actions]
        for begin, end in parts(sizes, ACTIONS_MAX):
            self.write(actions[begin:end])

    def _pause(self, tries: int, call: str) -> int:
        """Wait a little longer each time; return how many times that makes. Raises StoreError for too many."""
        if tries == CONFLICTS_MAX:
            raise self._refused(call, f"{tries} times in a row it was put off")
        time.sleep(min(PAUSE_S_MAX, 0.002 * 2 ** min(tries, 10)) * random.random())
        return tries + 1

    def _refused(self, call: str, error: object) -> StoreError:
        return StoreError(f"DynamoDB refused {call}: {error}", where=self.table.where, next=NEXT)
