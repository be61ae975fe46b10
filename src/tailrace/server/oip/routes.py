"""The paths of the protocol over HTTP: a server and its models, what is told of them, and where they are asked.

A model is a pipeline, and its one version the id of the release that the worker serves: another is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tailrace.batch import JSON
from tailrace.codecs.tensor_fields import TensorField
from tailrace.server.endpoint import Answer, CallEndpoint, Page
from tailrace.server.oip.asked import OipModel
from tailrace.server.oip.endpoint import RestEndpoint
from tailrace.server.oip.errors import ROOT
from tailrace.version import VERSION

NAME: Final = "tailrace"
PLATFORM: Final = "tailrace"
EXTENSIONS: Final = ("binary_tensor_data", "schedule_policy")
"""What is spoken beyond the protocol's own: see https://github.com/triton-inference-server/server (docs/protocol)."""

Routes = dict[bytes, dict[bytes, CallEndpoint | Page]]


def server_metadata() -> dict[str, Any]:
    """Return what the server says of itself."""
    return {"name": NAME, "version": VERSION, "extensions": EXTENSIONS}


def model_metadata(model: OipModel) -> dict[str, Any]:
    """Return what the server says of a model."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": tensor_metadata(model.form.inputs),
        "outputs": tensor_metadata(model.form.outputs),
    }


def tensor_metadata(fields: Mapping[str, TensorField]) -> list[dict[str, Any]]:
    """Return what is said of some tensors; -1 is any size."""
    return [{"name": name, "datatype": field.datatype, "shape": field.shape} for name, field in fields.items()]


def oip_routes(endpoints: Sequence[RestEndpoint], check_ready: Callable[[], object]) -> Routes:
    """Return the routes of what takes the calls of some models.

    check_ready: raises UnavailableError while the worker takes no calls.
    """

    def ready(told: Any) -> Page:
        answer = _json(told)

        def page() -> Answer:
            check_ready()
            return answer

        return Page(page)

    routes: Routes = {
        ROOT: {b"GET": _told(server_metadata())},
        ROOT + b"/health/live": {b"GET": _told({"live": True})},
        ROOT + b"/health/ready": {b"GET": ready({"ready": True})},
    }
    for endpoint in endpoints:
        model = endpoint.model
        name = f"/models/{model.name}".encode()
        for path in (ROOT + name, ROOT + name + f"/versions/{model.version}".encode()):
            routes[path] = {b"GET": _told(model_metadata(model))}
            routes[path + b"/ready"] = {b"GET": ready({"name": model.name, "ready": True})}
            routes[path + b"/infer"] = {b"POST": endpoint}
    return routes


def _json(value: Any) -> Answer:
    return Answer(200, JSON, msgspec.json.encode(value))


def _told(value: Any) -> Page:
    answer = _json(value)
    return Page(lambda: answer)
