"""Data files that are written, damaged and refused."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from accelnn.datasets import Dataset


def arrays(data: Dataset) -> list:
    """The training and the test set."""
    return [data.X_train, data.Y_train, data.X_test, data.Y_test]


def write_hdf5(path: Path, fields: dict) -> Path:
    """A file with an array by key, a group for {}, and nothing for None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in fields.items():
            if isinstance(value, dict):
                file.create_group(key)
            elif value is not None:
                file[key] = value
    return path


def refusal(call: Callable, *arguments: object, error=ValueError, **keywords: object) -> str:
    """The message of the error that a call raises, "" if it raises none."""
    try:
        call(*arguments, **keywords)
    except error as raised:
        return str(raised)
    return ""


def damage(path: Path, load: Callable, places: range, times: int = 100) -> None:
    """Load a file with one wrong byte, many times: nothing but a ValueError may be raised."""
    whole, rng = path.read_bytes(), np.random.RandomState(0)
    for _ in range(times):
        damaged = bytearray(whole)
        damaged[rng.choice(places)] = rng.randint(256)
        path.write_bytes(damaged)
        refusal(load)
    path.write_bytes(whole)


# ------------------------------------------------------------- datasets that must not be read


def _virtual(file: h5py.File, key: str, pipe: Path) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(pipe, "x", (4,))
    file.create_virtual_dataset(key, layout)


def _bomb(file: h5py.File, key: str, _: Path) -> None:
    """A MiB, whose chunk inflates to 256 MiB."""
    bomb = zlib.compress(bytes(2**28), 9)
    file.create_dataset(key, (2**20,), "u1", chunks=(2**20,), compression="gzip")
    file[key].id.write_direct_chunk((0,), bomb)


def _short(file: h5py.File, key: str, _: Path) -> None:
    file.create_dataset(key, (64,), "u1", chunks=(64,), compression="gzip", shuffle=True)
    file[key].id.write_direct_chunk((0,), zlib.compress(bytes(8)))


def _short_and_plain(file: h5py.File, key: str, _: Path) -> None:
    file.create_dataset(key, (64,), "u1", chunks=(64,))
    file[key].id.write_direct_chunk((0,), bytes(8))


def _replaced(write: Callable) -> Callable:
    def replace(file: h5py.File, key: str, folder: Path) -> None:
        """Replace a dataset; `pipe` in the folder hangs a process that opens it to read."""
        pipe = folder / "pipe"
        pipe.unlink(missing_ok=True)
        del file[key]
        write(file, key, pipe)
        os.mkfifo(pipe)

    return replace


# by name: how a dataset of h5py.File `file` is replaced, and why the file is refused then
HOSTILE = {
    name: (_replaced(write), says)
    for name, write, says in (
        (
            "a link within the file",
            lambda file, key, _: file.update({"x": [1], key: h5py.SoftLink("/x")}),
            "found a link, expected a dataset in the file itself",
        ),
        (
            "a link out of the file",
            lambda file, key, pipe: file.update({key: h5py.ExternalLink(pipe, "x")}),
            "found a link, expected a dataset in the file itself",
        ),
        (
            "numbers in another file",
            lambda file, key, pipe: file.create_dataset(key, (4,), "u1", external=[(pipe, 0, 4)]),
            "found a dataset stored in other files",
        ),
        ("parts of other files", _virtual, "found a dataset stored in other files"),
        (
            "a null dataspace",
            lambda f, key, _: f.update({key: h5py.Empty("f8")}),
            "shape None|, type",
        ),
        (
            "text of variable length",
            lambda f, key, _: f.update({key: np.array(["a"], h5py.string_dtype())}),
            r"object|\|O",
        ),
        (
            "another filter",
            lambda f, key, _: f.create_dataset(key, data=np.zeros(64), compression="lzf"),
            r"filters of HDF5's numbers \[32000\], expected none but shuffle, gzip",
        ),
        (
            "a huge chunk",
            lambda f, key, _: f.create_dataset(key, (2**31,), "u1", chunks=(2**31,)),
            "found 1 chunks of 2147483648 bytes, expected at most 65536 of at most [0-9]{7} bytes",
        ),
        (
            "many chunks",
            lambda f, key, _: f.create_dataset(key, (2**17,), "u1", chunks=(1,)),
            "found 131072 chunks of 1 bytes, expected at most 65536",
        ),
    )
}
HOSTILE_CHUNKS = {
    "a chunk that inflates to more": _bomb,
    "a chunk that inflates to less": _short,
    "a short chunk": _short_and_plain,
}
