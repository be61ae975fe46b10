"""A view of a million rows that is refreshed without a pause while it is read, and a constant for a model.

`bench/refreshing.py` makes what is under BUILD.
"""

import tailrace as tr

BUILD = "../../build/bench/refreshed"


class Ask(tr.Request):
    """Whom it is about."""

    customer_id: int


class Told(tr.Response):
    """What is known of the customer."""

    score: float
    payments_30d: int
    mean_30d: float


class Profile(tr.BatchFeatureView):
    """What a warehouse knows."""

    entity = tr.Entity("customer", key="customer_id")
    source = tr.SQL("profile.sql")
    refresh = tr.every("1s")
    payments_30d: int = 0
    chargebacks_1y: int = 0
    mean_7d: float = 0.0
    mean_30d: float = 0.0
    mean_90d: float = 0.0
    largest_90d: float = 0.0


refreshed = tr.Pipeline(
    name="refreshed", request=Ask, response=Told, features=[Profile],
    model=tr.Model("constant", path=f"{BUILD}/constant"), budget=tr.Budget("50ms"), store=f"lmdb:{BUILD}/store",
)  # fmt: skip
