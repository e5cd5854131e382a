"""Trained networks as HDF5 files with everything needed to predict: `save` and `load`.

A file holds one dataset, the weights, and as attributes its format ("accelnn model"), the
format's version, the version of accelnn that wrote it, everything else about the model as JSON,
and a SHA-256 of the JSON and the weights, because HDF5 does not notice every flipped byte.
Nothing in it is code (no pickle), so a file from a stranger is safe to open.
"""

import hashlib
import io
import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import accelnn
from accelnn.backend import Array, array_module, backend_of, to_device, to_host
from accelnn.datasets.dataset import Preprocessing
from accelnn.datasets.dataset import apply as apply
from accelnn.files import write_whole
from accelnn.network import FLOATS, Network, Parameters

FORMAT, VERSION = "accelnn model", 2
CHUNK_BYTES = 1 << 20  # the most that HDF5 reads, checks and keeps in memory at once
_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # of every HDF5 file
_REMEDY = "take a whole copy of the file, or train and save the model again"


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with what it takes to apply it to new data.

    net, params : the architecture and its weights
    classes : the classes' names, by label: two for one sigmoid output, one for each of several
        outputs, none for linear outputs; by default "0", "1", ...
    preprocessing : how raw features become what the network takes; see `apply`
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
        """The names (m,) of the classes of raw examples, or the values (m, n_outputs) of linear
        outputs, on the host.

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
        """The network's outputs (m, n_outputs) float64 for raw examples, on the host."""
        rows = backend_of(self.params.flat).to_device(rows)
        features = self.net.layers[0]
        if rows.ndim != 2 or rows.shape[1] != features:
            raise ValueError(
                f"expected rows of shape (m, {features}), got {rows.shape}: an example is a row, "
                "as in the file"
            )
        X = apply(self.preprocessing, rows, self.params.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # large weights give NaN
            return to_host(self.net.forward(self.params, X)).T.astype(np.float64)

    def __repr__(self) -> str:
        few = len(self.classes) <= 10
        classes = ", ".join(self.classes) if few else f"{len(self.classes)} classes"
        parts = (f"net {list(self.net.layers)}", classes, str(self.params.dtype), self.source)
        return f"<Model: {'; '.join(filter(None, parts))}>"


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to an HDF5 file that `load` reads, replacing any file of that name.

    The file is written whole or not at all.

    Raises TypeError if `model` is no Model, ValueError if its parts do not fit each other or a
    weight is NaN or infinite, FileNotFoundError if the folder does not exist.
    """
    if not isinstance(model, Model):
        raise TypeError(f"found a {type(model).__name__}: pass accelnn.Model(net, params)")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    _check(model)
    write_whole(_to_bytes(model), path)


def load(path: str | os.PathLike[str]) -> Model:
    """The model in a file that `save` wrote, its parameters on the chosen backend.

    Raises FileNotFoundError if there is no such file, and ValueError if it is damaged, not a
    model of accelnn's, or of another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: expected a model saved by accelnn")
    text, weights = _read(path)
    try:
        model = _model(json.loads(text), weights)
        _check(model)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {error}: {_REMEDY}") from error
    return replace(model, params=Parameters(to_device(weights), model.net.layers))


def _to_bytes(model: Model) -> bytes:
    """The contents of the model's file."""
    import h5py  # here, so that importing accelnn.models stays cheap

    text, weights = _as_json(model), to_host(model.params.flat)
    chunk = min(weights.size, CHUNK_BYTES // weights.itemsize)
    # From version 1.8 on HDF5 protects its own structures by checksums. It ends the process on
    # damaged ones without, and on texts of variable length: the file has neither.
    contents = io.BytesIO()
    with h5py.File(contents, "w", libver="v108") as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file.attrs["format_version"] = VERSION
        file.attrs["accelnn_version"] = np.bytes_(accelnn.__version__)
        file.attrs["model"] = np.bytes_(text)
        file.attrs["sha256"] = np.bytes_(_digest(text, weights))
        file.create_dataset("weights", data=weights, chunks=(chunk,), fletcher32=True)
    return contents.getvalue()


def _as_json(model: Model) -> str:
    """Everything but the weights, as ASCII; Python's JSON gives every float back exactly."""
    fields = {
        "net": asdict(model.net),
        "classes": model.classes,
        "preprocessing": vars(model.preprocessing),
        "source": model.source,
        "stand_in": model.stand_in,
    }
    return json.dumps(fields, allow_nan=False, default=lambda array: array.tolist())


def _model(fields: dict[str, Any], weights: Array) -> Model:
    """The model, on the host, from what `_as_json` wrote and its weights."""
    net = Network(**fields["net"])
    shape, shift, scale = (fields["preprocessing"][name] for name in vars(Preprocessing()))
    return Model(
        net,
        Parameters(weights, net.layers),
        tuple(fields["classes"]),
        Preprocessing(shape and tuple(shape), *(np.array(v, float)[()] for v in (shift, scale))),
        fields["source"],
        fields["stand_in"],
    )


def _digest(text: str, weights: Array) -> str:
    kind = f"{weights.dtype.str} {weights.shape} "
    return hashlib.sha256(text.encode() + kind.encode() + weights.tobytes()).hexdigest()


def _read(path: Path) -> tuple[str, Array]:
    """The JSON and the weights of a file, which match its checksum.

    Raises ValueError if it is no whole HDF5 file, or one without a model.
    """
    import h5py

    def wrong(found: str, expected: str, remedy: str = _REMEDY) -> ValueError:
        return ValueError(f"{path}: found {found}, expected {expected}: {remedy}")

    size = path.stat().st_size

    def attribute(name: str, kind: str) -> Any:
        """A number or a text, of a type and size that were checked before it is read."""
        stored = file.attrs.get_id(name) if name in file.attrs else None
        if not stored or stored.shape != () or stored.dtype.kind != kind:
            return None
        if stored.dtype.itemsize > size:
            return None
        value = file.attrs[name]
        return bytes(value).decode("ascii", "replace") if kind == "S" else int(value)

    foreign = ValueError(f"{path} is not a model saved by accelnn")
    with path.open("rb") as raw:
        if raw.read(len(_SIGNATURE)) != _SIGNATURE:
            raise foreign
    try:
        with h5py.File(path, "r") as file:
            if attribute("format", "S") != FORMAT:
                raise foreign
            version = attribute("format_version", "i")
            if version != VERSION:
                raise wrong(
                    f"format version {version}, of accelnn {attribute('accelnn_version', 'S')}",
                    f"{VERSION}, which accelnn {accelnn.__version__} reads",
                    "upgrade accelnn" if (version or 0) > VERSION else "train and save it again",
                )
            stored = file.get("weights")
            if not isinstance(stored, h5py.Dataset):
                raise wrong(f"only the keys {list(file)}", "a dataset 'weights'")
            if stored.dtype not in FLOATS or stored.ndim != 1 or stored.chunks is None:
                raise wrong(
                    f"weights of dtype {stored.dtype} and shape {stored.shape}",
                    "float32 or float64 in one dimension, in chunks",
                )
            if stored.nbytes > size or stored.chunks[0] * stored.dtype.itemsize > CHUNK_BYTES:
                raise wrong(
                    f"{stored.nbytes} bytes of weights in chunks of {stored.chunks[0]}",
                    f"at most the file's {size} in chunks of at most {CHUNK_BYTES} bytes",
                )
            text, digest = attribute("model", "S"), attribute("sha256", "S")
            weights = stored[()]
    # h5py raises these for damaged bytes
    except (OSError, RuntimeError, TypeError, LookupError, UnicodeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's: no permission, locked
            raise
        raise wrong(f"no whole HDF5 file ({error})", f"an {FORMAT}") from error
    if text is None or _digest(text, weights) != digest:
        raise wrong("contents that do not match their checksum", "those that were saved")
    return text, weights


def _n_classes(net: Network) -> int:
    return 0 if net.output == "linear" else max(net.layers[-1], 2)


def _check(model: Model) -> None:
    """Raise ValueError if the parts of a model do not fit each other."""
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
    expected = _n_classes(net)
    if len(model.classes) != expected:
        raise ValueError(
            f"found {len(model.classes)} classes, expected {expected} for {net.layers[-1]} "
            f"{net.output} outputs"
        )
    if not all(isinstance(text, str) for text in (*model.classes, model.source)):
        raise ValueError(f"found classes {model.classes} of {model.source!r}, expected texts")
    if not isinstance(model.stand_in, bool):
        raise ValueError(f"found stand_in {model.stand_in!r}, expected True or False")
    features, shape = net.layers[0], preprocessing.image_shape
    if shape is not None and (
        len(shape) != 3
        or not all(isinstance(n, int | np.integer) and n > 0 for n in shape)
        or math.prod(shape) != features
    ):
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
