"""The response type: what a caller gets. Only the fields it names are computed and sent."""

from __future__ import annotations

import msgspec


class Response(msgspec.Struct, frozen=True, gc=False):
    """Base of response types. A field is filled by its name.

    `score`, `decision`, `reasons` (the codes of the rules that held), `probabilities` (of a classifier) come from the
    pipeline; any other name is a field of the request, an on-demand feature or a view's column. In a pipeline whose
    request expands to many rows, a field of a row's value is a list.
    """
