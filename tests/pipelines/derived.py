"""A purchase scored by its item's category and what its customer buys of it; a ranking of items by the same."""

from datetime import datetime

import tailrace as tr


class Purchase(tr.Request):
    purchase_id: int
    customer_id: int
    item_id: int
    amount: float
    time: datetime


class Bought(tr.Request):
    purchase_id: int
    customer_id: int
    category_id: int
    amount: float
    time: datetime


class Decision(tr.Response):
    score: float
    margin: float
    heads: float
    count_1d: int
    own_1d: int
    spent_1d: float


bought = tr.Stream("bought", schema=Bought, time="time", id="purchase_id", source=tr.Parquet("bought.parquet"))


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_id")
    source = tr.Parquet("items.parquet", time="as_of")
    price: float = 1.0
    category_id: int = 0


class Category(tr.BatchFeatureView):
    entity = tr.Entity("category", key=Item.category_id)
    source = tr.Parquet("categories.parquet", time="as_of")
    margin: float = -1.0
    department: str = ""


class CustomerCategory(tr.StreamFeatureView):
    entity = tr.Entity("customer_category", key=("customer_id", Item.category_id))
    stream = bought
    count_1d: int = tr.count(window="1d", default=0)
    own_1d: int = tr.count(window="1d", include_current=True)
    spent_1d: float = tr.sum("amount", window="1d", decimals=2, default=-1.0)


class Department(tr.BatchFeatureView):
    entity = tr.Entity("department", key=Category.department)
    source = tr.Parquet("departments.parquet", time="as_of")
    heads: float = -2.0


derived = tr.Pipeline(
    name="derived",
    request=Purchase,
    response=Decision,
    features=[Purchase.amount, CustomerCategory, Department.heads, Category.margin],
    model=tr.Model("derived"),
    budget=tr.Budget("10s"),
    time="time",
)


class Ranking(tr.Request):
    user_id: str
    item_ids: list[int]


class Ranked(tr.Response):
    score: list[float]
    liking: list[float]
    margin: list[float]
    tax: list[float]
    local: list[float]


class User(tr.BatchFeatureView):
    entity = tr.Entity("user", key="user_id")
    source = tr.CSV("users.csv")
    region: str = ""


class RankedItem(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.CSV("ranked_items.csv", key="item_id")
    category_id: int = 0


class UserCategory(tr.BatchFeatureView):
    entity = tr.Entity("user_category", key=("user_id", RankedItem.category_id))
    source = tr.CSV("user_categories.csv")
    liking: float = 0.5


class RankedCategory(tr.BatchFeatureView):
    entity = tr.Entity("category", key=RankedItem.category_id)
    source = tr.CSV("ranked_categories.csv")
    margin: float = -1.0


class Region(tr.BatchFeatureView):
    entity = tr.Entity("region", key=User.region)
    source = tr.CSV("regions.csv")
    tax: float = 0.0


class RegionCategory(tr.BatchFeatureView):
    entity = tr.Entity("region_category", key=(User.region, RankedItem.category_id))
    source = tr.CSV("region_categories.csv")
    local: float = -3.0


derived_ranked = tr.Pipeline(
    name="derived_ranked",
    request=Ranking,
    response=Ranked,
    features=[UserCategory, RankedCategory, Region, RegionCategory],
    model=tr.Model("derived_ranked"),
    budget=tr.Budget("10s"),
)
