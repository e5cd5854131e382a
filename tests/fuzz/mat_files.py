"""MATLAB files of version 5, written number by number so that any of them can be a wrong one.

The layout is that of the "MAT-File Format" paper by MathWorks: a header of 128 bytes, then
elements, each a tag of type and size, and its bytes padded to a multiple of eight.
"""

import io
import struct
import zlib

import numpy as np
import scipy.io

from .mutations import INTERESTING, zlib_zeros

TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12}
CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13, "i8": 14}
MATRIX, COMPRESSED = 14, 15


class Writer:
    """Writes elements; every number is wrong with a chance of `share`."""

    def __init__(self, rng, share, order="<"):
        self.rng, self.share, self.order = rng, share, order

    def number(self, value, kind="i"):
        if self.rng.random() < self.share:
            near = (value - 1, value + 1, 2 * value, value * 2**16)
            odd = (*near, *INTERESTING)[self.rng.integers(len(INTERESTING) + 4)]
            value = odd % 2 ** (31 if kind == "i" else 16)
        return struct.pack(self.order + kind, value)

    def element(self, kind, contents):
        if len(contents) <= 4 and self.rng.random() < 0.3:  # the short form
            both = self.number(len(contents) << 16 | kind)
            return both + contents.ljust(4, b"\0")
        padding = bytes(-len(contents) % 8)
        return self.number(kind) + self.number(len(contents)) + contents + padding

    def matrix(self, name, array, flags=0):
        stored = array.dtype.str[1:]
        about = self.number(CLASSES[stored] | flags << 8) + self.number(0)
        sizes = array.shape
        if self.rng.random() < self.share:
            sizes = (*sizes, 1) if self.rng.random() < 0.5 else sizes[:1]
        dims = b"".join(self.number(n) for n in sizes)
        ordered = array.astype(array.dtype.newbyteorder(self.order))
        values = self.element(TYPES[stored], ordered.tobytes(order="F"))
        parts = [self.element(6, about), self.element(5, dims), self.element(1, name.encode())]
        parts += [values] * (2 if flags & 8 else 1)
        if self.rng.random() < self.share:
            parts.pop(self.rng.integers(len(parts)))
        return self.element(MATRIX, b"".join(parts))

    def packed(self, element, mebibytes=0):
        stream = zlib_zeros(mebibytes) if mebibytes else zlib.compress(element)
        return self.number(COMPRESSED) + self.number(len(stream)) + stream

    def header(self):
        text = b"MATLAB 5.0 MAT-file".ljust(124)
        mark = b"IM" if self.order == "<" else b"MI"
        return text + self.number(0x0100, "H") + mark


def crafted(arrays):
    """The makers of hostile files by name; `arrays` are those of a good file by key."""

    def write(share, packed=0.3, flags=(0,), order="<", kinds=(None,), bomb=0):
        def make(path, rng):
            writer = Writer(rng, share, order)
            contents = [writer.header()]
            for key, array in arrays.items():
                kind = kinds[rng.integers(len(kinds))]
                chosen = array if kind is None else array.astype(kind)
                element = writer.matrix(key, chosen, flags[rng.integers(len(flags))])
                if bomb and rng.random() < 0.7:  # most are small, to be fast
                    element = writer.packed(element, bomb if rng.random() < 0.1 else 30)
                elif rng.random() < packed:
                    element = writer.packed(element)
                contents.append(element)
            path.write_bytes(b"".join(contents))

        return make

    def twin(path, rng):
        """Keys twice, or elements of other kinds between."""
        writer = Writer(rng, 0)
        contents = [writer.header()]
        for key, array in [*arrays.items()] * 2:
            contents.append(writer.matrix(key, array))
            contents.append(writer.element(int(rng.integers(20)), rng.bytes(24)))
        path.write_bytes(b"".join(contents))

    def huge_dims(path, rng):
        """Sizes far beyond the file's."""
        writer = Writer(rng, 0)
        contents = writer.header()
        for key, array in arrays.items():
            element = bytearray(writer.matrix(key, array))
            element[32:36] = struct.pack("<i", int(rng.choice((2**20, 2**30, 2**31 - 1, -1, 0))))
            contents += bytes(element) if rng.random() < 0.5 else writer.packed(bytes(element))
        path.write_bytes(contents)

    def other_kinds(path, rng):
        """What `savemat` writes of cells, structures, texts, sparse and complex arrays."""
        import scipy.sparse

        odd = ({"a": 1}, "text", np.array([[1, "a"]], object), scipy.sparse.eye(5, format="csc"))
        odd += (np.ones((5, 2)) * 1j, np.array([[True]]), np.zeros((0, 3)), np.full((3, 3), np.nan))
        changed = dict(arrays)
        changed[list(arrays)[rng.integers(len(arrays))]] = odd[rng.integers(len(odd))]
        if rng.random() < 0.2:  # a thousand cells in each other
            cell = np.zeros((1, 1))
            for _ in range(200):
                outer = np.empty((1, 1), object)
                outer[0, 0] = cell
                cell = outer
            changed["more"] = cell
        scipy.io.savemat(path, changed, do_compression=rng.random() < 0.5)

    def values(path, rng):
        odd = (np.nan, np.inf, -np.inf, -1, 0, 11, 0.5, 1e300, 2.0**63)
        changed = {key: array.astype(float) for key, array in arrays.items()}
        array = changed[list(arrays)[rng.integers(len(arrays))]]
        array.flat[rng.integers(array.size)] = odd[rng.integers(len(odd))]
        scipy.io.savemat(path, changed, do_compression=rng.random() < 0.5)

    return {
        "one wrong number": write(0.02),
        "wrong numbers": write(0.1),
        "big-endian": write(0.02, order=">"),
        "complex": write(0.01, flags=(0, 8)),
        "flags": write(0.01, flags=range(64)),
        "kinds": write(0.01, kinds=list(TYPES)),
        "zlib bomb": write(0, bomb=700),
        "twin": twin,
        "huge dims": huge_dims,
        "other kinds": other_kinds,
        "values": values,
    }


def good(arrays):
    """The bytes of valid files with these arrays: plain and packed."""
    files = []
    for packed in (False, True):
        contents = io.BytesIO()
        scipy.io.savemat(contents, arrays, do_compression=packed)
        files.append(contents.getvalue())
    return files


def ex4(m=20):
    """The arrays of a small ex4data1.mat."""
    X = np.random.RandomState(0).rand(m, 400)
    return {"X": X, "y": (np.arange(m) % 10 + 1).astype(np.uint8)[:, None]}


def ex4_weights():
    """The arrays of an ex4weights.mat."""
    random = np.random.RandomState(0)
    return {"Theta1": random.randn(25, 401), "Theta2": random.randn(10, 26)}


def football(m=20):
    """The arrays of a small football.mat."""
    random, y = np.random.RandomState(0), np.arange(m, dtype=np.uint8)[:, None] % 2
    X = random.randn(m, 2)
    return {"X": X, "y": y, "Xval": X[:10], "yval": y[:10]}
