"""The remote models of a pipeline: asked what they take and give, and held against the features.

A server that cannot be asked keeps no pipeline from starting whose model is declared whole: a worker that is replaced
during its outage must come back, and answers by the fallback until the server does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tailrace.compile.leaf import Search, StageParts
from tailrace.compile.resolve import wire
from tailrace.errors import Problem
from tailrace.inference.declaration import Constant, walk_declared
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.remote.agreement import Disagreement, agree
from tailrace.inference.remote.authorization import AuthorizationError, read_authorization
from tailrace.inference.remote.client import RemoteClient
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.remote.failure import RemoteError
from tailrace.inference.remote.metadata import describe
from tailrace.inference.remote.oip import OipProtocol
from tailrace.inference.remote.pool import RemotePool
from tailrace.inference.remote.protocol import RemoteProtocol, RemoteSignature, RemoteTarget
from tailrace.inference.remote.stage import RemoteStage
from tailrace.inference.remote.tensorflow import TensorflowProtocol
from tailrace.inference.remote.torchserve import TorchserveProtocol
from tailrace.inference.signature import Signature
from tailrace.pipeline import Pipeline

ANSWER_BYTES_MAX: Final = 16 << 20
"""Of one answer of a remote model; a batch of 256 rows of 100 classes has half a megabyte of JSON."""


@dataclass(frozen=True, slots=True)
class FoundRemote:
    """A remote model as it was found. authorization: the header; notice: what is to be known of how it was found."""

    described: RemoteSignature
    authorization: str | None
    notice: str

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self.described.signature


def find_remote_models(pipeline: Pipeline, search: Search) -> dict[RemoteModel, FoundRemote]:
    """Ask each remote model of a pipeline what it takes and gives; add to the problems what does not fit."""
    found: dict[RemoteModel, FoundRemote] = {}
    declared = [each for each in walk_declared(pipeline.model) if isinstance(each, RemoteModel)]
    features = {name: found.width for name, found in wire(pipeline).features.items()} if declared else {}
    for model in dict.fromkeys(declared):
        _find(model, features, found, search.problems)
    return found


def _find(
    model: RemoteModel, features: Mapping[str, int], found: dict[RemoteModel, FoundRemote], problems: list[Problem]
) -> None:
    where = f"model {model.name!r} at {model.url}"
    try:
        authorization = read_authorization(model)
        described = model.described or describe(model, authorization)
    except AuthorizationError as error:
        problems.append(Problem(str(error), where, error.next))
        return
    except RemoteError as error:
        problems.append(
            Problem(
                f"its server does not say what it takes and gives: {error}", where,
                "start the server, or declare inputs and output: then the pipeline starts without it",
            )
        )  # fmt: skip
        return
    agreed = agree(model, described, features)
    if isinstance(agreed, Disagreement):
        problems.append(Problem(agreed.what, where, agreed.next))
        return
    silence = described.silence
    notice = f"it could not be held against its server, and is taken as declared: {silence}" if silence else ""
    found[model] = FoundRemote(agreed, authorization, notice)


def make_remote_stage(parts: StageParts[RemoteModel, FoundRemote]) -> RemoteStage:
    """Return the stage of a remote model, and of the model that it falls back to, if there is one."""
    model, found, budget, clock = parts.declared, parts.model, parts.budget, parts.clock
    fallback = parts.constant if model.second is None else parts.bind(model.second)
    assert isinstance(fallback, Constant | ModelStage | None)
    pool = RemotePool(model.address, connections_max=model.connections_max, body_bytes_max=ANSWER_BYTES_MAX)
    client = RemoteClient(
        model.address, _protocol(model, found.described), pool, clock, authorization=found.authorization,
        call_ns_max=budget.inference_ns or budget.total_ns // 2,
    )  # fmt: skip
    return RemoteStage(
        model.name, found.signature, parts.assemblers, client, clock, budget=budget, fallback=fallback,
        in_flight_max=model.connections_max, rows_max=model.rows_max, notice=found.notice,
    )  # fmt: skip


def _protocol(model: RemoteModel, described: RemoteSignature) -> RemoteProtocol:
    """Return what asks a model."""
    target = RemoteTarget(model.address.path, model.remote_name, model.version)
    match model.api:
        case "oip":
            return OipProtocol(target, described)
        case "tensorflow":
            return TensorflowProtocol(target, described, by_column=model.protocol == "tensorflow-columns")
    return TorchserveProtocol(target, described)
