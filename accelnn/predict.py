"""`accelnn predict MODEL IMAGE...`: classify your own pictures with a saved model.

The exit status is 0 if every picture was classified, 1 if one could not be read or the model
could not be used, 2 if the arguments were wrong.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from accelnn import backend, models
from accelnn.__main__ import run
from accelnn.backend import Array
from accelnn.cli.console import as_json, console
from accelnn.datasets import read_picture
from accelnn.files import check_writable, overlap, write_whole
from accelnn.models import Model

AT_ONCE = 256  # pictures in memory at a time


@dataclass(frozen=True)
class Prediction:
    """A picture's predicted label and its probability, or why there is none."""

    picture: str
    label: str | None = None
    probability: float | None = None
    error: str | None = None


def predict(model: Model, pictures: Sequence[str | os.PathLike[str]]) -> list[Prediction]:
    """Classify picture files of any size and mode.

    Raises ValueError if the model was not trained on pictures, or predicts no classes.
    """
    shape = model.preprocessing.image_shape
    if shape is None:
        raise ValueError(
            f"the model takes {model.net.layers[0]} numbers an example, not pictures: use it from "
            "Python, accelnn.load(path).predict(rows)"
        )
    if not model.classes:
        raise ValueError(
            "the model predicts numbers, not classes: use it from Python, "
            "accelnn.load(path).predict(rows)"
        )
    predictions = []
    for start in range(0, len(pictures), AT_ONCE):
        chunk = [os.fspath(picture) for picture in pictures[start : start + AT_ONCE]]
        predictions += _predict(model, chunk, shape)
    return predictions


def _predict(model: Model, pictures: list[str], shape: tuple[int, int, int]) -> list[Prediction]:
    rows, errors = [], {}
    for picture in pictures:
        try:
            rows.append(read_picture(picture, shape).ravel())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{picture}: ")
            if isinstance(error, IsADirectoryError):
                reason = "a folder: pass its pictures"
            errors[picture] = Prediction(picture, error=reason)
    labels = iter(_labels(model, np.stack(rows)) if rows else ())
    return [errors.get(picture) or _prediction(picture, *next(labels)) for picture in pictures]


def _prediction(picture: str, label: str, probability: float) -> Prediction:
    if math.isnan(probability):  # weights so large that the network overflows
        return Prediction(picture, error="the network's output is not a number: train it again")
    return Prediction(picture, label, probability)


def _labels(model: Model, rows: Array) -> list[tuple[str, float]]:
    """Label and probability of each of the raw examples (m, n_0), which are on the host."""
    probabilities = model.probabilities(rows)
    best = probabilities.argmax(axis=1)
    return [(model.classes[i], float(p[i])) for i, p in zip(best, probabilities, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and print; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.json and options.json != "-":
        try:
            check_writable(Path(options.json))
        except OSError as error:
            parser.error(f"--json {error}")
        for file in (options.model, *options.image):
            if overlap(Path(options.json), Path(file)):
                parser.error(f"--json {options.json} would overwrite {file}: name another file")
    try:
        if options.backend:
            backend.use(options.backend)
        model = models.load(options.model)
        predictions = predict(model, options.image)
        if options.json:
            _write_json(options, model, predictions)
    except (backend.BackendError, ImportError, OSError) as error:
        return _fail(str(error))
    except ValueError as error:
        message = str(error)
        if message.endswith("not a model saved by accelnn"):
            message += ": the model comes first: accelnn predict MODEL IMAGE"
        return _fail(message if options.model in message else f"{options.model}: {message}")
    _show(predictions, model, console(sys.stderr if options.json == "-" else sys.stdout))
    return int(any(prediction.error is not None for prediction in predictions))


def _write_json(
    options: argparse.Namespace, model: Model, predictions: Sequence[Prediction]
) -> None:
    device = backend.current()
    result = {
        "model": options.model,
        "data": model.source,
        "stand_in": model.stand_in,
        "backend": device.name,
        "device": device.device_name(),
        "dtype": str(model.params.dtype),
        "predictions": [asdict(prediction) for prediction in predictions],
    }
    text = as_json(result)
    if options.json == "-":
        sys.stdout.write(text)
    else:
        write_whole(text, Path(options.json))


def _show(predictions: Sequence[Prediction], model: Model, to: Console) -> None:
    """Print the table, where it ran and what the model learned from."""
    to.print(_table(predictions, box.SIMPLE_HEAD if to.is_terminal else box.ASCII2))
    device = backend.current()
    to.print(f"Predicted on {device.name} ({device.device_name()}) in {model.params.dtype}.")
    to.print(f"Training data: {_line(model.source) or 'unknown'}", soft_wrap=True)
    if model.stand_in:
        print(
            f"warning: the model was trained on a {_line(model.source)}: its predictions mean "
            "nothing for real pictures; download those and train again",
            file=sys.stderr,
        )


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accelnn predict",
        description="Classify your own pictures, of any size and mode, with a saved model.",
    )
    parser.add_argument("model", metavar="MODEL", help="a file that accelnn train --save wrote")
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="a picture file")
    parser.add_argument(
        "--backend",
        type=backend.argument,
        metavar="NAME",
        help="numpy, cupy, cupy:N or auto; the default is ACCELNN_BACKEND or numpy",
    )
    parser.add_argument("--json", metavar="FILE", help="write the predictions; - for stdout")
    return parser


def _table(predictions: Sequence[Prediction], style: box.Box) -> Table:
    table = Table(box=style)
    table.add_column("picture", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for row in predictions:
        if row.probability is None:
            table.add_row(_line(row.picture), _line(f"FAILED: {row.error}"), "", style="bold red")
        else:
            percent = f"{100 * row.probability:.2f} %"
            table.add_row(_line(row.picture), _line(row.label or ""), percent)
    return table


def _line(text: str) -> str:
    """`text` with a ? for every character that is not printable, line breaks included."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    sys.exit(run("predict", sys.argv[1:]))
