"""`accelnn predict MODEL IMAGE...|TABLE`: predict your own pictures or table with a saved model.

The exit status is 0 if everything was predicted, 1 if not, 2 if the arguments were wrong.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from rich import box
from rich.table import Table

from accelnn import backend, models
from accelnn.cli.console import Parser, as_json, console, printable, show_error, show_warning
from accelnn.datasets import read_picture
from accelnn.files import check_writable, overlap, write_whole
from accelnn.models import Model

AT_ONCE = 256  # pictures in memory at a time


@dataclass
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
    if shape is None or not model.classes:
        remedy = "use it from Python, accelnn.load(path).predict(rows)"
        raise ValueError(f"the model does not classify pictures: {remedy}")
    predictions = [Prediction(os.fspath(picture)) for picture in pictures]
    for start in range(0, len(pictures), AT_ONCE):
        readable, pixels = [], []
        for one in predictions[start : start + AT_ONCE]:
            try:
                pixels.append(read_picture(one.picture, shape).ravel())
                readable.append(one)
            except IsADirectoryError:
                one.error = "a folder: pass its pictures"
            except (OSError, ValueError) as error:
                reason = str(error).removeprefix(f"{Path(one.picture)}: ")
                one.error = getattr(error, "strerror", None) or reason
        probabilities = model.probabilities(np.stack(pixels)) if pixels else ()
        for one, p in zip(readable, probabilities, strict=True):
            if np.isnan(p).any():  # weights so large that the network overflows
                one.error = "the network's output is not a number: train it again"
            else:
                one.label, one.probability = model.classes[p.argmax()], float(p.max())
    return predictions


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and print; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if is_table_model(options.model):
        return _predict_table(parser, options)
    if options.output:
        parser.error("--output is for tables: use --json for pictures")
    if options.json and options.json != "-":
        try:
            check_writable(Path(options.json))
            for file in (options.model, *options.image):
                if overlap(Path(options.json), Path(file)):
                    parser.error(f"--json {options.json} would overwrite {file}: name another file")
        except OSError as error:
            parser.error(f"--json {error}")
    try:
        if options.backend:
            backend.use(options.backend)
        model, device = models.load(options.model), backend.current()
        predictions = predict(model, options.image)
        if options.json:
            result = {"model": options.model, "data": model.source, "stand_in": model.stand_in}
            result |= {"backend": device.name, "device": device.device_name()}
            result |= {"dtype": str(model.params.dtype), "predictions": [*map(vars, predictions)]}
            text = as_json(result)
            if options.json == "-":
                sys.stdout.write(text)
            else:
                write_whole(text, Path(options.json))
    except (backend.BackendError, ImportError, OSError, ValueError) as error:
        message = str(error)
        if isinstance(error, ValueError) and str(Path(options.model)) not in message:
            message = f"{options.model}: {message}"
        if message.endswith("not a model saved by accelnn"):
            message += ": the model comes first: accelnn predict MODEL IMAGE"
        show_error(message)
        return 1
    _show(predictions, model, sys.stderr if options.json == "-" else sys.stdout)
    return int(any(prediction.label is None for prediction in predictions))


def is_table_model(file: str) -> bool:
    """Whether a file begins as all models of tables do; others are of pictures."""
    try:
        with open(file, "rb") as model:
            return model.read(2) == b"PK"
    except OSError:
        return False


def _predict_table(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.json:
        parser.error("--json is for pictures: use --output for a table")
    if len(options.image) != 1:
        parser.error(f"expected one table, got {len(options.image)}")
    try:
        if options.output:
            check_writable(Path(options.output))
            for file in (options.model, *options.image):
                if overlap(Path(options.output), Path(file)):
                    parser.error(f"--output {options.output} would overwrite {file}")
        if options.backend:
            backend.use(options.backend)
        from accelnn.cli import tables  # with pandas and scikit-learn, which take a second

        tables.predict(options.model, options.image[0], options.output)
    except (backend.BackendError, ImportError, OSError, ValueError) as error:
        show_error(error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    usage = "%(prog)s MODEL IMAGE...\n       %(prog)s MODEL TABLE [--output FILE]"
    about = "Classify your own pictures, or predict the rows of a table, with a saved model."
    parser = Parser(prog="accelnn predict", usage=usage, description=about)
    parser.add_argument("model", metavar="MODEL", help="a file that accelnn train --save wrote")
    what = "picture files, or one table as CSV or Parquet"
    parser.add_argument("image", nargs="+", metavar="IMAGE|TABLE", help=what)
    about = "numpy, cupy, cupy:N or auto; the default is ACCELNN_BACKEND or numpy"
    parser.add_argument("--backend", type=backend.argument, metavar="NAME", help=about)
    about = "write a picture's predictions as JSON; - for stdout"
    parser.add_argument("--json", metavar="FILE", help=about)
    about = "write the table and its predictions as CSV; by default to stdout"
    parser.add_argument("--output", metavar="FILE", help=about)
    return parser


def _show(predictions: Sequence[Prediction], model: Model, file: IO[str]) -> None:
    """Print the table, where it ran and what the model learned from."""
    to, device = console(file), backend.current()
    table = Table(box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2)
    table.add_column("picture", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for row in predictions:
        label = f"FAILED: {row.error}" if row.label is None else row.label
        percent = "" if row.probability is None else f"{100 * row.probability:.2f} %"
        style = "bold red" if row.label is None else None
        table.add_row(printable(row.picture), printable(label), percent, style=style)
    to.print(table)
    to.print(f"Predicted on {device.name} ({device.device_name()}) in {model.params.dtype}.")
    to.print(f"Training data: {printable(model.source) or 'unknown'}", soft_wrap=True)
    if model.stand_in:
        reason = "the model was trained on stand-ins"
        show_warning(f"{reason}: its predictions mean nothing for real data")
