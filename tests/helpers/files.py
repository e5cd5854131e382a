"""Data files that are written, damaged and refused."""

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
