"""Trained networks as HDF5 files with everything needed to predict: `save` and `load`.

A file has the weights as its dataset; as attributes its format, the versions of the format and of
accelnn, everything else as JSON, and a SHA-256 of the JSON and the weights, because HDF5 misses
flipped bytes. It contains no code (no pickle): opening a stranger's file is safe.
"""

import hashlib
import io
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import accelnn
from accelnn.backend import Array, array_module, backend_of, to_device, to_host
from accelnn.datasets.dataset import Preprocessing, apply
from accelnn.datasets.reading import DataFile
from accelnn.files import check_writable, write_whole
from accelnn.network import FLOATS, Network, Parameters

FORMAT, VERSION = b"accelnn model", 2
CHUNK_BYTES = 1 << 20  # the most that HDF5 checks and keeps in memory at once
REMEDY = "take a whole copy of the file, or train and save the model again"


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with everything needed to apply it to new data.

    net, params : the architecture and its weights
    classes : the classes' names, by label, none for linear outputs; by default "0", "1", ...
    preprocessing : how raw features become what the network takes
    source : where the training data came from, in one line; "" if unknown
    stand_in : whether that data was drawn in place of real data that was not found
    """

    net: Network
    params: Parameters
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    source: str = ""
    stand_in: bool = False

    def __post_init__(self) -> None:
        names = self.classes or map(str, range(_n_classes(self.net)))
        object.__setattr__(self, "classes", tuple(names))

    def predict(self, rows: Array) -> Array:
        """The class names (m,) of raw examples, or linear outputs (m, n_outputs), on the host.

        rows : (m, n_features), an example a row, as in the file that the model was trained on
        """
        if not self.classes:
            return self._outputs(rows)
        best = self.probabilities(rows).argmax(axis=1)  # a half is class 0, as in the notes
        return np.array(self.classes)[best]

    def probabilities(self, rows: Array) -> Array:
        """The probability of each class, (m, n_classes) on the host, for rows as in `predict`."""
        if not self.classes:
            raise ValueError("the outputs are linear: they have values and no probabilities")
        A = self._outputs(rows)
        return A if A.shape[1] > 1 else np.concatenate([1 - A, A], axis=1)

    def _outputs(self, rows: Array) -> Array:
        rows = backend_of(self.params.flat).to_device(rows)
        features = self.net.layers[0]
        if rows.ndim != 2 or rows.shape[1] != features:
            expected = f"expected rows of shape (m, {features}), got {rows.shape}"
            raise ValueError(f"{expected}: an example is a row, as in the file")
        X = apply(self.preprocessing, rows, self.params.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # large weights give NaN
            return to_host(self.net.forward(self.params, X)).T.astype(np.float64)

    def __repr__(self) -> str:
        few = len(self.classes) <= 10
        classes = ", ".join(self.classes) if few else f"{len(self.classes)} classes"
        parts = (f"net {list(self.net.layers)}", classes, str(self.params.dtype), self.source)
        return f"<Model: {'; '.join(filter(None, parts))}>"


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to an HDF5 file that `load` reads, whole or not at all; replaces an old file.

    Raises TypeError if `model` is no Model, ValueError if its parts do not fit each other or a
    weight is NaN or infinite, OSError if the file cannot be written.
    """
    if not isinstance(model, Model):
        raise TypeError(f"found a {type(model).__name__}: pass accelnn.Model(net, params)")
    check_writable(Path(path))
    _check(model)
    fields = vars(model) | {"net": asdict(model.net), "preprocessing": vars(model.preprocessing)}
    del fields["params"]
    write(path, FORMAT, fields, to_host(model.params.flat))


def write(
    path: str | os.PathLike[str], kind: bytes, fields: dict[str, Any], weights: Array
) -> None:
    """Write fields for JSON and weights (n,) to a file of this kind, for `read`; raises OSError if
    it cannot be written, TypeError for fields that are no numbers, texts, lists or arrays."""
    import h5py  # here, so that importing accelnn.models stays cheap

    check_writable(Path(path))
    text = json.dumps(fields, default=_plain).encode()
    # HDF5 ends the process that reads a damaged file if the file lacks format 1.8's checksums or
    # has texts of variable length.
    contents = io.BytesIO()
    with h5py.File(contents, "w", libver="v108") as file:
        release = np.bytes_(accelnn.__version__)
        file.attrs.update(format=np.bytes_(kind), format_version=VERSION, accelnn_version=release)
        file.attrs.update(model=np.bytes_(text), sha256=_digest(text, weights))
        chunk = min(weights.size, CHUNK_BYTES // weights.itemsize)
        file.create_dataset("weights", data=weights, chunks=(chunk,), fletcher32=True)
    write_whole(contents.getbuffer(), Path(path))


def load(path: str | os.PathLike[str]) -> Model:
    """The model in a file that `save` wrote, its parameters on the chosen backend.

    Raises FileNotFoundError; ValueError if the file is damaged, no model or of another version.
    """
    fields, weights = read(path, FORMAT)
    try:
        net = Network(**fields["net"])
        params = Parameters(to_device(weights), net.layers)
        shape, shift, scale = (fields["preprocessing"][name] for name in vars(Preprocessing()))
        shift, scale = (np.array(value, float)[()] for value in (shift, scale))
        preprocessing = Preprocessing(shape and tuple(shape), shift, scale)
        names, source = tuple(fields["classes"]), fields["source"]
        model = Model(net, params, names, preprocessing, source, fields["stand_in"])
        _check(model)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error)[:500]}: {REMEDY}") from error
    return model


def _digest(text: bytes, weights: Array) -> np.bytes_:
    kind = f"{weights.dtype.str} {weights.shape} ".encode()
    digest = hashlib.sha256(text + kind)
    digest.update(np.ascontiguousarray(weights).data)
    return np.bytes_(digest.hexdigest())


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a file holds numbers, texts and lists, and no {type(value).__name__}")
    return value.tolist()


def read(
    path: str | os.PathLike[str], kind: bytes, remedy: str = REMEDY
) -> tuple[dict[str, Any], Array]:
    """The fields and the weights of a file of this kind, checked against its SHA-256; raises as
    `load`, with this remedy if the file is damaged."""
    path = Path(path)
    whole = DataFile(path, remedy)
    whole.require()
    size = path.stat().st_size
    what = "a model" if kind == FORMAT else f"an {kind.decode()}"
    foreign = ValueError(f"{path} is not {what} saved by accelnn")
    with path.open("rb") as raw:
        if raw.read(8) != b"\x89HDF\r\n\x1a\n":  # every HDF5 file begins so
            raise foreign
    with whole.open_hdf5() as file:

        def attribute(name: str, kind: str) -> Any:
            """A number or bytes, of a type and size that were checked before they are read."""
            stored: Any = file.attrs.get_id(name) if name in file.attrs else None
            fits = stored and stored.shape == () and stored.dtype.kind == kind
            return file.attrs[name] if fits and stored.dtype.itemsize <= size else None

        if attribute("format", "S") != kind:
            raise foreign
        version = attribute("format_version", "i")
        if version != VERSION:
            writer = (attribute("accelnn_version", "S") or b"?").decode("ascii", "replace")
            found, ours = f"{version}, of accelnn {writer}", f"{VERSION}, of {accelnn.__version__}"
            remedy = "upgrade accelnn" if (version or 0) > VERSION else "train and save it again"
            raise DataFile(path, remedy).wrong("format version", found, ours)
        stored = whole.dataset(file, "weights")
        fits = stored and stored.dtype in FLOATS and stored.ndim == 1
        if not fits or stored.nbytes > size or stored.chunks is None:
            expected = f"float32 or float64 in one dimension, in chunks, of at most {size} bytes"
            raise whole.wrong("weights", str(stored or "no dataset"), expected)
        text, digest = attribute("model", "S"), attribute("sha256", "S")
        weights = whole.contents(stored)
    if text is None or _digest(text, weights) != digest:
        raise whole.wrong("checksum", "other contents", "those that were saved")
    try:
        return json.loads(text), weights
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error)[:500]}: {remedy}") from error


def _n_classes(net: Network) -> int:
    return max(net.layers[-1], 2) if net.classifies else 0


def _check(model: Model) -> None:
    """Raise ValueError if the parts of a model do not fit each other."""

    def require(fits: Any, found: str, expected: object) -> None:
        if not fits:
            raise ValueError(f"found {found}, expected {expected}")

    net, params, classes = model.net, model.params, model.classes
    layers, given = list(net.layers), list(params.layers)
    require(given == layers, f"parameters of layers {given}", layers)
    require(params.dtype in FLOATS, f"parameters of {params.dtype}", "float32 or float64")
    bad = int((~array_module(params.flat).isfinite(params.flat)).sum())
    require(bad == 0, f"{bad} NaN or infinite weights among {params.flat.size}", "none")
    n, outputs = _n_classes(net), f"{layers[-1]} {net.output} outputs"
    require(len(classes) == n, f"{len(classes)} classes", f"{n} for {outputs}")
    texts = all(isinstance(text, str) for text in (*classes, model.source))
    require(texts, f"classes {classes} of {model.source!r}", "texts")
    require(isinstance(model.stand_in, bool), f"stand_in {model.stand_in!r}", "True or False")
    shape, shift, scale = vars(model.preprocessing).values()
    if shape is not None:
        sizes = len(shape) == 3 and all(isinstance(n, int | np.integer) and n > 0 for n in shape)
        fits = sizes and math.prod(shape) == layers[0]
        expected = f"(height, width, channels) with a product of {layers[0]}"
        require(fits, f"pictures of shape {shape}", expected)
    for name, value in (("shift", np.asarray(shift)), ("scale", np.asarray(scale))):
        fits = value.shape in ((), (layers[0],)) and np.isfinite(value).all()
        require(fits, f"a {name} of shape {value.shape}", f"one finite number or {layers[0]}")
    require(np.all(scale), "a scale of 0", "none: it would divide by it")
