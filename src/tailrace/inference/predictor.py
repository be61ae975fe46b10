"""What a model must look like to be called: it scores the rows of a batch in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[Any]]
"""The rows of a batch: an array for each input of a model's signature, of its dtype, (rows, features)."""


def slice_feeds(feeds: Feeds, start: int, end: int) -> Feeds:
    """Return the feeds of some of the rows, without a copy."""
    return {name: array[start:end] for name, array in feeds.items()}


class Predictor(Protocol):
    """A model that scores the rows of a batch in one call."""

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return scores: float, shape (rows,), or (rows, classes) for a classifier of more than two classes.

        feeds: in C order.
        """
        ...
