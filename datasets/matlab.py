"""Reading matrices of real numbers from files of MATLAB's versions 5 to 7.2.

The layout is that of MathWorks' "MAT-File Format", level 5: a header of 128 bytes, then elements.
An element is a tag (type and size), data, and zeros up to a multiple of 8 bytes; up to 4 bytes of
data may stand in the tag itself. A matrix is an element of elements: flags, shape, name and
numbers, column by column, in any type that holds them. zlib may have compressed it as a whole.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from accelnn.backend import Array

_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15  # types of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
# classes of matrices, the numbers' from 6
_CLASSES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
_OTHERS = {1: "cell array", 2: "structure", 3: "object", 4: "text", 5: "sparse matrix"}
_HEAD = 1024  # bytes that contain all of a matrix but its numbers


@dataclass(frozen=True)
class Variable:
    """A variable in a file: its shape, and its dtype, or its kind if it holds no real numbers."""

    dtype: np.dtype[Any] | str
    shape: tuple[int, ...]
    file: BinaryIO
    place: int  # of its element's data in the file
    size: int
    compressed: bool
    start: int  # of the numbers in the element's data
    stored: np.dtype[Any]  # the type in which the numbers are stored


def variables(file: BinaryIO) -> dict[str, Variable]:
    """The variables by name, without those of unknown classes; their numbers are not read.

    Raises ValueError, struct.error or zlib.error if the file is damaged or of another version.
    """
    header = file.read(128)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:], "")
    if not order or struct.unpack_from(order + "H", header, 124) != (0x100,):
        version = "7.3" if header.startswith(b"MATLAB 7.3") else "unknown"
        raise ValueError(f"found version {version}, expected 5 to 7.2, as save -v7 writes")
    found: dict[str, Variable] = {}
    while tag := file.read(8):
        kind, size = struct.unpack(order + "II", tag)
        place, start = file.tell(), 0
        head = file.read(min(size, _HEAD))
        if compressed := kind == _COMPRESSED:
            head = zlib.decompressobj().decompress(head, _HEAD)
            kind, start, _, _ = _element(head, 0, order)
        if kind != _MATRIX:
            raise ValueError(f"found an element of type {kind}, expected a matrix")
        flags_kind, at, _, behind = _element(head, start, order)
        (flags,) = struct.unpack_from(order + "I", head, at)
        shape_kind, at, length, behind = _element(head, behind, order)
        if flags_kind != _UINT32:
            raise ValueError(f"found flags of type {flags_kind}, expected {_UINT32}")
        number = flags % 256 - 6  # of the class
        if number < len(_CLASSES) and shape_kind == _INT32:
            shape = struct.unpack_from(f"{order}{length // 4}i", head, at)
            _, at, length, behind = _element(head, behind, order)
            name = head[at : at + length].decode("ascii")
            dtype: Any = _OTHERS.get(number + 6, "unknown")
            stored = np.dtype("u1")
            if number >= 0:
                dtype = "complex" if flags & 0x800 else np.dtype(_CLASSES[number])
                kind, start, length, _ = _element(head, behind, order)
                stored = np.dtype(order + _NUMBERS.get(kind, "V0"))
                if kind not in _NUMBERS or length != math.prod(shape) * stored.itemsize:
                    raise ValueError(f"{name}: found {length} bytes of type {kind} for {shape}")
            if name in found:
                raise ValueError(f"found two variables {name}")
            found[name] = Variable(dtype, shape, file, place, size, compressed, start, stored)
        file.seek(place + size)
    return found


def contents(variable: Variable) -> Array:
    """The numbers of a variable that has a type; raises as `variables`."""
    variable.file.seek(variable.place)
    data = variable.file.read(variable.size)
    count = math.prod(variable.shape)
    end = variable.start + count * variable.stored.itemsize
    if variable.compressed:
        inflated = zlib.decompressobj()
        data = inflated.decompress(data, end + 8)
        if not inflated.eof:  # zlib compares its checksum at the end
            raise ValueError(f"a variable inflates to more than {end} bytes")
    numbers = np.frombuffer(data, variable.stored, count, variable.start)
    with np.errstate(all="ignore"):  # a stored NaN of an integer
        return numbers.reshape(variable.shape, order="F").astype(variable.dtype)


def _element(data: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """The type of the element at a place, the start and the size of its data, and its end."""
    kind, size = struct.unpack_from(order + "II", data, at)
    if kind >> 16:  # the data are in the tag
        return kind & 0xFFFF, at + 4, kind >> 16, at + 8
    return kind, at + 8, size, at + 8 + size + -size % 8
