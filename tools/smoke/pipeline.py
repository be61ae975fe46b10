"""What the smokes serve: three views, one of each kind of source, and a model of trees."""

from typing import Annotated, Literal

import tailrace as tr


class Payment(tr.Request):
    """A payment."""

    customer_id: int
    amount: Annotated[float, tr.Field(ge=0, le=1_000)]


class Decision(tr.Response):
    """What becomes of it."""

    decision: Literal["allow", "block"]
    score: float


customer = tr.Entity("customer", key="customer_id")


class FromParquet(tr.BatchFeatureView):
    """A view of a Parquet file."""

    entity = customer
    source = tr.Parquet("customers.parquet", time="as_of")
    spent: float = 0.0


class FromCsv(tr.BatchFeatureView):
    """A view of a CSV file."""

    entity = customer
    source = tr.CSV("customers.csv", time="as_of")
    returned: int = 0


class FromSql(tr.BatchFeatureView):
    """A view of a SQL file."""

    entity = customer
    source = tr.SQL("customers.sql", time="as_of")
    spent_twice: float = 0.0


smoke = tr.Pipeline(
    name="smoke",
    request=Payment,
    response=Decision,
    features=[Payment.amount, FromParquet, FromCsv, FromSql],
    model=tr.Model("smoke"),
    decision=tr.bands("score", allow=0.0, block=0.5),
    budget=tr.Budget("30s", request="5s", features="5s", inference="5s", postprocess="5s", response="5s"),
)
