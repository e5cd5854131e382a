"""Trained networks as HDF5 files with everything needed to predict: `save` and `load`.

A file holds the arrays that `_arrays` lists, and as attributes what it is ("accelnn model", a
format version), which accelnn wrote it, and a SHA-256 of the arrays, for HDF5 itself does not
notice a flipped byte. Nothing in it is code: no pickle, so a stranger's file is safe to open.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import accelnn
from accelnn.backend import Array, array_module, to_device, to_host
from accelnn.datasets.dataset import Preprocessing
from accelnn.datasets.dataset import apply as apply
from accelnn.files import whole_file
from accelnn.network import FLOATS, Network, Parameters

FORMAT, VERSION = "accelnn model", 1
_REMEDY = "take a whole copy of the file, or train and save the model again"

# What a file must hold: dtype kinds and number of dimensions by name.
_SCHEMA = {
    "layers": ("i", (1,)),
    "hidden": ("S", (1,)),
    "output": ("S", (0,)),
    "l2": ("f", (0,)),
    "keep_prob": ("f", (1,)),
    "parameters": ("f", (1,)),
    "classes": ("S", (1,)),
    "image_shape": ("i", (1,)),
    "shift": ("f", (0, 1)),
    "scale": ("f", (0, 1)),
}


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network, and what it takes to ask it about new data.

    net, params : the architecture and its weights
    classes : the classes' names, by label: two for one sigmoid output, one for each of several
        outputs, none for linear outputs
    preprocessing : how raw features become what the network takes; see `apply`
    """

    net: Network
    params: Parameters
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to an HDF5 file that `load` reads; a file of that name is replaced.

    The file appears whole or not at all: it is written under another name beside its place.

    Raises ValueError where the parts of the model do not fit each other or a weight is NaN or
    infinite, FileNotFoundError where there is no such folder.
    """
    import h5py  # here, so that importing accelnn.models stays cheap

    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    _check(model)
    arrays = _arrays(model)
    with whole_file(path) as unfinished:
        # From version 1.8 on HDF5 checks its own structures by checksums. It ends the process on
        # damaged ones without, and on texts of variable length: neither is in the file.
        with h5py.File(unfinished, "w", libver="v108") as file:
            file.attrs["format"] = np.bytes_(FORMAT)
            file.attrs["format_version"] = VERSION
            file.attrs["accelnn_version"] = np.bytes_(accelnn.__version__)
            file.attrs["sha256"] = np.bytes_(_digest(arrays))
            for name, array in arrays.items():
                if array.dtype.kind == "S":
                    array = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))
                file[name] = array
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())


def load(path: str | os.PathLike[str]) -> Model:
    """The model in a file that `save` wrote, its parameters on the chosen backend.

    Raises FileNotFoundError where there is no file, and ValueError where it is damaged, not a
    model of accelnn's, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: expected a model saved by accelnn")
    arrays, digest = _read(path)
    try:
        model = _model(arrays)
        _check(model)
        if _digest(arrays) != digest:
            raise ValueError("found contents that do not match their checksum: damaged or edited")
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {_REMEDY}") from error
    return Model(
        model.net,
        Parameters(to_device(model.params.flat), model.net.layers),
        model.classes,
        model.preprocessing,
    )


def _arrays(model: Model) -> dict[str, Array]:
    """All that a file holds of a model, on the host, by the names of the schema."""
    net, preprocessing = model.net, model.preprocessing
    return {
        "layers": np.array(net.layers, np.int64),
        "hidden": _encode(net.hidden),
        "output": np.array(net.output.encode()),
        "l2": np.float64(net.l2),
        "keep_prob": np.array(net.keep_prob, np.float64),
        "parameters": to_host(model.params.flat),
        "classes": _encode(model.classes),
        "image_shape": np.array(preprocessing.image_shape or (), np.int64),
        "shift": np.asarray(preprocessing.shift, np.float64),
        "scale": np.asarray(preprocessing.scale, np.float64),
    }


def _model(arrays: dict[str, Array]) -> Model:
    """The model, on the host, of which `_arrays` gives these."""
    net = Network(
        arrays["layers"].tolist(),
        hidden=_decode(arrays["hidden"]),
        output=bytes(arrays["output"]).decode(),
        l2=float(arrays["l2"]),
        keep_prob=arrays["keep_prob"].tolist(),
    )
    image_shape: Any = tuple(arrays["image_shape"].tolist()) or None
    return Model(
        net,
        Parameters(arrays["parameters"], net.layers),
        _decode(arrays["classes"]),
        Preprocessing(
            image_shape,
            arrays["shift"] if arrays["shift"].ndim else float(arrays["shift"]),
            arrays["scale"] if arrays["scale"].ndim else float(arrays["scale"]),
        ),
    )


def _encode(names: Any) -> Array:
    """Texts as an array of UTF-8; undecodable bytes of a folder's name come through."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)


def _decode(names: Array) -> tuple[str, ...]:
    return tuple(name.decode("utf-8", "surrogateescape") for name in names.tolist())


def _digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Array], str]:
    """The arrays of a file, and the digest that they had when they were saved.

    Raises ValueError where it is no whole HDF5 file, or one without what the schema says.
    """
    import h5py

    def wrong(found: str, expected: str, remedy: str = _REMEDY) -> ValueError:
        return ValueError(f"{path}: found {found}, expected {expected}: {remedy}")

    size = path.stat().st_size
    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            form, version = file.attrs.get("format"), file.attrs.get("format_version")
            if not isinstance(form, bytes) or form != FORMAT.encode():
                raise wrong(
                    f"an HDF5 file with the keys {list(file)}",
                    f"an {FORMAT}",
                    "name a file that accelnn.models.save wrote",
                )
            if not isinstance(version, np.integer) or version < 1:
                raise wrong(f"format version {version}", f"{VERSION}")
            if version > VERSION:
                writer = bytes(file.attrs.get("accelnn_version", b"?")).decode(errors="replace")
                raise wrong(
                    f"format version {version}, of accelnn {writer}",
                    f"at most {VERSION}, which accelnn {accelnn.__version__} reads",
                    "upgrade accelnn",
                )
            for name, (kind, dimensions) in _SCHEMA.items():
                stored = file.get(name)
                if not isinstance(stored, h5py.Dataset):
                    raise wrong(f"only the keys {list(file)}", f"a dataset {name!r}")
                if stored.dtype.kind != kind or stored.ndim not in dimensions:
                    raise wrong(
                        f"{name} of dtype {stored.dtype} and shape {stored.shape}",
                        f"kind {kind!r} with {' or '.join(map(str, dimensions))} dimensions",
                    )
                if stored.nbytes > size:  # said before any room is made for it
                    raise wrong(f"{stored.nbytes} bytes of {name}", f"at most the file's {size}")
                arrays[name] = np.asarray(stored[()])
            return arrays, bytes(file.attrs.get("sha256", b"")).decode(errors="replace")
    # what h5py makes of damaged bytes
    except (OSError, RuntimeError, TypeError, LookupError, UnicodeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's: no permission, locked
            raise
        remedy = f"name a file that accelnn.models.save wrote; if this is one, {_REMEDY}"
        raise wrong(f"no whole HDF5 file ({error})", f"an {FORMAT}", remedy) from error


def _check(model: Model) -> None:
    """Raises ValueError where the parts of a model do not fit each other."""
    net, params, preprocessing = model.net, model.params, model.preprocessing
    if params.layers != net.layers:
        raise ValueError(
            f"found parameters of layers {list(params.layers)}, expected {list(net.layers)}"
        )
    if params.dtype not in FLOATS:
        raise ValueError(f"found parameters of {params.dtype}, expected float32 or float64")
    bad = int((~array_module(params.flat).isfinite(params.flat)).sum())
    if bad:
        raise ValueError(
            f"found {bad} NaN or infinite weights among {params.flat.size}, expected none"
        )
    outputs = net.layers[-1]
    expected = 0 if net.output == "linear" else max(outputs, 2)
    if len(model.classes) != expected:
        raise ValueError(
            f"found {len(model.classes)} classes, expected {expected} for {outputs} {net.output} "
            "outputs"
        )
    if any("\0" in name for name in model.classes):
        raise ValueError("found a class name with the character NUL, expected text without it")
    features, shape = net.layers[0], preprocessing.image_shape
    if shape is not None and (len(shape) != 3 or min(shape) < 1 or math.prod(shape) != features):
        raise ValueError(
            f"found pictures of shape {shape}, expected (height, width, channels) with a product "
            f"of {features}"
        )
    for name in ("shift", "scale"):
        value = np.asarray(getattr(preprocessing, name))
        if value.shape not in ((), (features,)) or not np.isfinite(value).all():
            raise ValueError(
                f"found a {name} of shape {value.shape}, expected one finite number or {features}"
            )
    if not np.all(preprocessing.scale):
        raise ValueError("found a scale of 0, expected none: it would divide by it")
