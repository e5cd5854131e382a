"""`python -m fuzz.corpus` writes tests/fuzz/corpus/: small files that readers once failed on.

Links lead to ../outside, a folder beside the one that the worker reads the files in.
"""

import functools
import json
import struct
from pathlib import Path

import h5py
import numpy as np

import accelnn
from accelnn import models

from . import hdf5_files, mat_files, picture_files, text_files
from .mutations import zlib_zeros

CORPUS = Path(__file__).with_name("corpus")
OUTSIDE = Path("../outside")


class Fixed:
    """Draws what is given, as a random generator would."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def _next(self, *_, **__):
        return self.draws.pop(0)

    choice = integers = random = _next


def changed(good, key, name, *draws):
    """A good HDF5 file with one key changed as the campaign does, with these draws."""

    def make(path):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            hdf5_files.CHANGES[name](file, key, Fixed(*draws), OUTSIDE)

    return make


def signed(good, attribute=None, **fields):
    """A model with other contents and the checksum that fits them, or one other attribute."""

    def make(path):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            text, weights = bytes(file.attrs["model"]), file["weights"][()]
            text = json.dumps(json.loads(text) | fields).encode()
            file.attrs["model"] = np.bytes_(text)
            file.attrs["sha256"] = models._digest(text, weights)
            for name, value in (attribute or {}).items():
                del file.attrs[name]
                file.attrs[name] = value

    return make


def damaged_text(path, good):
    """A text of variable length whose address in the file's heap is wrong."""
    signed(good, {"model": "a text of variable length"})(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL")
    data[place : place + 4] = b"XXXX"
    path.write_bytes(data)


def damaged_heap(path, good):
    """A virtual dataset whose description is beyond an object of the heap that has no size."""
    changed(good, "weights", "virtual dataset", 0.1)(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    data[place : place + 16] = bytes(16)
    path.write_bytes(data)


def nested_heaps(path):
    """Bytes that read as thousands of heaps, each of which contains all that follow."""
    count = 3000
    blocks = b"".join(
        struct.pack("<H6xQ8sQ", 0, 32, b"GCOL\x01\0\0\0", 32 * (count - i)) for i in range(count)
    )
    with h5py.File(path, "w") as file:
        file["train_set_x"] = np.frombuffer(blocks, np.uint8).reshape(-1, 8, 4, 3)


def mat(arrays, change):
    """A MATLAB file; `change` edits its bytes."""

    def make(path):
        data = bytearray(mat_files.good(arrays)[0])
        change(data)
        path.write_bytes(data)

    return make


def put(place, *values):
    def change(data):
        data[place : place + len(values)] = bytes(values)

    return change


def written(contents):
    return lambda path: path.write_bytes(contents)


def table(column=("1", "2"), names=("cat", "dog")):
    """A CSV file of one feature."""
    rows = [f"{column[i % 2]},{names[i % 2]}" for i in range(20)]
    return written("\n".join(["x,class", *rows, ""]).encode())


def files(scratch):
    """The makers of the files by reader and name."""
    shape = accelnn.datasets.Preprocessing((2, 2, 3), scale=255.0)
    about = {"classes": ("dog", "cat"), "preprocessing": shape}
    model = hdf5_files.saved_model(scratch / "model.h5", **about)
    cats, x, y = hdf5_files.cats(("train",), m=1), "train_set_x", "train_set_y"
    own, ex4 = hdf5_files.packed_cats(), {"X": np.ones((3, 400)), "y": np.ones((3, 1))}
    nested = {**text_files.report(), "limits": None}
    before, _, after = json.dumps(nested).partition('"limits": null')
    deep = f'{before}"limits": {"[" * 20_000 + "]" * 20_000}{after}'
    long = f'{before}"limits": {"9" * 5000}{after}'
    escape, huge = "\x1b[31mred", 2**40
    escapes = json.dumps(text_files.report() | {"versions": {"x": escape}})
    large = picture_files.png(9400, 9400, 1, 0, zlib_zeros(11))
    return {
        "model/null-dataspace.h5": changed(model, "weights", "null dataspace"),
        "model/null-attribute.h5": signed(model, {"sha256": h5py.Empty("S64")}),
        "model/huge-shape.h5": changed(model, "weights", "huge shape", huge, 0.1, 0.9),
        "model/chunk-bomb.h5": changed(model, "weights", "chunk bomb", 0.9),
        "model/external-link.h5": changed(model, "weights", "external link", "../outside/cats.h5"),
        "model/damaged-text.h5": functools.partial(damaged_text, good=model),
        "model/damaged-heap.h5": functools.partial(damaged_heap, good=model),
        "predict/escapes-in-class.h5": signed(model, classes=[escape, "cat"]),
        "predict/escapes-in-source.h5": signed(model, source=escape),
        "cats/null-dataspace.h5": changed(cats, y, "null dataspace"),
        "cats/huge-shape.h5": changed(cats, x, "huge shape", huge, 0.1, 0.9),
        "cats/never-written.h5": changed(cats, x, "never written", 10**6),
        "cats/external-link.h5": changed(cats, x, "external link", "../outside/cats.h5"),
        "cats/soft-link.h5": changed(cats, y, "soft link", 0.1, "/elsewhere"),
        "cats/looping-link.h5": changed(cats, y, "soft link", 0.9, f"/{y}"),
        "cats/virtual-dataset.h5": changed(cats, x, "virtual dataset", 0.1),
        "cats/virtual-of-itself.h5": changed(cats, x, "virtual dataset", 0.9),
        "cats/external-storage.h5": changed(
            cats, x, "external storage", str(OUTSIDE / "raw.bin"), 0.1
        ),
        "cats/text-of-any-length.h5": changed(cats, "list_classes", "type", "text"),
        "hdf5/chunk-bomb.h5": changed(own, x, "chunk bomb", 0.9),
        "hdf5/short-chunk.h5": changed(own, x, "short chunk", 0.9, 64),
        "hdf5/nested-heaps.h5": nested_heaps,
        "hdf5/negative-labels.h5": changed(own, y, "values", 1, 2, 0),
        "mat/number-of-no-type.mat": mat(ex4, put(176, 200)),
        "mat/complex.mat": lambda path: path.write_bytes(
            mat_files.good(ex4 | {"X": ex4["X"] * 1j})[0]
        ),
        "mat/zlib-bomb.mat": lambda path: path.write_bytes(
            mat_files.good(ex4)[0][:128] + mat_files.Writer(Fixed(1.0, 1.0), 0).packed(b"", 90)
        ),
        "csv/subnormal-column.csv": table(("5e-324", "1e-323")),
        "csv/long-cell.csv": table(("1", "x" * 5000)),
        "csv/nul-in-class.csv": table(names=("a\0b", "c")),
        "train-csv/escapes-in-class.csv": table(names=(escape, "c")),
        "train-csv/escapes-in-cell.csv": table(("1", escape)),
        "picture/postscript.png": written(picture_files.POSTSCRIPT),
        "picture/90-megapixels.png": written(large),
        "json/deep.json": written(deep.encode()),
        "json/long-number.json": written(long.encode()),
        "json/escapes.json": written(escapes.encode()),
        "download/deflated-bomb.http": written(
            text_files.answer(zlib_zeros(60), Content_Encoding="deflate")
        ),
        "download/wrong-length.http": written(text_files.answer(b"x", Content_Length=10**18)),
    }


def main():
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for name, make in files(Path(scratch)).items():
            path = CORPUS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            assert path.stat().st_size < 100_000, f"{name} is too large"


if __name__ == "__main__":
    main()
