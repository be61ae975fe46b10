"""Graphs that make as much as a feature says are refused: no rows that are tried can show that such a one stays small.

Some operators are told the size of what they give. Where it is a weight, or comes of the shape of an input, golden rows
show what it is; where it is a number that a request brings, one request asks for any memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from tailrace.inference.backends.onnx_graph import DEPTH_MAX
from tailrace.inference.backends.protobuf import MessageReader

_SIZES: Final[dict[bytes, tuple[int, ...]]] = {
    b"BlackmanWindow": (0,), b"CenterCropPad": (1,), b"Col2Im": (1, 2), b"ConstantOfShape": (0,), b"DFT": (1,),
    b"Expand": (1,), b"HammingWindow": (0,), b"HannWindow": (0,), b"Loop": (0,), b"MaxUnpool": (2,),
    b"MelWeightMatrix": (0, 1), b"OneHot": (1,), b"Pad": (1,), b"Range": (0, 1, 2), b"Resize": (1, 2, 3),
    b"Tile": (1, 2), b"Upsample": (1,),
}  # fmt: skip
"""Operators, and which of their inputs say how much they give."""
_LOOP: Final = b"Loop"
_KEEPING: Final = frozenset(
    (
        b"Abs", b"Add", b"And", b"Cast", b"Ceil", b"Clip", b"Constant", b"Cos", b"Div", b"Equal", b"Erf", b"Exp",
        b"Floor", b"Greater", b"GreaterOrEqual", b"Identity", b"Less", b"LessOrEqual", b"Log", b"Max", b"Min", b"Mul",
        b"Neg", b"Not", b"Or", b"Pow", b"Relu", b"Sigmoid", b"Sin", b"Sqrt", b"Sub", b"Sum", b"Tanh", b"Where", b"Xor",
    )
)  # fmt: skip
"""What gives along each axis as much as the largest of its inputs: turn after turn of a loop no more than at first."""
_OF_SHAPES: Final = frozenset((b"Shape", b"Size", b"SequenceLength"))
"""What gives how large its input is, whatever is in it."""
STEPS_MAX: Final = 1_000_000
"""Nodes walked through, each as often as it is called: functions that call others twice soon call a billion."""

# Field numbers: of a model, a graph, what is named, a function, a node, an attribute.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODES, _GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS = 1, 5, 11, 12
_VALUE_NAME, _TENSOR_NAME = 1, 8
_FUNCTION_NAMES, _FUNCTION_INPUTS, _FUNCTION_OUTPUTS, _FUNCTION_NODES = (10, 1), 4, 5, 7
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_ATTRIBUTES, _NODE_NAMES = 1, 2, 5, (7, 4)
_ATTRIBUTE_GRAPHS: Final = (6, 11)
_TREES: Final = b"ai.onnx.ml"
"""The domain whose attributes are long and hold no graphs."""
_ONNX: Final = (b"", b"ai.onnx")
"""The domain of ONNX's own operators, by both of its names."""

_Name = tuple[bytes, ...]
"""Of a function, and what a node calls: the domain, and the name."""
_Flags = dict[bytes, bool]
"""Names of values, and whether each depends on what a feature is."""


class _Body(NamedTuple):
    """A graph, a graph within one, or a function."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    nodes: tuple[_Node, ...]


class _Node(NamedTuple):
    """A node. bodies: the graphs within it."""

    name: _Name
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    bodies: tuple[_Body, ...]


def check_sizes(content: bytes) -> None:
    """Raise ValueError, saying which operator it is, for a graph one of whose tensors is as large as a feature says.

    content: what `check_graph` has passed.
    """
    if not any(kind in content for kind in _SIZES):
        return
    try:
        body, functions = _Reader(content).read()
    except IndexError:
        raise ValueError("it is cut short, or no ONNX file") from None
    _Walk(functions).call(body, [True] * len(body.inputs), 0)


class _Reader(MessageReader):
    """Reads the nodes of an ONNX file."""

    def read(self) -> tuple[_Body, dict[_Name, list[_Body]]]:
        """Return its graph, and its functions, of which several may have one name."""
        whole = 0, len(self._content)
        graphs = [self._graph(*place, 0) for place in self._messages(*whole, (_MODEL_GRAPH,))]
        functions: dict[_Name, list[_Body]] = {}
        for place in self._messages(*whole, (_MODEL_FUNCTIONS,)):
            functions.setdefault(self._name(*place, _FUNCTION_NAMES), []).append(self._function(*place))
        inputs, outputs, nodes = (tuple(one for part in parts for one in part) for parts in zip(*graphs, strict=True))
        return _Body(inputs, outputs, nodes), functions

    def _graph(self, start: int, end: int, depth: int) -> _Body:
        """Return a graph. Its inputs are those that it has no value for."""
        if depth > DEPTH_MAX:
            raise ValueError(f"its graphs are nested more than {DEPTH_MAX} deep")
        weights = set(self._named(start, end, _GRAPH_TENSORS, _TENSOR_NAME))
        inputs = [name for name in self._named(start, end, _GRAPH_INPUTS, _VALUE_NAME) if name not in weights]
        outputs = self._named(start, end, _GRAPH_OUTPUTS, _VALUE_NAME)
        return _Body(tuple(inputs), tuple(outputs), self._nodes(start, end, _GRAPH_NODES, depth))

    def _function(self, start: int, end: int) -> _Body:
        inputs, outputs = (tuple(self._texts(start, end, part)) for part in (_FUNCTION_INPUTS, _FUNCTION_OUTPUTS))
        return _Body(inputs, outputs, self._nodes(start, end, _FUNCTION_NODES, 0))

    def _nodes(self, start: int, end: int, number: int, depth: int) -> tuple[_Node, ...]:
        return tuple(self._node(*place, depth) for place in self._messages(start, end, (number,)))

    def _node(self, start: int, end: int, depth: int) -> _Node:
        name = self._name(start, end, _NODE_NAMES)
        inputs, outputs = (tuple(self._texts(start, end, number)) for number in (_NODE_INPUTS, _NODE_OUTPUTS))
        attributes = () if name[0] == _TREES else self._messages(start, end, (_NODE_ATTRIBUTES,))
        places = [place for attribute in attributes for place in self._messages(*attribute, _ATTRIBUTE_GRAPHS)]
        return _Node(name, inputs, outputs, tuple(self._graph(*place, depth + 1) for place in places))

    def _name(self, start: int, end: int, numbers: Sequence[int]) -> _Name:
        return tuple(b"".join(self._texts(start, end, number)[-1:]) for number in numbers)

    def _named(self, start: int, end: int, number: int, name: int) -> list[bytes]:
        """Return the names of what stands in a graph's field."""
        return [text for place in self._messages(start, end, (number,)) for text in self._texts(*place, name)[-1:]]


class _Walk:
    """Follows what depends on a feature through a graph, and what it calls. Raises ValueError where a size does."""

    def __init__(self, functions: dict[_Name, list[_Body]]) -> None:
        self._functions = functions
        self._steps = 0

    def call(self, body: _Body, given: Sequence[bool], depth: int) -> list[bool]:
        """Return which outputs of a graph or a function depend on a feature, by which of its inputs do."""
        if depth > DEPTH_MAX:
            raise ValueError(f"its functions call each other more than {DEPTH_MAX} deep")
        flags = dict(zip(body.inputs, given, strict=False))
        self._run(body.nodes, flags, depth)
        return [flags.get(name, False) for name in body.outputs]

    def _run(self, nodes: Sequence[_Node], flags: _Flags, depth: int) -> None:
        """Set the flags of what nodes give."""
        later = {name for node in nodes for name in node.outputs if name}
        for node in nodes:
            self._steps += 1
            if self._steps > STEPS_MAX:
                raise ValueError(f"it computes more than {STEPS_MAX} operators for a row")
            if not later.isdisjoint(node.inputs):
                raise ValueError("its operators do not stand in the order in which they are computed")
            later.difference_update(node.outputs)
            found = self._outputs(node, flags, depth)
            flags |= {name: is_given for name, is_given in zip(node.outputs, found, strict=False) if name}

    def _outputs(self, node: _Node, flags: _Flags, depth: int) -> list[bool]:
        given = [flags.get(name, False) for name in node.inputs]
        domain, kind = node.name
        bodies = self._functions.get(node.name, ())
        if bodies and domain not in _ONNX:
            return [any(each) for each in zip(*(self.call(body, given, depth + 1) for body in bodies), strict=False)]
        sizes = () if kind == _LOOP and not _gathers(node) else _SIZES.get(kind, ())
        if any(given[place] for place in sizes if place < len(given)):
            raise ValueError(
                f"{kind.decode()} makes a tensor as large as a feature says, so that one request can ask for any "
                "memory: take the size from a weight, or from the shape of an input"
            )
        is_given = any(given) and kind not in _OF_SHAPES
        if node.bodies and not is_given:
            is_given = self._follow(node.bodies, flags, False, depth)
        if node.bodies and is_given:  # what a loop gives comes in again
            self._follow(node.bodies, flags, True, depth)
        return [is_given] * len(node.outputs)

    def _follow(self, bodies: Sequence[_Body], flags: _Flags, is_given: bool, depth: int) -> bool:
        """Return whether one of the outputs of graphs within a node depends on a feature. is_given: their inputs do."""
        within = dict(flags)
        for body in bodies:
            within |= dict.fromkeys(body.inputs, is_given)
            self._run(body.nodes, within, depth)
        return any(within.get(name, False) for body in bodies for name in body.outputs)


def _gathers(loop: _Node) -> bool:
    """Return whether what a loop gives may grow with its turns: it keeps a value of each, or makes more of one."""
    carried = max(len(loop.inputs) - 2, 0)
    if sum(len(body.outputs) for body in loop.bodies) > carried + 1:  # whether it goes on is one
        return True
    return any(node.name[0] not in _ONNX or node.name[1] not in _KEEPING for body in loop.bodies for node in body.nodes)
