"""A payment scored by what its customer did at its terminal, and a ranking by what a user thinks of each item."""

from datetime import datetime

import tailrace as tr


class Payment(tr.Request):
    transaction_id: int
    customer_id: int
    terminal_id: str
    amount: float
    time: datetime


class Decision(tr.Response):
    score: float
    usual: float
    note: str
    count_1d: int
    spent_1d: float
    seen_1d: int


payments = tr.Stream(
    "payments", schema=Payment, time="time", id="transaction_id", source=tr.Parquet("payments.parquet")
)
customer_at_terminal = tr.Entity("customer_at_terminal", key=("customer_id", "terminal_id"))


class PairProfile(tr.BatchFeatureView):
    entity = customer_at_terminal
    source = tr.Parquet("pairs.parquet", time="as_of", key=("customer", "terminal_id"))
    usual: float = -1.0
    note: str = "?"


class PairActivity(tr.StreamFeatureView):
    entity = customer_at_terminal
    stream = payments
    count_1d: int = tr.count(window="1d")
    spent_1d: float = tr.sum("amount", window="1d", decimals=2)


class TerminalActivity(tr.StreamFeatureView):
    entity = tr.Entity("terminal", key="terminal_id")
    stream = payments
    seen_1d: int = tr.count(window="1d")


pairs = tr.Pipeline(
    name="pairs",
    request=Payment,
    response=Decision,
    features=[Payment.amount, PairProfile.usual, PairActivity, TerminalActivity],
    rules=[tr.Rule("noted", when=lambda pair_profile: pair_profile.note == "stop", then="high")],
    decision=tr.bands("score", low=0.0, high=1_000.0),
    model=tr.Model("pairs"),
    budget=tr.Budget("10s"),
    time="time",
    record_requests=True,
)


class Ranking(tr.Request):
    user_id: str
    item_ids: list[int]
    region: int


class Ranked(tr.Response):
    item_ids: list[int]
    score: list[float]
    liking: list[float]
    local: list[float]


class UserItem(tr.BatchFeatureView):
    entity = tr.Entity("user_item", key=("user_id", "item_ids"))
    source = tr.CSV("user_items.csv", key=("user_id", "item_id"))
    liking: float = 0.5


class UserRegion(tr.BatchFeatureView):
    entity = tr.Entity("user_region", key=("region", "user_id"))
    source = tr.CSV("user_regions.csv")
    local: float = 0.0


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.CSV("items.csv")
    price: float = 1.0


pairs_ranked = tr.Pipeline(
    name="pairs_ranked",
    request=Ranking,
    response=Ranked,
    features=[UserItem, UserRegion, Item],
    model=tr.Model("pairs_ranked"),
    budget=tr.Budget("10s"),
)
