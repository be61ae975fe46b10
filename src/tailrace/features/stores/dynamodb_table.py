"""A table of DynamoDB: how a URL names it, how keys and values stand in it, and a client of it.

k (S, the partition key)     the key, a character a byte (Latin-1), so that `{customer:4021}…` can be read
v (B)                        the value
until (N)                    of a lease: when it ends, in ms since the epoch
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tailrace.errors import StoreError

NEXT: Final = "see: aws dynamodb describe-table --table-name TABLE"
_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_OPTIONS: Final = frozenset({"region", "endpoint", "consistent"})
_WRITE_AS: Final = "write dynamodb://TABLE?region=eu-west-1, with &endpoint=… and &consistent=false if need be"

BUSY: Final = frozenset({
    "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError",
    "ServiceUnavailable",
})  # fmt: skip
"""Errors after which the same call may be answered."""


@dataclass(frozen=True, slots=True)
class DynamoTable:
    """A table: `dynamodb://TABLE?region=…&endpoint=…&consistent=false`.

    region, endpoint: None for what AWS's own settings say. is_consistent: whether a read sees every write before it;
    else it costs half, and may be some milliseconds behind. Keys and passwords are AWS's own affair, never the URL's.
    """

    name: str
    region: str | None
    endpoint: str | None
    is_consistent: bool

    @staticmethod
    def parse(url: str) -> DynamoTable:
        """Return the table in a URL. Raises StoreError for one that is none."""
        shown = url.partition("?")[0].rpartition("@")[2]
        try:
            parts = urlsplit(url)
            options = {
                name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
        except ValueError:
            raise StoreError("not an address of DynamoDB", where=shown, next=_WRITE_AS) from None
        consistent = options.get("consistent", "true")
        is_right = _TABLE.fullmatch(parts.netloc) and parts.path in {"", "/"} and options.keys() <= _OPTIONS
        if not is_right or consistent not in {"true", "false"}:
            raise StoreError("not an address of DynamoDB", where=shown, next=_WRITE_AS)
        return DynamoTable(parts.netloc, options.get("region"), options.get("endpoint"), consistent == "true")

    @property
    def where(self) -> str:
        """What stands in messages."""
        return f"dynamodb://{self.name}"

    def client(self, *, connections: int, attempts: int, connect_s: float, answer_s: float) -> Any:
        """Return a client of boto3, which many threads may use. Raises StoreError without boto3, region or keys."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise StoreError("boto3 is not installed", where=self.where,
                             next="pip install 'tailrace[dynamodb]'") from None  # fmt: skip
        config = Config(
            connect_timeout=connect_s, read_timeout=answer_s, max_pool_connections=connections, tcp_keepalive=True,
            retries={"total_max_attempts": attempts, "mode": "standard"},
        )  # fmt: skip
        try:
            session = boto3.session.Session()
            return session.client("dynamodb", region_name=self.region, endpoint_url=self.endpoint, config=config)
        except (BotoCoreError, ValueError) as error:
            raise StoreError(f"cannot be asked: {error}", where=self.where, next=_WRITE_AS) from None

    def get_batch(self, client: Any, keys: Sequence[dict[str, Any]], found: dict[bytes, bytes]) -> list[dict[str, Any]]:
        """Put the values of at most 100 keys, no two the same, among those found; return the keys left to be asked."""
        request = {"Keys": list(keys), "ConsistentRead": self.is_consistent, "ProjectionExpression": "k, v"}
        answer = client.batch_get_item(RequestItems={self.name: request})
        found.update((key_of(item), item["v"]["B"]) for item in answer["Responses"].get(self.name, ()))
        left: list[dict[str, Any]] = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
        return left


def name_of(key: bytes) -> dict[str, Any]:
    """Return how a key is named in a request."""
    return {"k": {"S": key.decode("latin-1")}}


def names_of(keys: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return how some keys are named in a request."""
    return [name_of(key) for key in keys]


def key_of(item: dict[str, Any]) -> bytes:
    """Return the key of an item."""
    key: str = item["k"]["S"]
    return key.encode("latin-1")


def code_of(error: Any) -> str:
    """Return the code of an error of AWS, "" where it has none."""
    return getattr(error, "response", {}).get("Error", {}).get("Code", "")  # type: ignore[no-any-return]
