"""A payment scored by what its customer and its terminal did just before, each payment being an event itself."""

from datetime import datetime

import tailrace as tr


class Payment(tr.Request):
    transaction_id: int
    customer_id: int
    terminal_id: int
    amount: float
    time: datetime


class Label(tr.Request):
    transaction_id: int
    terminal_id: int
    is_fraud: int
    time: datetime


class Decision(tr.Response):
    score: float
    count_5m: int
    mean_5m: float
    count_1h: int
    mean_1h: float
    count_1d: int
    mean_1d: float
    count_7d: int
    mean_7d: float
    count_30d: int
    mean_30d: float
    spent_1d: float
    seen_1d: int
    seen_7d: int
    fraud_share_7d: float


payments = tr.Stream("payments", schema=Payment, time="time", id="transaction_id")
labels = tr.Stream("labels", schema=Label, time="time", id="transaction_id", lateness="8d")


class CustomerActivity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count_5m: int = tr.count(window="5m")
    mean_5m: float = tr.mean("amount", window="5m", decimals=2)
    count_1h: int = tr.count(window="1h")
    mean_1h: float = tr.mean("amount", window="1h", decimals=2)
    count_1d: int = tr.count(window="1d")
    mean_1d: float = tr.mean("amount", window="1d", decimals=2)
    count_7d: int = tr.count(window="7d")
    mean_7d: float = tr.mean("amount", window="7d", decimals=2)
    count_30d: int = tr.count(window="30d")
    mean_30d: float = tr.mean("amount", window="30d", decimals=2)
    spent_1d: float = tr.sum("amount", window="1d", decimals=2, include_current=True)


class TerminalActivity(tr.StreamFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    stream = payments
    seen_1d: int = tr.count(window="1d")
    seen_7d: int = tr.count(window="7d")


class TerminalFrauds(tr.StreamFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    stream = labels
    fraud_share_7d: float = tr.mean("is_fraud", window="7d", delay="7d")


activity = tr.Pipeline(
    name="activity",
    request=Payment,
    response=Decision,
    features=[Payment.amount, CustomerActivity, TerminalActivity, TerminalFrauds],
    model=tr.Model("activity"),
    budget=tr.Budget("500ms", features="250ms"),
    time="time",
    record_requests=True,
)
