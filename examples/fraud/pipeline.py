"""Card fraud: allow, review or block a payment within 50 ms. `prepare.py` makes what is under BUILD."""

from datetime import datetime
from typing import Annotated, Literal

import numpy as np

import tailrace as tr

BUILD = "../../build/fraud"


class Payment(tr.Request):
    """A card payment that waits for an answer."""

    transaction_id: str
    customer_id: int
    terminal_id: int
    amount: Annotated[float, tr.Field(ge=0, le=100_000)]
    time: datetime


class Label(tr.Request):
    """What is known of a payment a week after it, with the payment's own time."""

    transaction_id: str
    terminal_id: int
    is_fraud: bool
    time: datetime


class Decision(tr.Response):
    """What becomes of it, and the codes of the rules that spoke."""

    transaction_id: str
    decision: Literal["allow", "review", "block"]
    score: float
    reasons: list[str]


customer = tr.Entity("customer", key="customer_id")
terminal = tr.Entity("terminal", key="terminal_id")
payments = tr.Stream(
    "payments",
    schema=Payment,  # the request is the event: it counts for all that come after it
    time="time",
    id="transaction_id",
    lateness="1d",
    source=tr.Parquet(f"{BUILD}/payments/*.parquet"),
)
labels = tr.Stream(
    "labels",
    schema=Label,
    time="time",
    id="transaction_id",
    lateness="7d",
    source=tr.Parquet(f"{BUILD}/labels/*.parquet"),
)


class CustomerProfile(tr.BatchFeatureView):
    """How the customer paid until last midnight."""

    entity = customer
    source = tr.Parquet(f"{BUILD}/customer_profile.parquet", time="as_of")
    max_staleness = "3d"
    tx_count_1d: int = 0  # what an unknown customer gets: train with it too
    tx_count_7d: int = 0
    tx_count_30d: int = 0
    chargebacks_90d: int = 0
    avg_amount_7d: float = 0.0
    avg_amount_30d: float = 0.0
    avg_amount_90d: float = 0.0
    std_amount_90d: float = 0.0
    max_amount_7d: float = 0.0
    max_amount_90d: float = 0.0
    night_share_90d: float = 0.0


class TerminalProfile(tr.BatchFeatureView):
    """What happened at the terminal until last midnight; fraud is known a week later."""

    entity = terminal
    source = tr.Parquet(f"{BUILD}/terminal_profile.parquet", time="as_of")
    max_staleness = "3d"
    tx_count_1d: int = 0
    tx_count_7d: int = 0
    tx_count_30d: int = 0
    chargebacks_30d: int = 0
    avg_amount_7d: float = 0.0
    avg_amount_30d: float = 0.0
    fraud_rate_1d: float = 0.0
    fraud_rate_7d: float = 0.0
    fraud_rate_30d: float = 0.0


class CustomerActivity(tr.StreamFeatureView):
    """What the customer did until this moment."""

    entity = customer
    stream = payments
    tx_count_5m: int = tr.count(window="5m")
    tx_count_1h: int = tr.count(window="1h")
    tx_count_1d: int = tr.count(window="1d")
    tx_count_7d: int = tr.count(window="7d")
    tx_count_30d: int = tr.count(window="30d")
    avg_amount_5m: float = tr.mean("amount", window="5m", decimals=2)
    avg_amount_1h: float = tr.mean("amount", window="1h", decimals=2)
    avg_amount_1d: float = tr.mean("amount", window="1d", decimals=2)
    avg_amount_7d: float = tr.mean("amount", window="7d", decimals=2)
    avg_amount_30d: float = tr.mean("amount", window="30d", decimals=2)


class TerminalLabels(tr.StreamFeatureView):
    """What is told by this moment of the terminal's payments: those of a week ago and before."""

    entity = terminal
    stream = labels
    told_1d: int = tr.count(window="1d", delay="7d")
    told_7d: int = tr.count(window="7d", delay="7d")
    told_30d: int = tr.count(window="30d", delay="7d")
    fraud_share_1d: float = tr.mean("is_fraud", window="1d", delay="7d")
    fraud_share_7d: float = tr.mean("is_fraud", window="7d", delay="7d")
    fraud_share_30d: float = tr.mean("is_fraud", window="30d", delay="7d")


@tr.on_demand
def amount_ratio(request: Payment, customer: CustomerProfile) -> np.ndarray:
    """How many times the customer's usual amount this is."""
    return request.amount / np.maximum(customer.avg_amount_30d, 1.0)  # columns, not one request


@tr.on_demand
def amount_zscore(request: Payment, customer: CustomerProfile) -> np.ndarray:
    """How many of the customer's standard deviations this lies off the mean."""
    return (request.amount - customer.avg_amount_90d) / np.maximum(customer.std_amount_90d, 1.0)


@tr.on_demand
def hour(request: Payment) -> np.ndarray:
    """Take the hour of the day, in UTC."""
    return request.time.astype("datetime64[h]").astype(np.int64) % 24


fraud = tr.Pipeline(
    name="fraud",
    request=Payment,
    response=Decision,
    features=[
        Payment.amount, amount_ratio, amount_zscore, hour,
        CustomerProfile, TerminalProfile,  # as of last night
        CustomerActivity, TerminalLabels,  # as of now
    ],
    model=tr.Model("fraud", path=f"{BUILD}/model", fallback=tr.Constant(0.5)),
    decision=tr.bands("score", allow=0.0, review=0.1, block=0.5),
    rules=[tr.Rule("small_amount", when=lambda request: request.amount < 10, then="allow")],
    budget=tr.Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms"),
    store=f"lmdb:{BUILD}/store",
    time="time",
    record_requests=True,
)  # fmt: skip
