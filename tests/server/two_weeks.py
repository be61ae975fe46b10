"""Two weeks of the Handbook's payments after a month of history: as requests, as events, and what SQL says of each.

The SQL knows nothing of tiles or states: it joins each payment with all earlier ones of its customer, and with the
labels of its terminal that are a week old.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400
WINDOWS = {"5m": 300, "1h": 3_600, "1d": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}
LABEL_WINDOWS = ("1d", "7d", "30d")
LABEL_AGE_S = 7 * DAY_S
BEGIN_S = int(datetime(2018, 7, 11, tzinfo=UTC).timestamp())
HISTORY_S = WINDOWS["30d"] + LABEL_AGE_S + DAY_S
DAYS = 14
EXACT = [*(f"{kind}_{w}" for w in WINDOWS for kind in ("count", "sum", "max")), *(f"known_{w}" for w in LABEL_WINDOWS)]
CLOSE = [*(f"mean_{window}" for window in WINDOWS), *(f"frauds_{window}" for window in LABEL_WINDOWS)]


class TwoWeeks:
    """The payments, in the order of time and id. days: how many are taken of the fourteen.

    times: of each payment, in seconds since the epoch. payments: the JSON of each, as a request and as an event.
    known: when each label that comes in this time is known; labels: the JSON of each.
    """

    def __init__(self, source: Path, days: int = DAYS) -> None:
        self._connection = duckdb.connect()
        self._connection.execute(
            f"""CREATE TABLE payments AS
                SELECT TRANSACTION_ID::BIGINT AS id, epoch(TX_DATETIME)::BIGINT AS unix_s,
                       CUSTOMER_ID::BIGINT AS customer, TERMINAL_ID::BIGINT AS terminal,
                       round(TX_AMOUNT * 100)::BIGINT AS cents, TX_FRAUD::BIGINT AS fraud
                FROM read_parquet(?)
                WHERE epoch(TX_DATETIME) >= {BEGIN_S - HISTORY_S} AND epoch(TX_DATETIME) < {BEGIN_S + days * DAY_S}""",
            [str(source)],
        )
        rows = self._rows(BEGIN_S)
        self.times = [at_s for _, at_s, *_ in rows]
        self.payments = [_payment(*row) for row in rows]
        rows = self._rows(BEGIN_S - LABEL_AGE_S)
        self.known = [at_s + LABEL_AGE_S for _, at_s, *_ in rows]
        self.labels = [_label(*row) for row in rows]

    def write_history(self, folder: Path) -> dict[str, Path]:
        """Write what came before the two weeks: for each stream, a file of its events."""
        files = {stream: folder / f"{stream}.parquet" for stream in ("payments", "labels")}
        columns = "id AS transaction_id, terminal AS terminal_id, make_timestamp(unix_s * 1000000) AS time"
        self._write(files["payments"], f"{columns}, customer AS customer_id, cents / 100 AS amount", BEGIN_S)
        self._write(files["labels"], f"{columns}, fraud AS is_fraud", BEGIN_S - LABEL_AGE_S)
        return files

    def truth(self) -> dict[str, NDArray[Any]]:
        """Return every feature of every payment."""
        found = self._joined(
            "u.customer = t.customer AND (u.unix_s < t.unix_s OR (u.unix_s = t.unix_s AND u.id < t.id))",
            {"count": "count(u.id)", "cents": "sum(u.cents)", "most": "max(u.cents)"},
            WINDOWS, delay_s=0,
        ) | self._joined(
            f"u.terminal = t.terminal AND u.unix_s < t.unix_s - {LABEL_AGE_S}",
            {"known": "count(u.id)", "fraudulent": "sum(u.fraud)"},
            {name: WINDOWS[name] for name in LABEL_WINDOWS}, delay_s=LABEL_AGE_S,
        )  # fmt: skip
        for window in WINDOWS:
            found[f"sum_{window}"] = found[f"cents_{window}"] / 100
            found[f"max_{window}"] = found[f"most_{window}"] / 100
            found[f"mean_{window}"] = found[f"cents_{window}"] / 100 / np.maximum(found[f"count_{window}"], 1)
        for window in LABEL_WINDOWS:
            found[f"frauds_{window}"] = found[f"fraudulent_{window}"] / np.maximum(found[f"known_{window}"], 1)
        return {name: found[name] for name in (*EXACT, *CLOSE)}

    def _rows(self, since_s: int) -> list[tuple[int, ...]]:
        return self._connection.execute(
            f"SELECT * FROM payments WHERE unix_s >= {since_s} ORDER BY unix_s, id"
        ).fetchall()

    def _write(self, path: Path, columns: str, until_s: int) -> None:
        rows = f"SELECT {columns} FROM payments WHERE unix_s < {until_s} ORDER BY unix_s, id"
        self._connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet)")

    def _joined(
        self, condition: str, values: dict[str, str], windows: dict[str, int], *, delay_s: int
    ) -> dict[str, NDArray[Any]]:
        """Return the read rule in SQL: of each payment, values of what is in each window. Times are whole seconds."""

        def begin(length_s: int) -> str:
            hop_s = max(1, -(-length_s // 60))
            return f"floor((t.unix_s - {delay_s} - {length_s}) / {hop_s}) * {hop_s}"

        columns = [
            f"coalesce({value} FILTER (WHERE u.unix_s >= {begin(length_s)}), 0)::BIGINT AS {name}_{window}"
            for window, length_s in windows.items()
            for name, value in values.items()
        ]
        found: dict[str, NDArray[Any]] = self._connection.execute(
            f"""SELECT {", ".join(columns)}
                FROM (SELECT * FROM payments WHERE unix_s >= {BEGIN_S}) t
                LEFT JOIN payments u ON {condition} AND u.unix_s >= {begin(max(windows.values()))}
                GROUP BY t.id ORDER BY any_value(t.unix_s), t.id"""
        ).fetchnumpy()
        return found


def assert_true(answers: list[dict[str, Any]], truth: dict[str, NDArray[Any]]) -> None:
    """See that each feature of each payment is what SQL says: counts and money exactly, means to 1e-9."""
    for name in EXACT:
        served = np.array([answer[name] for answer in answers])
        wrong = np.flatnonzero(served != truth[name])
        assert not len(wrong), f"{name}: {len(wrong)} of {len(served)}, the first is {wrong[0]}: {served[wrong[0]]}"
    for name in CLOSE:
        served = np.array([answer[name] for answer in answers])
        np.testing.assert_allclose(served, truth[name], rtol=1e-9, atol=1e-12, err_msg=name)


def _text(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def _payment(id_: int, at_s: int, customer: int, terminal: int, cents: int, fraud: int) -> bytes:
    fields = {"transaction_id": id_, "customer_id": customer, "terminal_id": terminal, "amount": cents / 100}
    return json.dumps({**fields, "time": _text(at_s)}).encode()


def _label(id_: int, at_s: int, customer: int, terminal: int, cents: int, fraud: int) -> bytes:
    fields = {"transaction_id": id_, "terminal_id": terminal, "is_fraud": fraud}
    return json.dumps({**fields, "time": _text(at_s)}).encode()
