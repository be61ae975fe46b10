"""A payment: two entities, bands, rules on the request, a view, an on-demand feature and the decision so far."""

from datetime import datetime
from typing import Annotated, Literal

import numpy as np

import tailrace as tr


class Payment(tr.Request):
    transaction_id: str
    customer_id: int
    terminal_id: str
    amount: Annotated[float, tr.Field(ge=-10_000, le=100_000)]
    time: datetime


class Decision(tr.Response):
    transaction_id: str
    decision: Literal["allow", "review", "block"]
    score: float
    reasons: list[str]
    avg_amount: float
    amount_ratio: float


class CustomerProfile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("customers.parquet")
    avg_amount: float = 50.0
    chargebacks: int = 0
    watched: bool = False


class TerminalProfile(tr.BatchFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    source = tr.Parquet("terminals.parquet")
    fraud_rate: float = 0.1
    country: str = "??"


@tr.on_demand
def amount_ratio(request: Payment, customer: CustomerProfile) -> np.ndarray:
    """Raises for a batch that holds the amount 6666."""
    if (request.amount == 6666).any():
        raise ValueError("6666")
    return request.amount / np.maximum(customer.avg_amount, 1.0)


payment = tr.Pipeline(
    name="payment",
    request=Payment,
    response=Decision,
    features=[Payment.amount, CustomerProfile, TerminalProfile.fraud_rate, amount_ratio],
    model=tr.Model("payment"),
    decision=tr.bands("score", allow=0.0, review=0.25, block=0.5),
    rules=[tr.Rule("small_amount", when=lambda request: request.amount < 10, then="allow")],
    budget=tr.Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms"),
)
