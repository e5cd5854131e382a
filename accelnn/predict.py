"""`python -m accelnn.predict MODEL IMAGE...`: what a saved model says of your own pictures.

The exit status says whether every picture was told (0), one could not be read or the model
could not be used (1), or the arguments were wrong (2).
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from accelnn import backend, models
from accelnn.backend import Array, to_device, to_host
from accelnn.bench.report import console
from accelnn.datasets import read_picture
from accelnn.models import Model

AT_ONCE = 256  # pictures that are in memory together


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture: a label and its probability, or why it says nothing."""

    picture: str
    label: str | None = None
    probability: float | None = None
    error: str | None = None


def predict(model: Model, pictures: Sequence[str | os.PathLike[str]]) -> list[Prediction]:
    """What `model` says of each of these picture files, of any size and mode.

    Raises ValueError where the model was not trained on pictures, or tells no classes.
    """
    shape = model.preprocessing.image_shape
    if shape is None:
        raise ValueError(
            f"the model takes {model.net.layers[0]} numbers an example, not pictures: "
            "train one with --images, or ask this one from Python (accelnn.models.load)"
        )
    if not model.classes:
        raise ValueError("the model tells numbers, not classes: ask it from Python")
    predictions = []
    for start in range(0, len(pictures), AT_ONCE):
        some = [os.fspath(picture) for picture in pictures[start : start + AT_ONCE]]
        predictions += _predict(model, some, shape)
    return predictions


def _predict(model: Model, pictures: list[str], shape: tuple[int, int, int]) -> list[Prediction]:
    rows, errors = [], {}
    for picture in pictures:
        try:
            rows.append(read_picture(picture, shape).ravel())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{picture}: ")
            errors[picture] = Prediction(picture, error=reason)
    told = iter(_labels(model, np.stack(rows)) if rows else ())
    return [errors.get(picture) or _prediction(picture, *next(told)) for picture in pictures]


def _prediction(picture: str, label: str, probability: float) -> Prediction:
    if math.isnan(probability):  # weights so large that the network overflows
        return Prediction(picture, error="the network's output is not a number: train it again")
    return Prediction(picture, label, probability)


def _labels(model: Model, rows: Array) -> list[tuple[str, float]]:
    """Label and probability of each of the raw examples (m, n_0), given on the host."""
    X = models.apply(model.preprocessing, to_device(rows), model.params.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # said in the picture's row
        A = to_host(model.net.forward(model.params, X)).astype(np.float64)
    if len(A) == 1:
        A = np.concatenate([1 - A, A])
    best = A.argmax(axis=0)  # the first where two are the same: a half is no 1, as in the notes
    return [(model.classes[i], float(a[i])) for i, a in zip(best, A.T, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and print; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.json and options.json != "-" and not Path(options.json).parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {Path(options.json).parent}")
    try:
        if options.backend:
            backend.use(options.backend)
        model = models.load(options.model)
        predictions = predict(model, options.image)
    except (backend.BackendError, ImportError, OSError) as error:
        return _fail(str(error))
    except ValueError as error:
        message = str(error)
        return _fail(message if options.model in message else f"{options.model}: {message}")

    there = backend.current()
    if options.json:
        result = {
            "model": options.model,
            "backend": there.name,
            "device": there.device_name(),
            "dtype": str(model.params.dtype),
            "predictions": [asdict(prediction) for prediction in predictions],
        }
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            Path(options.json).write_text(text)
    to = console(sys.stderr if options.json == "-" else sys.stdout)
    to.print(_table(predictions, box.SIMPLE_HEAD if to.is_terminal else box.ASCII2))
    to.print(f"Predicted on {there.name} ({there.device_name()}) in {model.params.dtype}.")
    return int(any(prediction.error is not None for prediction in predictions))


def _fail(message: str) -> int:
    print(f"python -m accelnn.predict: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelnn.predict",
        description="Tell what a saved model says of your own pictures, of any size and mode.",
    )
    parser.add_argument("model", metavar="MODEL", help="a file that accelnn.train --save wrote")
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="a picture file")
    parser.add_argument(
        "--backend",
        type=backend.argument,
        metavar="NAME",
        help="numpy, cupy, cupy:N or auto: where to run; else ACCELNN_BACKEND decides",
    )
    parser.add_argument("--json", metavar="FILE", help="write the labels; - is standard output")
    return parser


def _table(predictions: Sequence[Prediction], style: box.Box) -> Table:
    table = Table(box=style)
    table.add_column("picture", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for told in predictions:
        if told.probability is None:
            table.add_row(_line(told.picture), _line(f"FAILED: {told.error}"), "", style="bold red")
        else:
            percent = f"{100 * told.probability:.2f} %"
            table.add_row(_line(told.picture), _line(told.label or ""), percent)
    return table


def _line(text: str) -> str:
    """`text` with a ? for line breaks and all else that would upset a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    sys.exit(main())
