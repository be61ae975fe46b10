"""The order of hops: a view whose key is a column of another view is read after it.

request --item_id--> ItemProfile --category_id--> CategoryStats
                     hop 0                        hop 1
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tailrace.features.views import FeatureView, view_of

HOPS_MAX: Final = 4
"""Reads one after the other, for one batch. Each costs a network store's round trip."""


def key_views(view: type[FeatureView]) -> tuple[type[FeatureView], ...]:
    """Return the views whose columns are in the key of a view, each once."""
    found = (view_of(column) for column in view.spec.entity.columns)
    return tuple(dict.fromkeys(each for each in found if each is not None))


def hop_of(view: type[FeatureView]) -> int:
    """Return how many reads must come before a view's. It ends: a view is declared after those that give its key."""
    return max((1 + hop_of(each) for each in key_views(view)), default=0)


def in_hop_order(views: Iterable[type[FeatureView]]) -> tuple[type[FeatureView], ...]:
    """Return views with those that give their keys, hop by hop; within a hop as they come."""
    found = dict.fromkeys(views)
    waiting = list(found)
    while waiting:
        new = [each for each in key_views(waiting.pop(0)) if each not in found]
        found |= dict.fromkeys(new)
        waiting += new
    return tuple(sorted(found, key=hop_of))
