"""What an ONNX file promises, held against what it holds, before ONNX Runtime reads it.

A graph may name other files for its weights, which no checksum of ours is about, and may say shapes that its bytes do
not fill. Only what that takes is read of it: the messages down to its tensors, by field number as onnx.proto has them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tailrace.inference.backends.protobuf import BYTES, VARINT, MessageReader

DEPTH_MAX: Final = 16
"""Of graphs within graphs."""

# Field numbers: of a model, a graph, a node, an attribute, a function, a sparse tensor, a tensor.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODES, _GRAPH_TENSORS, _GRAPH_SPARSE, _GRAPH_INPUTS = 1, 5, 15, 11
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_KIND, _NODE_ATTRIBUTES, _NODE_DOMAIN = 1, 2, 4, 5, 7
_INPUT_NAME, _INPUT_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIMS, _DIM_VALUE = 1, 2, 1, 2, 1, 1
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_FUNCTION_NODES: Final = 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TEXTS = 1, 3, (4, 9)
_SIZED: Final = (b"targets", b"classlabels")
"""In names of attributes that say how many numbers a node gives. A tree's others are long, and not walked through."""
_LOOKUP: Final = b"LabelEncoder"
_GIVING: Final = frozenset((b"Constant", _LOOKUP))
"""Nodes that give what stands in any of their attributes."""
_TENSOR_DIMS, _TENSOR_TEXTS, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 6, 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_LOCATION: Final = b"location"


class ExternalDataError(ValueError):
    """A graph whose weights lie in other files. names: theirs, as it says them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"its weights lie in other files: {', '.join(names[:3])}")
        self.names = names


def check_graph(content: bytes) -> None:
    """Raise ValueError, saying what is wrong, for what is no ONNX file, or promises more than it holds.

    Raises ExternalDataError for one whose weights lie in other files. Attributes, of which a tree ensemble has
    millions, are read only where the word is in the file without which a tensor has no other file.
    """
    if content[:1] == b"\x80":
        raise ValueError("it is a pickle, and no ONNX file")
    graph = _Graph(content, attributes=_LOCATION in content)
    try:
        graph.model()
    except IndexError:
        raise ValueError("it is cut short, or no ONNX file") from None
    if graph.external:
        raise ExternalDataError(sorted(graph.external))


class Node(NamedTuple):
    """A node of a graph. kind: its operator. size_bytes: of the node, with its attributes.

    attributes: of those that say how many numbers it gives, the largest of integer, elements of a tensor, and bytes; of
    a `LabelEncoder`'s the bytes of the longest text.
    """

    kind: bytes
    domain: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    size_bytes: int
    attributes: dict[bytes, int]


class Extent(NamedTuple):
    """How large a tensor is. elements: of a weight; of an input for a row, 0 where it does not say. rank: its axes.

    The bytes of a weight's longest text are its elements where they are more: what copies it copies so many.
    """

    elements: int
    rank: int


def read_nodes(content: bytes) -> tuple[dict[bytes, Extent], dict[bytes, Extent], list[Node]] | None:
    """Return the inputs of a graph and its weights with their extents, and its nodes.

    None where it has functions of its own, or sparse weights.

    Raises ValueError as `check_graph` does.
    """
    try:
        return _Graph(content, attributes=False).nodes()
    except IndexError:
        raise ValueError("it is cut short, or no ONNX file") from None


class _Graph(MessageReader):
    """An ONNX file, walked through. external: the names of other files in it."""

    def __init__(self, content: bytes, *, attributes: bool) -> None:
        super().__init__(content)
        self._attributes = attributes
        self.external: set[str] = set()

    def model(self) -> None:
        """Walk through all of it."""
        found = False
        for number, wire, start, end in self._fields(0, len(self._content)):
            if wire == BYTES and number == _MODEL_GRAPH:
                found = True
                self._graph(start, end, 0)
            elif wire == BYTES and number == _MODEL_FUNCTIONS and self._attributes:
                for place in self._messages(start, end, (_FUNCTION_NODES,)):
                    self._node(*place, 0)
        if not found:
            raise ValueError("it has no graph")

    def nodes(self) -> tuple[dict[bytes, Extent], dict[bytes, Extent], list[Node]] | None:
        """Return what `read_nodes` does."""
        inputs: dict[bytes, Extent] = {}
        weights: dict[bytes, Extent] = {}
        nodes: list[Node] = []
        for number, wire, start, end in self._fields(0, len(self._content)):
            if number == _MODEL_FUNCTIONS:
                return None
            if number != _MODEL_GRAPH or wire != BYTES:
                continue
            for part, kind, first, last in self._fields(start, end):
                if part == _GRAPH_SPARSE:
                    return None
                if part == _GRAPH_INPUTS and kind == BYTES:
                    inputs |= dict.fromkeys(self._texts(first, last, _INPUT_NAME), self._of_row(first, last))
                elif part == _GRAPH_TENSORS and kind == BYTES:
                    weights |= dict.fromkeys(self._texts(first, last, _TENSOR_NAME), self._extent(first, last))
                elif part == _GRAPH_NODES and kind == BYTES:
                    nodes.append(self._read_node(first, last))
        return inputs, weights, nodes

    def _read_node(self, start: int, end: int) -> Node:
        kinds, domains = (self._texts(start, end, number) for number in (_NODE_KIND, _NODE_DOMAIN))
        inputs, outputs = (tuple(self._texts(start, end, number)) for number in (_NODE_INPUTS, _NODE_OUTPUTS))
        attributes: dict[bytes, int] = {}
        for place in self._messages(start, end, (_NODE_ATTRIBUTES,)):
            is_giving = not _GIVING.isdisjoint(kinds[-1:])
            if not is_giving and not any(self._content.find(part, *place) >= 0 for part in _SIZED):
                continue
            found = self._longest(*place) if kinds[-1:] == [_LOOKUP] else self._largest(*place)
            for name in self._texts(*place, _ATTRIBUTE_NAME):
                attributes[name] = max(attributes.get(name, 0), found)
        return Node(b"".join(kinds[-1:]), b"".join(domains[-1:]), inputs, outputs, end - start, attributes)

    def _largest(self, start: int, end: int) -> int:
        """Return the largest of an attribute's integer, the elements that its tensors promise, and its bytes."""
        found = [end - start]
        for number, wire, first, last in self._fields(start, end):
            if number == _ATTRIBUTE_INTEGER and wire == VARINT:
                found.append(first)
            elif number in _ATTRIBUTE_TENSORS and wire == BYTES:
                found.append(self._elements(first, last))
        return max(found)

    def _of_row(self, start: int, end: int) -> Extent:
        """Return the extent of an input, which takes so many numbers for a row."""
        places = [(start, end)]
        for number in (_INPUT_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIMS):
            places = [found for place in places for found in self._messages(*place, (number,))]
        width = 1 if places else 0
        for dim in places[1:]:
            values = [first for number, wire, first, _ in self._fields(*dim) if (number, wire) == (_DIM_VALUE, VARINT)]
            width *= values[-1] if values else 0
        return Extent(width, len(places))

    def _longest(self, start: int, end: int) -> int:
        """Return the bytes of an attribute's longest text."""
        places = list(self._messages(start, end, _ATTRIBUTE_TEXTS))
        for tensor in self._messages(start, end, _ATTRIBUTE_TENSORS):
            places += self._messages(*tensor, (_TENSOR_TEXTS,))
        return max((last - first for first, last in places), default=0)

    def _elements(self, start: int, end: int) -> int:
        """Return how many elements a tensor promises."""
        return self._extent(start, end).elements

    def _extent(self, start: int, end: int) -> Extent:
        elements, rank, longest = 1, 0, 0
        for number, wire, first, last in self._fields(start, end):
            if number == _TENSOR_DIMS:
                for size in self._packed(first, last) if wire == BYTES else [first]:
                    elements *= size
                    rank += 1
            elif number == _TENSOR_TEXTS and wire == BYTES:
                longest = max(longest, last - first)
        return Extent(max(elements, longest), rank)

    def _graph(self, start: int, end: int, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ValueError(f"its graphs are nested more than {DEPTH_MAX} deep")
        for number, wire, first, last in self._fields(start, end):
            if wire != BYTES:
                continue
            if number == _GRAPH_TENSORS:
                self._tensor(first, last)
            elif number == _GRAPH_SPARSE:
                self._sparse(first, last)
            elif number == _GRAPH_NODES and self._attributes:
                self._node(first, last, depth)

    def _node(self, start: int, end: int, depth: int) -> None:
        for attribute in self._messages(start, end, (_NODE_ATTRIBUTES,)):
            for place in self._messages(*attribute, _ATTRIBUTE_TENSORS):
                self._tensor(*place)
            for place in self._messages(*attribute, _ATTRIBUTE_SPARSE):
                self._sparse(*place)
            for place in self._messages(*attribute, _ATTRIBUTE_GRAPHS):
                self._graph(*place, depth + 1)

    def _sparse(self, start: int, end: int) -> None:
        for place in self._messages(start, end, (1, 2)):
            self._tensor(*place)

    def _tensor(self, start: int, end: int) -> None:
        """Take in the other files of a tensor. Raises ValueError for more elements than it has bytes for."""
        elements, is_external = 1, False
        for number, wire, first, last in self._fields(start, end):
            if number == _TENSOR_DIMS:
                for size in self._packed(first, last) if wire == BYTES else [first]:
                    elements *= size
            elif number == _TENSOR_LOCATION and wire == VARINT:
                is_external |= first != 0  # 1, and whatever a shorter type makes it of
            elif number == _TENSOR_EXTERNAL and wire == BYTES:
                is_external = True
                self._entry(first, last)
        # Four bits an element are the least that ONNX has; texts of no letters take a byte or two.
        if not is_external and elements > 2 * (end - start):
            raise ValueError(f"a tensor of {elements} elements is promised, in {end - start} bytes")
        if is_external:
            self.external.add("a file without a name") if not self.external else None

    def _entry(self, start: int, end: int) -> None:
        key = value = b""
        for number, wire, first, last in self._fields(start, end):
            if wire == BYTES and number == _ENTRY_KEY:
                key = self._content[first:last]
            elif wire == BYTES and number == _ENTRY_VALUE:
                value = self._content[first:last]
        if key == _LOCATION:
            self.external.add(value.decode("utf-8", "replace"))
