"""Two views whose stored values follow from the entity's id, so that an answer shows whose values it carries."""

import tailrace as tr


class Visit(tr.Request):
    customer_id: int
    shop_id: str


class Seen(tr.Response):
    customer_id: int
    shop_id: str
    spend: float
    rank: int
    score: float


class CustomerSpend(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("customers.parquet")
    spend: float = -1.0


class ShopRank(tr.BatchFeatureView):
    entity = tr.Entity("shop", key="shop_id")
    source = tr.Parquet("shops.parquet")
    rank: int = -1


faulted = tr.Pipeline(
    name="faulted",
    request=Visit,
    response=Seen,
    features=[CustomerSpend, ShopRank],
    model=tr.Model("faulted"),
    budget=tr.Budget("250ms", features="50ms"),
    store="lmdb:visits",
)
