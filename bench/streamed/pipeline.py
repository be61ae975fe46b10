"""The fraud example's shape, twice: 24 inputs of which 20 are windows, or the same columns looked up as last night's.

Two entities with five windows of count and mean each, and one model of 200 trees. `bench/streamed_world.py` makes what
is under BUILD.
"""

from datetime import datetime
from typing import Annotated

import numpy as np

import tailrace as tr

BUILD = "../../build/bench/streamed"


class Payment(tr.Request):
    """A card payment."""

    transaction_id: int
    customer_id: int
    terminal_id: int
    amount: Annotated[float, tr.Field(ge=0, le=100_000)]
    time: datetime


class Decision(tr.Response):
    """What becomes of it."""

    decision: str
    score: float
    customer_count_5m: int


payments = tr.Stream(
    "payments", schema=Payment, time="time", id="transaction_id", source=tr.Parquet(f"{BUILD}/events.parquet")
)
customer = tr.Entity("customer", key="customer_id")
terminal = tr.Entity("terminal", key="terminal_id")


class CustomerWindows(tr.StreamFeatureView):
    """What the customer did until just before."""

    entity = customer
    stream = payments
    customer_count_5m: int = tr.count(window="5m")
    customer_count_1h: int = tr.count(window="1h")
    customer_count_1d: int = tr.count(window="1d")
    customer_count_7d: int = tr.count(window="7d")
    customer_count_30d: int = tr.count(window="30d")
    customer_mean_5m: float = tr.mean("amount", window="5m", decimals=2)
    customer_mean_1h: float = tr.mean("amount", window="1h", decimals=2)
    customer_mean_1d: float = tr.mean("amount", window="1d", decimals=2)
    customer_mean_7d: float = tr.mean("amount", window="7d", decimals=2)
    customer_mean_30d: float = tr.mean("amount", window="30d", decimals=2)


class TerminalWindows(tr.StreamFeatureView):
    """What happened at the terminal until just before."""

    entity = terminal
    stream = payments
    terminal_count_5m: int = tr.count(window="5m")
    terminal_count_1h: int = tr.count(window="1h")
    terminal_count_1d: int = tr.count(window="1d")
    terminal_count_7d: int = tr.count(window="7d")
    terminal_count_30d: int = tr.count(window="30d")
    terminal_mean_5m: float = tr.mean("amount", window="5m", decimals=2)
    terminal_mean_1h: float = tr.mean("amount", window="1h", decimals=2)
    terminal_mean_1d: float = tr.mean("amount", window="1d", decimals=2)
    terminal_mean_7d: float = tr.mean("amount", window="7d", decimals=2)
    terminal_mean_30d: float = tr.mean("amount", window="30d", decimals=2)


class CustomerProfile(tr.BatchFeatureView):
    """The same columns as of last night."""

    entity = customer
    source = tr.Parquet(f"{BUILD}/customers.parquet")
    customer_count_5m: int = 0
    customer_count_1h: int = 0
    customer_count_1d: int = 0
    customer_count_7d: int = 0
    customer_count_30d: int = 0
    customer_mean_5m: float = 0.0
    customer_mean_1h: float = 0.0
    customer_mean_1d: float = 0.0
    customer_mean_7d: float = 0.0
    customer_mean_30d: float = 0.0


class TerminalProfile(tr.BatchFeatureView):
    """The same columns as of last night."""

    entity = terminal
    source = tr.Parquet(f"{BUILD}/terminals.parquet")
    terminal_count_5m: int = 0
    terminal_count_1h: int = 0
    terminal_count_1d: int = 0
    terminal_count_7d: int = 0
    terminal_count_30d: int = 0
    terminal_mean_5m: float = 0.0
    terminal_mean_1h: float = 0.0
    terminal_mean_1d: float = 0.0
    terminal_mean_7d: float = 0.0
    terminal_mean_30d: float = 0.0


@tr.on_demand
def windows_ratio(request: Payment, customer: CustomerWindows) -> np.ndarray:
    """How many times the customer's mean this is."""
    return request.amount / np.maximum(customer.customer_mean_30d, 1.0)


@tr.on_demand
def profile_ratio(request: Payment, customer: CustomerProfile) -> np.ndarray:
    """How many times the customer's mean this is."""
    return request.amount / np.maximum(customer.customer_mean_30d, 1.0)


@tr.on_demand
def hour(request: Payment) -> np.ndarray:
    """Take the hour of the day."""
    return request.time.astype("datetime64[h]").astype(np.int64) % 24


@tr.on_demand
def weekday(request: Payment) -> np.ndarray:
    """Take the day of the week."""
    return request.time.astype("datetime64[D]").astype(np.int64) % 7


BUDGET = tr.Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms")
BANDS = tr.bands("score", allow=0.0, review=0.5, block=0.9)

stream = tr.Pipeline(
    name="stream", request=Payment, response=Decision,
    features=[Payment.amount, windows_ratio, hour, weekday, CustomerWindows, TerminalWindows],
    model=tr.Model("stream", path=f"{BUILD}/stream", fallback=tr.Constant(0.5)),
    decision=BANDS, budget=BUDGET, store=f"lmdb:{BUILD}/store", time="time",
)  # fmt: skip

batch = tr.Pipeline(
    name="batch", request=Payment, response=Decision,
    features=[Payment.amount, profile_ratio, hour, weekday, CustomerProfile, TerminalProfile],
    model=tr.Model("batch", path=f"{BUILD}/batch", fallback=tr.Constant(0.5)),
    decision=BANDS, budget=BUDGET, store=f"lmdb:{BUILD}/store",
)  # fmt: skip
