"""Flattened device trees, read and written without any program (Devicetree Specification 0.4, chapter 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from lab.errors import EmulatorError

_MAGIC = 0xD00DFEED
_HEADER = struct.Struct(">10I")
_VERSION, _OLDEST = 17, 16
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9


@dataclass
class Node:
    """A node: its name, its properties as the bytes they are, its children in order."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def child(self, name: str) -> Node:
        """The child of a name.

        Raises:
            EmulatorError: there is none.
        """
        for one in self.children:
            if one.name == name:
                return one
        found = ", ".join(one.name for one in self.children)
        raise EmulatorError(f"the device tree has no node {name} in /{self.name}; it has {found or 'none'}")


@dataclass(frozen=True)
class DeviceTree:
    """A whole tree.

    Attributes:
        root: its root.
        reserved: the block of reserved memory, as it stands in the file.
        boot_cpu: physical number of the core that boots.
    """

    root: Node
    reserved: bytes
    boot_cpu: int


def strings(*values: str) -> bytes:
    """A property of one or more strings."""
    return b"".join(value.encode() + b"\0" for value in values)


def cells(*values: int) -> bytes:
    """A property of 32-bit numbers."""
    return struct.pack(f">{len(values)}I", *values)


def parse(blob: bytes) -> DeviceTree:
    """The tree in a blob.

    Raises:
        EmulatorError: this is no device tree, or not a whole one.
    """
    try:
        header = _HEADER.unpack_from(blob)
        magic, size, structure, names, reserved, version, oldest, boot_cpu, _, _ = header
        if magic != _MAGIC or size > len(blob) or not oldest <= _VERSION <= version:
            raise ValueError("no device tree of version 17, or not a whole one")
        reader = _Reader(blob, structure, names)
        return DeviceTree(reader.tree(), _reserved(blob, reserved), boot_cpu)
    except (struct.error, ValueError, IndexError, RecursionError) as error:
        raise EmulatorError(f"the device tree cannot be read: {error}") from error


class _Reader:
    def __init__(self, blob: bytes, structure: int, names: int) -> None:
        self._blob = blob
        self._at = structure
        self._names = names

    def tree(self) -> Node:
        if self._token() != _BEGIN_NODE:
            raise ValueError("it does not begin with a root node")
        return self._node()

    def _token(self) -> int:
        token = _NOP
        while token == _NOP:
            (token,) = struct.unpack_from(">I", self._blob, self._at)
            self._at += 4
        return int(token)

    def _node(self) -> Node:
        node = Node(self._string(self._at))
        self._at = _aligned(self._at + len(node.name) + 1)
        while (token := self._token()) != _END_NODE:
            if token == _PROP:
                length, name = struct.unpack_from(">II", self._blob, self._at)
                self._at += 8
                node.properties[self._string(self._names + name)] = self._blob[self._at : self._at + length]
                self._at = _aligned(self._at + length)
            elif token == _BEGIN_NODE:
                node.children.append(self._node())
            else:
                raise ValueError(f"token {token} inside a node")
        return node

    def _string(self, at: int) -> str:
        return self._blob[at : self._blob.index(b"\0", at)].decode()


def _aligned(at: int) -> int:
    return at + -at % 4


def _reserved(blob: bytes, begin: int) -> bytes:
    """The block of reserved memory: pairs of 64-bit numbers up to a pair of zeros."""
    at = begin
    while struct.unpack_from(">QQ", blob, at) != (0, 0):
        at += 16
    return blob[begin : at + 16]


def serialize(tree: DeviceTree) -> bytes:
    """The blob of a tree."""
    names: dict[str, int] = {}
    structure = b"".join(_written(tree.root, names)) + cells(_END)
    text = strings(*names)
    begin = _HEADER.size + len(tree.reserved)
    # The header is 40 bytes long, so the reserved block after it is aligned to 8 as it must be.
    header = _HEADER.pack(
        _MAGIC, begin + len(structure) + len(text), begin, begin + len(structure), _HEADER.size, _VERSION, _OLDEST,
        tree.boot_cpu, len(text), len(structure),
    )  # fmt: skip
    return header + tree.reserved + structure + text


def _written(node: Node, names: dict[str, int]) -> list[bytes]:
    parts = [cells(_BEGIN_NODE), _padded(strings(node.name))]
    for name, value in node.properties.items():
        if name not in names:
            names[name] = sum(len(known) + 1 for known in names)
        parts += [cells(_PROP, len(value), names[name]), _padded(value)]
    for child in node.children:
        parts += _written(child, names)
    return [*parts, cells(_END_NODE)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
