"""A payment scored by windows of its customer's payments and of its terminal's labels: all that it is served is told.

Twice: each request being an event itself, and asking alone. The budget is so long that a busy machine degrades nothing.
"""

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


class Features(tr.Response):
    score: float
    count_5m: int
    mean_5m: float
    sum_5m: float
    max_5m: float
    count_1h: int
    mean_1h: float
    sum_1h: float
    max_1h: float
    count_1d: int
    mean_1d: float
    sum_1d: float
    max_1d: float
    count_7d: int
    mean_7d: float
    sum_7d: float
    max_7d: float
    count_30d: int
    mean_30d: float
    sum_30d: float
    max_30d: float
    known_1d: int
    frauds_1d: float
    known_7d: int
    frauds_7d: float
    known_30d: int
    frauds_30d: float


payments = tr.Stream("payments", schema=Payment, time="time", id="transaction_id", lateness="10m")
labels = tr.Stream("labels", schema=Label, time="time", id="transaction_id", lateness="8d")


class CustomerWindows(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count_5m: int = tr.count(window="5m")
    mean_5m: float = tr.mean("amount", window="5m", decimals=2)
    sum_5m: float = tr.sum("amount", window="5m", decimals=2)
    max_5m: float = tr.max("amount", window="5m")
    count_1h: int = tr.count(window="1h")
    mean_1h: float = tr.mean("amount", window="1h", decimals=2)
    sum_1h: float = tr.sum("amount", window="1h", decimals=2)
    max_1h: float = tr.max("amount", window="1h")
    count_1d: int = tr.count(window="1d")
    mean_1d: float = tr.mean("amount", window="1d", decimals=2)
    sum_1d: float = tr.sum("amount", window="1d", decimals=2)
    max_1d: float = tr.max("amount", window="1d")
    count_7d: int = tr.count(window="7d")
    mean_7d: float = tr.mean("amount", window="7d", decimals=2)
    sum_7d: float = tr.sum("amount", window="7d", decimals=2)
    max_7d: float = tr.max("amount", window="7d")
    count_30d: int = tr.count(window="30d")
    mean_30d: float = tr.mean("amount", window="30d", decimals=2)
    sum_30d: float = tr.sum("amount", window="30d", decimals=2)
    max_30d: float = tr.max("amount", window="30d")


class TerminalLabels(tr.StreamFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    stream = labels
    known_1d: int = tr.count(window="1d", delay="7d")
    frauds_1d: float = tr.mean("is_fraud", window="1d", delay="7d")
    known_7d: int = tr.count(window="7d", delay="7d")
    frauds_7d: float = tr.mean("is_fraud", window="7d", delay="7d")
    known_30d: int = tr.count(window="30d", delay="7d")
    frauds_30d: float = tr.mean("is_fraud", window="30d", delay="7d")


recorded = tr.Pipeline(
    name="recorded",
    request=Payment,
    response=Features,
    features=[CustomerWindows, TerminalLabels],
    model=tr.Model("replay"),
    budget=tr.Budget("60s", features="40s"),
    time="time",
    record_requests=True,
)
asked = tr.Pipeline(
    name="asked",
    request=Payment,
    response=Features,
    features=[CustomerWindows, TerminalLabels],
    model=tr.Model("replay"),
    budget=tr.Budget("60s", features="40s"),
    time="time",
)
