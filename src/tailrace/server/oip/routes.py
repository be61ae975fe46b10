"""The paths of the protocol over HTTP: a server and its models, what is told of them, and where they are asked.

A model is a pipeline, and its one version the id of the release that the worker serves: another is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from tailrace.batch import JSON
from tailrace.codecs.tensor_fields import TensorField
from tailrace.server.endpoint import Answer, CallEndpoint, Page, RouteTable
from tailrace.server.http.key_gate import KeyGate
from tailrace.server.oip.asked import OipModel
from tailrace.server.oip.errors import ROOT
from tailrace.version import VERSION

NAME: Final = "tailrace"
PLATFORM: Final = "tailrace"
EXTENSIONS: Final = ("binary_tensor_data", "schedule_policy")
"""What is spoken beyond the protocol's own: see https://github.com/triton-inference-server/server (docs/protocol)."""


def server_metadata() -> dict[str, Any]:
    """Return what the server says of itself."""
    return {"name": NAME, "version": VERSION, "extensions": EXTENSIONS}


def model_metadata(model: OipModel) -> dict[str, Any]:
    """Return what the server says of a model."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [input_metadata(name, field) for name, field in model.form.inputs.items()],
        "outputs": [tensor_metadata(name, field) for name, field in model.form.outputs.items()],
    }


def tensor_metadata(name: str, field: TensorField) -> dict[str, Any]:
    """Return what is said of a tensor; -1 is any size."""
    return {"name": name, "datatype": field.datatype, "shape": field.shape}


def input_metadata(name: str, field: TensorField) -> dict[str, Any]:
    """Return what is said of an input. That it may be left out is a parameter of ours, which the protocol allows."""
    told = tensor_metadata(name, field)
    return told if field.required else told | {"parameters": {"optional": True}}


def oip_routes(
    models: Sequence[tuple[OipModel, CallEndpoint]], check_ready: Callable[[], object], *, with_keys: bool = False
) -> RouteTable:
    """Return the routes of some models, each with what takes its calls.

    check_ready: raises UnavailableError while the worker takes no calls. with_keys: whether calls must show a key; so
    must who asks what models there are.
    """
    pages = _Pages(check_ready, with_keys=with_keys)
    routes: RouteTable = {
        ROOT: {b"GET": Page(_Told(server_metadata()))},
        ROOT + b"/health/live": {b"GET": Page(_Told({"live": True}))},
        ROOT + b"/health/ready": {b"GET": Page(_Told({"ready": True}, check_ready))},
    }
    for model, endpoint in models:
        name = f"/models/{model.name}".encode()
        for path in (ROOT + name, ROOT + name + f"/versions/{model.version}".encode()):
            routes[path] = {b"GET": pages.of(model_metadata(model))}
            routes[path + b"/ready"] = {b"GET": pages.of({"name": model.name, "ready": True}, when_ready=True)}
            routes[path + b"/infer"] = {b"POST": endpoint}
    return routes


class _Told:
    """Answers with what was written down once. check: raises ServingError where that is not to be told now."""

    def __init__(self, value: Any, check: Callable[[], object] | None = None) -> None:
        self._answer = Answer(200, JSON, msgspec.json.encode(value))
        self._check = check

    def __call__(self) -> Answer:
        """Return the answer."""
        if self._check is not None:
            self._check()
        return self._answer


class _Pages:
    """Makes the pages of models."""

    def __init__(self, check_ready: Callable[[], object], *, with_keys: bool) -> None:
        self._check_ready = check_ready
        self._gates = [KeyGate()] if with_keys else []

    def of(self, value: Any, *, when_ready: bool = False) -> Page:
        """Return a page that tells something; when_ready: while the worker takes calls."""
        told = _Told(value, self._check_ready if when_ready else None)
        return Page(told, self._gates, is_open=not self._gates)
