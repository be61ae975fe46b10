"""The declaration of a remote model held against what its server says, and against the pipeline's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tailrace.inference.remote.declaration import RemoteInput, RemoteModel
from tailrace.inference.remote.described import Described, Tensor
from tailrace.inference.remote.protocol import RemoteSignature
from tailrace.inference.signature import NUMPY_DTYPES, Signature, TensorSpec, class_column


class Disagreement(NamedTuple):
    """What does not fit, and what to do."""

    what: str
    next: str


def agree(
    model: RemoteModel, described: Described | None, features: Mapping[str, int]
) -> RemoteSignature | Disagreement:
    """Return what a remote model takes and gives, or the first thing that does not fit.

    described: None where the server could not be asked. features: of the pipeline, in their order, by their names: how
    many columns each has, one where it is no vector.
    """
    told = described or Described()
    inputs = _inputs(model, _wanted(model, told.inputs, features))
    if isinstance(inputs, Disagreement):
        return inputs
    specs = []
    for each in inputs:
        spec = _spec(each, features, is_only=len(inputs) == 1 and len(told.inputs) < 2)
        theirs = next((tensor for tensor in told.inputs if tensor.name == each.name), None)
        if isinstance(spec, TensorSpec) and theirs is not None and (wrong := _width_problem(spec, theirs)):
            return wrong
        if isinstance(spec, Disagreement):
            return spec
        specs.append(spec)
    output = _output(model, told.outputs)
    if isinstance(output, Disagreement):
        return output
    if wrong := _columns_problem(model, next((each for each in told.outputs if each.name == output), None)):
        return wrong
    column = model.column
    if column is None and not model.vector:
        column = class_column(len(model.classes))
    return RemoteSignature(
        Signature(tuple(specs), output, column, model.classes, model.vector),
        columns_of(model),
        flat=tuple(tensor.name for tensor in told.inputs if len(tensor.shape) == 1),
        is_binary=model.protocol == "oip-binary" or told.is_binary,
    )


def columns_of(model: RemoteModel) -> int:
    """Return how many columns the output must have; 0 where a column is declared, of however many."""
    return max(len(model.classes), model.vector, 1) if model.column is None else 0


def _wanted(model: RemoteModel, told: Sequence[Tensor], features: Mapping[str, int]) -> list[Tensor]:
    """Return the inputs that a server has, without those that may be left out and that nothing is declared to fill."""
    if model.inputs is None:
        filled = {*features, *(name.rpartition(".")[2] for name in features)}
    else:
        filled = {each.name for each in model.inputs}
    return [tensor for tensor in told if not tensor.is_optional or tensor.name in filled]


def _inputs(model: RemoteModel, told: Sequence[Tensor]) -> Sequence[RemoteInput] | Disagreement:
    """Return the inputs, as they are declared or as the server has them."""
    if model.inputs is None:
        if not told:
            return Disagreement("its server does not say what it takes", 'declare it: inputs=[tr.RemoteInput("x")]')
        strange = next((tensor for tensor in told if tensor.dtype not in NUMPY_DTYPES), None)
        if strange is not None:
            what = f"its input {strange.name!r} is of the type {strange.dtype}, which no feature has"
            return Disagreement(what, f"serve a model that takes one of {', '.join(NUMPY_DTYPES)}")
        return [RemoteInput(tensor.name, tensor.dtype) for tensor in told]
    if told and {each.name for each in model.inputs} != {tensor.name for tensor in told}:
        names = ", ".join(tensor.name for tensor in told)
        return Disagreement(f"its server has the inputs {names}, and others are declared", f"declare {names}")
    for tensor in told:
        ours = next(each for each in model.inputs if each.name == tensor.name)
        if ours.dtype != tensor.dtype:
            what = f"its input {ours.name!r} is declared {ours.dtype}, and the server takes {tensor.dtype}"
            return Disagreement(what, "declare it as the server has it")
    return model.inputs


def _spec(each: RemoteInput, features: Mapping[str, int], *, is_only: bool) -> TensorSpec | Disagreement:
    """Return an input with the features that fill it."""
    if each.features is not None:
        return _filled(each, each.features, features)
    if is_only:
        return _filled(each, tuple(features), features)
    found = [name for name in features if name == each.name] or [
        name for name in features if name.rpartition(".")[2] == each.name
    ]
    if len(found) == 1:
        return _filled(each, found, features)
    what = f"its input {each.name!r} is filled by {'no feature' if not found else ' or '.join(found)}"
    return Disagreement(what, f'say which: tr.RemoteInput("{each.name}", "{each.dtype}", features=["…"])')


def _filled(each: RemoteInput, names: Sequence[str], features: Mapping[str, int]) -> TensorSpec:
    """Return an input that these features fill; that they are there is checked with all models' inputs."""
    widths = tuple(features.get(name, 1) for name in names)
    return TensorSpec(each.name, each.dtype, tuple(names), widths if max(widths, default=1) > 1 else ())


def _width_problem(spec: TensorSpec, theirs: Tensor) -> Disagreement | None:
    """Return what is wrong with an input's shape: it takes other columns, or no batches."""
    width, shape = spec.width, list(theirs.shape)
    if not shape or shape[0] != -1 or len(shape) > 2:
        what = f"its input {spec.name!r} has the shape {shape}: it does not take any number of rows"
        return Disagreement(what, "serve it with the shape [-1, columns]: max_batch_size over 0, in Triton")
    columns = shape[1] if len(shape) == 2 else 1
    if columns in {-1, width}:
        return None
    what = f"its input {spec.name!r} has {columns} columns, and the features that fill it have {width}"
    return Disagreement(what, "list the features that it was trained on, in their order")


def _output(model: RemoteModel, told: Sequence[Tensor]) -> str | Disagreement:
    """Return the name of the output that holds the scores."""
    names = [tensor.name for tensor in told]
    if model.output is None:
        if len(names) == 1:
            return names[0]
        if not names and model.api != "oip":  # theirs may have no name
            return "predictions"
        what = f"its server has the outputs {', '.join(names)}" if names else "its server does not say what it gives"
        return Disagreement(what, 'say which holds the score: output="…"')
    if names and model.output not in names:
        return Disagreement(f"its server has no output {model.output!r}", f"name one of {', '.join(names)}")
    return model.output


def _columns_problem(model: RemoteModel, theirs: Tensor | None) -> Disagreement | None:
    """Return what is wrong with the output's columns, where the server says how many they are."""
    if theirs is None or len(theirs.shape) != 2 or theirs.shape[1] < 0:
        return None
    columns, expected = theirs.shape[1], columns_of(model)
    if model.column is not None and model.column >= columns:
        what = f"its output has {columns} columns, and column {model.column} is to be the score"
        return Disagreement(what, f"name one from 0 to {columns - 1}")
    if expected in {0, columns}:
        return None
    what = f"its output {theirs.name!r} has {columns} columns, for {expected} expected"
    return Disagreement(what, "say which is the score, column=1; what they are called, classes=[…]; or vector=COLUMNS")
