"""Recommendations that are asked for again and again: identical ones share an answer for a second."""

from collections.abc import Mapping
from typing import Annotated, Any

from numpy.typing import NDArray

import tailrace as tr


class Recommend(tr.Request):
    """Items to be ranked for a user. page_id: which page they are for; it is only sent back."""

    user_id: int
    item_ids: Annotated[list[int], tr.Field(max_length=50)]
    affinity: float
    page_id: str = ""


class Recommended(tr.Response):
    """The best of them, the best first."""

    item_ids: list[int]
    score: list[float]
    page_id: str


class Item(tr.BatchFeatureView):
    """What is known of an item."""

    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    popularity: float = 0.5


class Mean:
    """Scores the mean of what is known of a row."""

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the means."""
        means: NDArray[Any] = feeds["features"].mean(axis=1)
        return means


recommend = tr.Pipeline(
    name="recommend",
    request=Recommend,
    response=Recommended,
    features=[Recommend.affinity, Item],
    model=tr.PythonModel("mean", Mean),
    budget=tr.Budget("100ms"),
    store="memory:",
    rows_max=50,
    top=20,
    coalesce=tr.Coalesce(on=[Recommend.user_id, Recommend.item_ids, Recommend.affinity], ttl="1s"),
)
