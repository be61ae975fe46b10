"""The rehearsal: what the user wrote is run once before traffic, on sample requests, and held to what serving needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Provenance
from tailrace.compile.samples import Samples
from tailrace.compile.wire_model import dtype_problem
from tailrace.compile.wiring import Wiring
from tailrace.errors import Problem, SetupError
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.composition.declarations import splits_of
from tailrace.inference.declaration import StageDeclaration
from tailrace.inference.signature import Signature
from tailrace.plan import Plan
from tailrace.readers import Reader


def rehearse(
    plan: Plan, wiring: Wiring, codecs: Sequence[ViewCodec], signatures: Mapping[StageDeclaration, Signature]
) -> list[Problem]:
    """Run what the user wrote once, on sample requests with default features; return what it does wrong."""
    try:
        samples = Samples(plan)
        requests = [samples.request(seed) for seed in (1, 2)]
    except SetupError as error:
        return [Problem(error.what, error.where, error.next)]
    batch, first = _sample_batch(plan, codecs, samples, requests), _sample_batch(plan, codecs, samples, requests[:1])
    second = _sample_batch(plan, codecs, samples, requests[1:], first.view_rows)
    batches = [batch, first, second]
    problems: list[Problem] = []
    for feature in plan.features.on_demand:
        name = feature.name
        columns, found = _try(feature.function, feature.arguments, batches, f"@on_demand {name}", "fiubOUST")
        for each, column in zip(batches, columns, strict=True):
            each.on_demand[name] = column
        problems += found or _check_fit(signatures, name, batch.on_demand[name])
    width = next(iter(signatures.values())).scores_width
    _sample_scores(width, wiring, batch, [first, second])
    for bound in plan.postprocess.rules:
        problems += _try(bound.rule.when, bound.arguments, batches, f"rule {bound.rule.name!r}", "b")[1]
    if not problems:
        problems += _try_response(plan, batch)
    return problems


def _try_response(plan: Plan, batch: Batch) -> list[Problem]:
    """Decide and encode a batch; say so if the response type cannot be built, or a field is given another type."""
    response = plan.pipeline.response
    where = f"response {response.__name__}"
    batch.branches = {split.name: np.zeros(batch.rows, np.intp) for split in splits_of(plan.pipeline.model)}
    batch.scores = batch.scores if batch.probabilities is None else batch.probabilities
    try:
        plan.postprocess.run(batch)
        plan.response.run(batch)
        for body in batch.bodies:
            msgspec.json.decode(body, type=response)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        return [
            Problem(f"its value is of another type: {what}", where + path.rstrip("`"), "declare it as what fills it")
        ]
    except Exception as error:  # whatever a response type of the user's own raises is a mistake to report
        next_step = "it must be built from its fields in their order, and be JSON"
        return [Problem(f"{type(error).__name__}: {error}", where, next_step)]
    return []


def _sample_batch(
    plan: Plan,
    codecs: Sequence[ViewCodec],
    samples: Samples,
    requests: Sequence[Any],
    before: Sequence[ViewRows] = (),
) -> Batch:
    """Return a batch of requests as it is after the look-ups: number columns count on from the default.

    before: the rows of each view that come first, so that a row holds the same values alone and beside others.
    """
    batch = samples.batch(requests, 0, 0)
    plan.request.run(batch)
    counts = [batch.rows if view.expands else len(batch.requests) for view in plan.features.views]
    found = [codec.defaults(count, Provenance.DEFAULT) for codec, count in zip(codecs, counts, strict=True)]
    for index, (codec, rows) in enumerate(zip(codecs, found, strict=True)):
        begin = len(before[index]) if before else 0
        for column in codec.spec.columns:
            if column.dtype.kind in "iuf":  # equal rows would hide a mean over a column
                steps = np.arange(begin, begin + len(rows)).astype(column.dtype)
                rows.data[column.name] += steps[:, np.newaxis] if column.width else steps
    plan.features.take_views(batch, found)
    return batch


def _sample_scores(classes: int, wiring: Wiring, batch: Batch, alone: Sequence[Batch]) -> None:
    """Give every row a score and a decision of its own, the same alone as beside others."""
    shape = (batch.rows, classes) if classes > 1 else (batch.rows,)
    scores = np.linspace(0.1, 0.9, batch.rows * classes).reshape(shape)
    decisions = np.arange(batch.rows) % max(len(wiring.labels), 1)
    for part, begin in zip((batch, *alone), (0, 0, alone[0].rows), strict=True):
        part.scores = scores[begin : begin + part.rows]
        if classes > 1:  # a rule is given the likeliest class's
            part.probabilities, part.scores = part.scores, part.scores.max(axis=1)
        part.scores.flags.writeable = False  # as in serving, so that a rule that changes them is found
        part.decisions = decisions[begin : begin + part.rows]


def _try(
    function: Callable[..., Any],
    readers: Sequence[Reader],
    batches: Sequence[Batch],
    where: str,
    kinds: str,
) -> tuple[list[NDArray[Any]], list[Problem]]:
    """Call a user's function on sample columns; return what it gives for each batch, and what is wrong with it.

    batches: the first holds the rows of all the others, in their order.
    """
    blanks = [np.zeros(batch.rows) for batch in batches]
    columns = []
    for batch in batches:
        column = _call(function, readers, batch)
        if isinstance(column, Exception):
            what = f"{type(column).__name__}: {column}"
            return blanks, [Problem(what, where, "it must take columns, shape (rows,), and not write in them")]
        if column.shape not in ((batch.rows,), ()) or column.dtype.kind not in kinds:
            wanted = "bool" if kinds == "b" else "numbers or texts"
            what = f"gives {column.dtype} of shape {column.shape}, not {wanted} of shape (rows,)"
            return blanks, [Problem(what, where, "return one value a row, computed on whole columns")]
        columns.append(np.broadcast_to(column, (batch.rows,)))
    together, *alone = columns
    if _alike(together, np.concatenate(alone)):
        return columns, []
    again = _call(function, readers, batches[0])
    if isinstance(again, Exception) or not _alike(together, again):
        return columns, []  # what never gives the same twice (a clock, a random number) cannot be compared
    what = "a row's value depends on the other requests of its batch"
    next_step = "compute each row from its own values: no mean, sort or rank over a column"
    return columns, [Problem(what, where, next_step)]


def _call(function: Callable[..., Any], readers: Sequence[Reader], batch: Batch) -> NDArray[Any] | Exception:
    """Return what a user's function gives or raises, whatever that is: a mistake to report."""
    try:
        return np.asarray(function(*[reader.read(batch) for reader in readers]))
    except Exception as error:
        return error


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=1e-6, equal_nan=True))
    return bool(np.array_equal(one, other))


def _check_fit(signatures: Mapping[StageDeclaration, Signature], name: str, column: NDArray[Any]) -> list[Problem]:
    """Hold the type that a function gives against the models' inputs that it fills."""
    dtype = column.dtype
    if dtype.kind == "O" and not isinstance(column[0] if len(column) else "", str):
        dtype = np.array(column.tolist()).dtype
    problems: list[Problem] = []
    for model, signature in signatures.items():
        for tensor in signature.inputs:
            if name in tensor.features:
                place = f"{tensor.name!r}[{tensor.features.index(name)}] of the model {model.name!r}"
                problems += dtype_problem(name, dtype, place, tensor.dtype)
    return problems
