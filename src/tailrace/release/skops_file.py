"""A file of skops that may hold LightGBM's wrappers of scikit-learn, as MLflow logs them.

What these restore of themselves is a text of trees, which LightGBM reads without looking where its numbers lead. So
each text of lines in such a file is held to what it promises first, wherever in the file it stands.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from tailrace.inference.backends.archive import check_arrays
from tailrace.inference.backends.lightgbm_text import check_text
from tailrace.inference.backends.sklearn import load_estimator, untrusted_types

_BOOSTER: Final = "lightgbm.basic.Booster"
_TYPES: Final = (
    "collections.OrderedDict", _BOOSTER, "lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor",
)  # fmt: skip
_DEPTH_MAX: Final = 200


def load_skops(content: bytes) -> Any:
    """Return the estimator in a file of skops, of types that skops knows to be harmless, or LightGBM's.

    Raises OSError without skops; ValueError for other types, and for trees that are not what they promise.
    """
    check_arrays(content)
    if _BOOSTER in untrusted_types(content):
        for text in _texts(content):
            if "\n" in text or "\r" in text:
                check_text(text.encode("utf-8", "surrogatepass"))
    return load_estimator(content, _TYPES)


def _texts(content: bytes) -> Iterator[str]:
    """Give each text that a file of skops holds: of its schema, of the JSON in that, and of its arrays."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                yield from _texts_of_array(archive.read(name))
        yield from _walk(json.loads(archive.read("schema.json")), _DEPTH_MAX)


def _texts_of_array(content: bytes) -> Iterator[str]:
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.dtype.kind in "US":
        yield from (text if isinstance(text, str) else text.decode("latin-1") for text in array.ravel().tolist())
    elif array.dtype.names:
        raise ValueError("it holds a table beside LightGBM's trees")


def _walk(value: Any, depth: int) -> Iterator[str]:
    if depth < 0:
        raise ValueError(f"it is nested more than {_DEPTH_MAX} deep")
    if isinstance(value, dict):
        for each in value.values():
            yield from _walk(each, depth - 1)
        if value.get("__loader__") == "JsonNode":
            yield from _walk(json.loads(value["content"]), depth - 1)
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each, depth - 1)
    elif isinstance(value, str):
        yield value
