"""What `accelnn train` makes of its trainings: tables, JSON, models and pictures."""

import argparse
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from accelnn import models, plots, streaming
from accelnn.backend import Array, array_module
from accelnn.cli.console import PIPE_WIDTH, as_json
from accelnn.datasets import Dataset
from accelnn.files import write_whole
from accelnn.network import Parameters
from accelnn.recipes import Recipe
from accelnn.scores import accuracy, labels, report
from accelnn.training import History

VALIDATION_COST = "validation\ncost"  # on two lines, to be narrower


@dataclass(frozen=True)
class Result:
    """One training that has ended. `label` is empty if there is only one."""

    label: str
    recipe: Recipe
    params: Parameters
    history: History
    seconds: float

    @functools.cached_property
    def usable(self) -> bool:
        """Whether all weights are finite, as they are not after a training that diverged."""
        flat = self.params.flat
        return bool(array_module(flat).isfinite(flat).all())

    def predict(self, X: Array) -> Array:
        """The labels of these examples, (m,)."""
        return streaming.predict(self.recipe.net, self.params, X)

    def test_accuracy(self, data: Dataset) -> float | None:
        """The accuracy on the test set, or None if there is none or the training diverged."""
        if not data.X_test.shape[1] or not self.usable:
            return None
        return accuracy(self.predict(data.X_test), data.Y_test)


@dataclass
class Files:
    """Writes files; an error leaves the others alone. `show` prints what became of them."""

    written: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def write(self, what: str, path: Path, write: Callable[[Path], None]) -> None:
        try:
            write(path)
            self.written.append(f"{what}: {path}")
        except (OSError, ValueError) as error:
            self.errors.append(f"error: {what} {path}: {error}")

    def show(self, to: Console) -> None:
        for line in self.written:
            to.print(line)
        for line in self.errors:
            print(line, file=sys.stderr)


# --------------------------------------------------------------------------------------------
# tables


def show(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace, to: Console
) -> None:
    """Print a table of the trainings, the scores by class, what ran, and the picture of --show."""
    to.print(_trainings(results, data, to))
    usable = [result for result in results if result.usable]
    for result in usable:
        if options.verbose or len(results) == 1:
            to.print(_classes(result, data, to))
    ran = results[0].history
    products = "" if ran.precision == ran.dtype else f", products in {ran.precision}"
    to.print(f"backend {ran.backend} on {ran.device}, {ran.dtype}{products}")
    labels_of: dict[str, list[str]] = {}
    for result in results:
        for line in _remarks(result, options.verbose):
            labels_of.setdefault(line, []).append(result.label)
    for line, those in labels_of.items():
        to.print(line if len(those) == len(results) else f"{'; '.join(those)}: {line}")
    to.print(f"data: {data.source}\nsets: {data.sizes}")
    for result in usable:
        if options.show is not None:
            picture = f"{result.label} picture {options.show}".strip()
            to.print(f"{picture}: {_describe_picture(result, data, options.show)}")


def _trainings(results: Sequence[Result], data: Dataset, to: Console) -> Table:
    """A row for each training, with as many columns as the console has room for."""
    unit = f"{results[0].recipe.unit}s"
    columns: dict[str, Callable[[Result], str]] = {
        "training": lambda result: result.label,
        unit: lambda result: f"{result.history.epochs_run:,}",
        "first cost": lambda result: _cost(next(iter(result.history.costs), None)),
        "final cost": lambda result: _cost(result.history.final_cost),
        VALIDATION_COST: lambda result: _cost(result.history.final_validation_cost),
        "train": lambda result: _share(result.history.final_accuracy),
        "validation": lambda result: _share(result.history.final_validation_accuracy),
        "test": lambda result: _share(result.test_accuracy(data)),
        "time": lambda result: f"{result.seconds:.2f} s",
    }
    watched = any(result.history.final_validation_cost is not None for result in results)
    absent = {"first cost"} if watched else {VALIDATION_COST, "validation"}
    if not results[0].label:
        absent.add("training")
    cells = {name: list(map(text, results)) for name, text in columns.items() if name not in absent}
    for expendable in (VALIDATION_COST, "time", unit, ""):
        table = _empty(cells, to)
        for row in zip(*cells.values(), strict=True):
            table.add_row(*row)
        if to.measure(table, options=to.options.update(width=PIPE_WIDTH)).maximum <= to.width:
            break
        cells.pop(expendable, None)
    return table


def _empty(headings: Iterable[str], to: Console, title: str | None = None) -> Table:
    style = box.SIMPLE_HEAD if to.is_terminal else box.ASCII2
    table = Table(title=title, title_justify="left", box=style)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("training", "class") else "right")
    return table


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _cost(cost: float | None) -> str:
    if cost is None:
        return ""
    return f"{cost:.6f}" if abs(cost) < 1e6 else f"{cost:.3g}"


def _classes(result: Result, data: Dataset, to: Console) -> Table:
    part, X, Y = _scored(data)
    title = f"{result.label} on the {part} set".strip()
    table = _empty(("class", "precision", "recall", "F1", "support"), to, title)
    for row in report(result.predict(X), Y, data.classes):
        scores = (f"{score:.3f}" for score in (row.precision, row.recall, row.f1))
        table.add_row(row.name, *scores, f"{row.support:,}")
    return table


def _scored(data: Dataset) -> tuple[str, Array, Array]:
    """The name, X and Y of the test set, or without one of the training set."""
    if data.X_test.shape[1]:
        return "test", data.X_test, data.Y_test
    return "training", data.X_train, data.Y_train


def _remarks(result: Result, verbose: bool) -> Iterator[str]:
    """Lines on how a training went."""
    history, recipe, net = result.history, result.recipe, result.recipe.net
    if recipe.method is None:
        reason = f" ({history.reason})" if verbose else ""
        yield f"{_describe(recipe)}, solver {history.solver}{reason}"
    else:
        yield history.reason if verbose else _describe(recipe)
    if verbose:
        hidden = f"{', '.join(dict.fromkeys(net.hidden))} and " if net.hidden else ""
        yield f"net {list(net.layers)} of {hidden}{net.output}, first weights {recipe.init}"
    elif not result.label:  # the label of a comparison says what differs
        yield f"net {list(net.layers)}"
    if history.compile_seconds >= 1:
        yield f"{history.compile_seconds:.1f} s of the time went into compiling, this once"
    if history.stopped == "interrupted":
        total = plots.counted(recipe.epochs, recipe.unit)
        yield f"interrupted after {history.epochs_run:,} of {total}"
    elif history.stopped:
        line = f"stopped after {plots.counted(history.epochs_run, 'epoch')}: "
        line += f"no lower validation cost for {recipe.patience}"
        if history.final_validation_cost in history.validation_costs:  # False for NaN
            best = history.epochs[history.validation_costs.index(history.final_validation_cost)]
            line += f"; the weights of epoch {best:,} are scored and saved"
        yield line


def _describe(recipe: Recipe) -> str:
    """The optimizer, its learning rate and the batch size of a recipe, or SciPy's method."""
    if recipe.method is not None:
        return f"minimised by {recipe.method}, without a validation set"
    text = f"{recipe.optimizer} at {recipe.learning_rate:g}"
    if recipe.batch_size is not None:
        text += f" on batches of {recipe.batch_size}"
    if recipe.decay:
        text += f", decay {recipe.decay:g}"
    return text


def _describe_picture(result: Result, data: Dataset, index: int) -> str:
    """The class of a training picture, and the predicted one."""
    X, Y = data.X_train[:, index : index + 1], labels(data.Y_train)
    predicted = data.classes[int(result.predict(X)[0])]
    return f"{data.classes[Y[index]]}, predicted {predicted}"


# --------------------------------------------------------------------------------------------
# files


def save(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace, files: Files
) -> None:
    """Write the models and the JSON that were asked for.

    The models come first: forming the JSON's final costs may be interrupted or lack the memory.
    """
    if options.save:
        about = data.classes, data.preprocessing, data.source, data.stand_in
        for result in results:
            model = models.Model(result.recipe.net, result.params, *about)
            files.write("model", _path(options.save, result.label), partial(models.save, model))
    if options.json:
        text = as_json(_content(results, data, options))
        if options.json == "-":
            sys.stdout.write(text)
        else:
            files.write("results", Path(options.json), partial(write_whole, text))


def _content(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace
) -> dict[str, Any]:
    trainings = [
        {
            "label": result.label,
            "net": asdict(result.recipe.net),
            "method": result.recipe.method,
            "learning_rate": None if result.recipe.method else result.recipe.learning_rate,
            "decay": result.recipe.decay,
            "seed": result.recipe.seed,
            "seconds": result.seconds,
            "test_accuracy": result.test_accuracy(data),
            **result.history.to_dict(),
        }
        for result in results
    ]
    about = {"recipe": options.recipe, "data": data.source, "stand_in": data.stand_in}
    return {**about, "trainings": trainings}


def draw(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace, files: Files
) -> None:
    """Draw and write the pictures that suit the data."""
    name = options.recipe or results[0].recipe.title
    figures = _figures(results, data, name)
    last, index = results[-1], options.show
    if index is not None and last.usable:
        X, shape = data.X_train[:, index : index + 1], data.preprocessing.image_shape
        assert shape is not None  # checked before the training
        titles = [_describe_picture(last, data, index)]
        title = _title(last, data, name)
        figures[f"picture-{index}"] = plots.pictures(X, titles, shape, title=title)
    for part, figure in figures.items():
        files.write("picture", _path(options.plot, part), partial(plots.save, figure))


def _figures(results: Sequence[Result], data: Dataset, name: str) -> dict[str, Any]:
    """The pictures by what is added to the file's name; those of one training show the last."""
    X, Y = data.X_train, data.Y_train
    title, last = plots.title_of(name, data), results[-1]
    usable = [result for result in results if result.usable]
    if usable and X.shape[0] == 2:
        trained = {r.label or _hidden(r): (r.recipe.net, r.params, r.history) for r in usable}
        return {"": plots.comparison(trained, X, Y, title, data.classes)}
    curves: dict[str, plots.Curve] = {}
    for result in results:
        curves |= plots.curves_of(result.history, result.label)
    figures = {"": plots.costs(curves, title)}
    shape = data.preprocessing.image_shape
    if shape is None or not last.usable:
        return figures
    title_of_last, (part, X_scored, Y_scored) = _title(last, data, name), _scored(data)
    figures["misclassified"] = plots.misclassified(
        *(X_scored, Y_scored, last.predict(X_scored), data.classes, shape),
        title=f"{title_of_last}, {part} set",
    )
    if len(data.classes) > 2:
        drawn = np.random.RandomState(0).permutation(X.shape[1])[:100]
        examples = X[:, array_module(X).asarray(drawn)]
        figures["examples"] = plots.pictures(examples, None, shape, columns=10, title=title)
    if last.recipe.net.hidden and shape[2] == 1:
        figures["hidden"] = plots.hidden_layer(last.params, shape, title_of_last)
    return figures


def _title(result: Result, data: Dataset, name: str) -> str:
    return plots.title_of(f"{name}: {result.label}" if result.label else name, data)


def _hidden(result: Result) -> str:
    sizes = result.recipe.net.layers[1:-1]
    if len(sizes) == 1:
        return plots.counted(sizes[0], "hidden unit")
    return f"{', '.join(map(str, sizes))} hidden units" if sizes else "no hidden layer"


def _path(file: str, name: str) -> Path:
    """`file` with a name added before its suffix: cats-misclassified.png beside cats.png."""
    path = Path(file)
    words = "-".join(re.findall(r"[\w.]+", name))
    return path.with_name(f"{path.stem}-{words}{path.suffix}") if words else path
