"""Which predictions are logged: a share of the requests by their ids, and what is kept of the others.

It is done in the observer, behind all other watches: drift and traces know of every request, whatever is logged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tailrace.monitor.predictions import Predictions

_HASHES: Final = 1 << 32


def logged_part(found: Predictions) -> Predictions | None:
    """Return the predictions that are logged, each with the share that it stands for; None for none of them."""
    choice = found.choice
    if choice is None or choice.sample >= 1:
        return found
    below = round(choice.sample * _HASHES)
    told = zip(found.request_ids, found.requests, strict=True)
    hashes = np.array([crc32(name.encode() or request) for name, request in told], np.uint64)
    is_certain = _kept_always(found)
    is_logged = is_certain | (hashes < below)
    if not is_logged.any():
        return None
    shares = np.where(is_certain, 1.0, choice.sample)[is_logged].astype(np.float32)
    return replace(found.where(is_logged), shares=shares)


def _kept_always(found: Predictions) -> NDArray[np.bool_]:
    """Return which requests are logged whatever their ids are, bool (requests,)."""
    choice, requests = found.choice, len(found.requests)
    kept = np.zeros(requests, np.bool_)
    if choice is None:
        return kept
    if "failed" in choice.keep:
        kept |= np.array([bool(error) for error in found.errors]) | _any_row(found, found.failed)
    if "degraded" in choice.keep:
        kept |= _any_row(found, found.degraded != 0)
    if "slow" in choice.keep:
        kept |= found.whole_ns > choice.slow_ns
    return kept


def _any_row(found: Predictions, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which requests have a row that is flagged."""
    return np.bincount(found.places[flags], minlength=len(found.requests)) > 0
