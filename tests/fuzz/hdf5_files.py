"""HDF5 files that are valid and yet hostile: shapes, types, storage and links of every kind.

A `change` puts a hostile object in the place of a dataset of a good file; `outside` is a folder
that no reader may open a file of.
"""

import contextlib
import copy
import io
import json

import h5py
import numpy as np

import accelnn
from accelnn import models

from .mutations import zlib_zeros


def cats(parts=("train", "test"), m=6):
    """The bytes of a small file as the course's cats are stored."""
    contents = io.BytesIO()
    random = np.random.RandomState(0)
    with h5py.File(contents, "w") as file:
        for part in parts:
            file[f"{part}_set_x"] = random.randint(0, 256, (m, 64, 64, 3), np.uint8)
            file[f"{part}_set_y"] = np.arange(m) % 2
        file["list_classes"] = np.array([b"non-cat", b"cat"])
    return contents.getvalue()


def packed_cats():
    """The same, with smaller pictures in chunks that are compressed and checked."""
    contents = io.BytesIO()
    pixels = np.random.RandomState(1).randint(0, 256, (12, 8, 8, 3), np.uint8)
    with h5py.File(contents, "w", libver="latest") as file:
        chunked = {"chunks": (5, 8, 8, 3), "compression": "gzip", "fletcher32": True}
        file.create_dataset("train_set_x", data=pixels, shuffle=True, **chunked)
        file.create_dataset("train_set_y", data=np.arange(12, dtype=np.uint8) % 3, maxshape=(None,))
        file["list_classes"] = np.array([b"ant", b"bee", b"cow"])
    return contents.getvalue()


def model(layers=(12, 3, 1), **about):
    """A small model, a picture's by default."""
    net = accelnn.Network(list(layers), hidden="relu", output="sigmoid")
    return accelnn.Model(net, net.init("scaled", seed=1), **about)


def saved_model(path, **about):
    """The bytes of a model that was saved to `path`."""
    accelnn.save(model(**about), path)
    return path.read_bytes()


def _huge(file, key, rng, outside):
    shape = file[key].shape
    size = int(rng.choice((2**20, 2**31, 2**33, 2**40, 2**62)))
    shape = (size, *shape[1:]) if rng.random() < 0.5 else (*shape[:-1], size)
    chunks = tuple(min(n, 16) for n in shape)
    dtype = file[key].dtype
    del file[key]
    packed = {"compression": "gzip"} if rng.random() < 0.5 else {}
    file.create_dataset(key, shape, dtype, chunks=chunks, **packed)


def _never_written(file, key, rng, outside):
    """A contiguous dataset that takes no room, larger than the memory limit."""
    shape, dtype = file[key].shape, file[key].dtype
    del file[key]
    rows = int(rng.choice((1, 1000, 10**5, 10**6, 10**9)))
    file.create_dataset(key, (rows, *shape[1:]), dtype)


def _null(file, key, rng, outside):
    dtype = file[key].dtype
    del file[key]
    file[key] = h5py.Empty(dtype)


def _chunk_bomb(file, key, rng, outside):
    """A chunk of 700 MiB, or often of 60, that takes a thousandth of it in the file."""
    size = 700 if rng.random() < 0.2 else 60
    shape, dtype = file[key].shape, file[key].dtype
    del file[key]
    rows = size * 2**20 // (dtype.itemsize * int(np.prod(shape[1:])))
    limits = [None, *shape[1:]]
    chunked = {"chunks": (rows, *shape[1:]), "compression": "gzip", "maxshape": limits}
    dataset = file.create_dataset(key, shape, dtype, **chunked)
    dataset.id.write_direct_chunk((0,) * len(shape), zlib_zeros(size))


def _short_chunk(file, key, rng, outside):
    """A chunk of fewer or more bytes than declared."""
    shape, dtype = file[key].shape, file[key].dtype
    del file[key]
    packed = {"compression": "gzip"} if rng.random() < 0.5 else {}
    dataset = file.create_dataset(key, shape, dtype, chunks=shape, **packed)
    size = int(rng.integers(1, 2 * dataset.nbytes))
    contents = zlib_zeros(2) if packed else bytes(size)
    dataset.id.write_direct_chunk((0,) * len(shape), contents)


def _external_link(file, key, rng, outside):
    del file[key]
    name = str(rng.choice((str(outside / "cats.h5"), "../outside/cats.h5", "/etc/passwd")))
    file[key] = h5py.ExternalLink(name, key)


def _soft_link(file, key, rng, outside):
    """A link to a dataset, to nothing, or to itself."""
    if rng.random() < 0.3:
        file.move(key, "elsewhere")
    else:
        del file[key]
    file[key] = h5py.SoftLink(str(rng.choice(("/elsewhere", f"/{key}", "/", "nowhere/at/all"))))


def _virtual(file, key, rng, outside):
    shape, dtype = file[key].shape, file[key].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    name = str(outside / "cats.h5") if rng.random() < 0.7 else "."
    layout[...] = h5py.VirtualSource(name, key, shape, dtype)
    if name != ".":
        del file[key]
        file.create_virtual_dataset(key, layout)
    else:  # of itself
        del file[key]
        file.create_virtual_dataset(key, layout, fillvalue=1)


def _external_storage(file, key, rng, outside):
    shape, dtype, size = file[key].shape, file[key].dtype, file[key].nbytes
    del file[key]
    name = str(rng.choice((str(outside / "raw.bin"), "/etc/passwd", "../outside/raw.bin")))
    size = size if rng.random() < 0.5 else h5py.h5f.UNLIMITED
    file.create_dataset(key, shape, dtype, external=[(name, 0, size)])


def _type(file, key, rng, outside):
    """Another type of the same shape, with values of it."""
    shape = file[key].shape
    del file[key]
    names = ["?", *"bBhHiIqQefdgFD", "S1", "S70", "V3", ">f8", ">i2", "<u4", ">u8"]
    kinds = {
        "text": h5py.string_dtype(),
        "latin": h5py.string_dtype("ascii"),
        "sequence": h5py.vlen_dtype(np.dtype("f8")),
        "bytes": h5py.vlen_dtype(np.dtype("u1")),
        "enum": h5py.enum_dtype({"a": 0, "b": 1}, basetype="i"),
        "pair": np.dtype([("a", "u1"), ("b", "f8")]),
        "nested": np.dtype([("a", [("b", "u1", (3,))])]),
        "array": np.dtype(("u1", (2, 2))),
        "reference": h5py.ref_dtype,
        "region": h5py.regionref_dtype,
    }
    kind = str(rng.choice([*names, *kinds]))
    dataset = file.create_dataset(key, shape, kinds.get(kind, kind))
    if kind in ("text", "latin"):
        dataset[...] = "cat"
    elif kind in names and not kind.startswith(("S", "V")):
        dataset[...] = np.ones(shape)


def _rank(file, key, rng, outside):
    array = file[key][()]
    del file[key]
    shapes = (array.ravel(), array[None], array[..., None], array[0], array[:0], array.T)
    file[key] = shapes[rng.integers(len(shapes))]


def _values(file, key, rng, outside):
    """Numbers that the reader must refuse, or texts of odd characters."""
    array = file[key][()]
    if array.dtype.kind == "S":
        odd = [b"", b"\0", b"\xff\xfe", b"\x1b[31mred", b"a\nb", b"x" * 500, b"cat", "ü".encode()]
        chosen = [odd[i] for i in rng.integers(len(odd), size=int(rng.integers(0, 9)))]
        del file[key]
        file[key] = np.array(chosen or [b"one"])
        return
    odd = (np.nan, np.inf, -1, 2, 255, 2**31, 2.0**63, 1e308, 5e-324, 0.5)
    kinds = ("f8", "f4", "i8", "u8", "i1", str(array.dtype))
    kind = kinds[rng.integers(len(kinds))]
    with np.errstate(all="ignore"):
        array = array.astype(kind)
        array.flat[rng.integers(array.size)] = np.array(odd[rng.integers(len(odd))]).astype(kind)
    del file[key]
    file[key] = array


def _other_object(file, key, rng, outside):
    """A group, a type or nothing where a dataset should be."""
    del file[key]
    kind = rng.integers(3)
    if kind == 0:
        file.create_group(key)[key] = np.arange(3)
    elif kind == 1:
        file[key] = np.dtype("f8")


def _filters(file, key, rng, outside):
    """A filter that is not there, optional or not."""
    shape, dtype = file[key].shape, file[key].dtype
    del file[key]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(tuple(max(n, 1) for n in shape))
    filters = (h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF, 32001, 307, 4)
    code = int(filters[rng.integers(len(filters))])
    plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
    identifier = h5py.h5d.create(file.id, key.encode(), kind, space, plist)
    identifier.write_direct_chunk((0,) * len(shape), rng.bytes(64), int(rng.integers(2)))


CHANGES = {
    "huge shape": _huge,
    "never written": _never_written,
    "null dataspace": _null,
    "chunk bomb": _chunk_bomb,
    "short chunk": _short_chunk,
    "external link": _external_link,
    "soft link": _soft_link,
    "virtual dataset": _virtual,
    "external storage": _external_storage,
    "type": _type,
    "rank": _rank,
    "values": _values,
    "other object": _other_object,
    "filters": _filters,
}


def changed(good, keys, name, outside):
    """A maker: one key or two of a good file changed as CHANGES[name] does."""

    def make(path, rng):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            for key in rng.choice(keys, size=min(len(keys), rng.integers(1, 3)), replace=False):
                # HDF5 refuses to write a few of them; then the file only lacks the key
                with contextlib.suppress(ValueError, TypeError, OSError, RuntimeError, KeyError):
                    CHANGES[name](file, str(key), rng, outside)

    return make


# ------------------------------------------------------------------------------ models


def _attribute(path, rng, good):
    """A model with an attribute of another type or shape, or without it."""
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        name = str(rng.choice(list(file.attrs)))
        value = file.attrs[name]
        del file.attrs[name]
        others = (
            h5py.Empty("S10"),
            h5py.Empty("f8"),
            "text of variable length",
            [value, value],
            np.array([], "S3"),
            float("nan"),
            2**63,
            np.bytes_(b"x" * 60000),
            np.void(b"\0\1"),
            file["weights"].ref,
            np.array(["a", "b"], h5py.string_dtype()),
        )
        if (chosen := rng.integers(len(others) + 1)) < len(others):
            file.attrs[name] = others[chosen]


ODD_VALUES = (None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "\x1b[31m")
ODD_VALUES += ("\ud800", "x" * 5000, [], {}, [[]], [None], {"a": 1}, "0" * 400, -(2**63))


def put_odd(tree, rng):
    """Replace, remove or add one value somewhere in a tree of dicts and lists."""
    place, key = {"root": tree}, "root"
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
        place = place[key]
        key = int(rng.integers(len(place)))
        key = list(place)[key] if isinstance(place, dict) else key
    kind = rng.random()
    if kind < 0.75:
        place[key] = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
    elif kind < 0.9:
        del place[key]
    elif isinstance(place, dict):
        place["extra"] = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
    else:
        place += place


def _signed(path, rng, good):
    """A model with other contents and a checksum that fits them."""
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        text, weights = bytes(file.attrs["model"]), file["weights"][()]
        fields = json.loads(text)
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.random()
            if kind < 0.7:
                put_odd(fields, rng)
            elif kind < 0.8:
                weights = weights[: rng.integers(len(weights))].copy()
            else:
                odd = (np.nan, np.inf, 1e308, 5e-324, -0.0)
                weights[rng.integers(len(weights))] = odd[rng.integers(len(odd))]
            if not len(weights):
                weights = np.zeros(1)
        text = json.dumps(fields).encode()
        deep = rng.random()
        if deep < 0.05:
            text = b"[" * 20000 + b"]" * 20000
        elif deep < 0.1:
            text = text.replace(b"12", b"9" * 5000)
        del file["weights"]
        chunk = {"chunks": (len(weights),), "fletcher32": True}
        file.create_dataset("weights", data=weights, **chunk)
        file.attrs["model"] = np.bytes_(text[:60000])
        file.attrs["sha256"] = models._digest(text[:60000], weights)


def crafted_models(good, outside):
    """The makers of hostile models by name."""
    changes = {name: changed(good, ["weights"], name, outside) for name in CHANGES}
    for make in (_attribute, _signed):
        changes[make.__name__.strip("_")] = lambda path, rng, make=make: make(path, rng, good)
    return changes


def crafted(good, keys, outside):
    """The makers of hostile files of pictures by name."""
    return {name: changed(good, keys, name, outside) for name in CHANGES}
