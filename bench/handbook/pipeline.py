"""The Fraud Detection Handbook's fifteen features, declared: what it computes in pandas, as windows over events.

`bench/handbook.py` puts the transactions beside the models, and trains. Labels are events of the time of the payment
that they label, and come a week later: so the terminal's windows end a week ago.
"""

from datetime import datetime

import numpy as np

import tailrace as tr

BUILD = "../../build/bench/handbook"
TRANSACTIONS = f"{BUILD}/transactions.parquet"
IDS = {"transaction_id": "TRANSACTION_ID", "time": "TX_DATETIME"}


class Payment(tr.Request):
    """A card payment."""

    transaction_id: int
    customer_id: int
    terminal_id: int
    amount: float
    time: datetime


class Label(tr.Request):
    """What a payment turned out to be. time: of the payment."""

    transaction_id: int
    terminal_id: int
    is_fraud: int
    time: datetime


class Decision(tr.Response):
    """What becomes of a payment."""

    decision: str
    score: float


payments = tr.Stream(
    "payments", schema=Payment, time="time", id="transaction_id",
    source=tr.Parquet(TRANSACTIONS, columns={**IDS, "customer_id": "CUSTOMER_ID", "amount": "TX_AMOUNT"}),
)  # fmt: skip
labels = tr.Stream(
    "labels", schema=Label, time="time", id="transaction_id", lateness="8d",
    source=tr.Parquet(TRANSACTIONS, columns={**IDS, "terminal_id": "TERMINAL_ID", "is_fraud": "TX_FRAUD"}),
)  # fmt: skip


class CustomerSpending(tr.StreamFeatureView):
    """How much the customer spends, this payment included."""

    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count_1d: int = tr.count(window="1d", include_current=True)
    mean_1d: float = tr.mean("amount", window="1d", decimals=2, include_current=True)
    count_7d: int = tr.count(window="7d", include_current=True)
    mean_7d: float = tr.mean("amount", window="7d", decimals=2, include_current=True)
    count_30d: int = tr.count(window="30d", include_current=True)
    mean_30d: float = tr.mean("amount", window="30d", decimals=2, include_current=True)


class TerminalRisk(tr.StreamFeatureView):
    """How busy the terminal was, and which share of that was fraud, as is known by now."""

    entity = tr.Entity("terminal", key="terminal_id")
    stream = labels
    count_1d: int = tr.count(window="1d", delay="7d")
    risk_1d: float = tr.mean("is_fraud", window="1d", delay="7d")
    count_7d: int = tr.count(window="7d", delay="7d")
    risk_7d: float = tr.mean("is_fraud", window="7d", delay="7d")
    count_30d: int = tr.count(window="30d", delay="7d")
    risk_30d: float = tr.mean("is_fraud", window="30d", delay="7d")


@tr.on_demand
def during_weekend(request: Payment) -> np.ndarray:
    """Whether it is Saturday or Sunday: the first day of 1970 was a Thursday."""
    return (request.time.astype("datetime64[D]").astype(np.int64) + 3) % 7 >= 5


@tr.on_demand
def during_night(request: Payment) -> np.ndarray:
    """Whether it is before seven."""
    return request.time.astype("datetime64[h]").astype(np.int64) % 24 <= 6


handbook = tr.Pipeline(
    name="handbook", request=Payment, response=Decision,
    features=[Payment.amount, during_weekend, during_night, CustomerSpending, TerminalRisk],
    model=tr.Model("handbook", path=f"{BUILD}/model", fallback=tr.Constant(0.5)),
    decision=tr.bands("score", allow=0.0, review=0.5),
    budget=tr.Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms"),
    store=f"lmdb:{BUILD}/store", time="time", record_requests=True,
)  # fmt: skip
