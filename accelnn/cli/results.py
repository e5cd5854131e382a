"""What `accelnn train` makes of its trainings: tables, JSON, models and pictures."""

import argparse
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
        """Whether it can predict: a training that diverged leaves weights that are not finite."""
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


@dataclass(frozen=True)
class Written:
    """A file that was asked for, and the reason if it could not be written."""

    what: str
    path: Path
    error: str | None = None

    @classmethod
    def by(cls, write: Callable[[Path], None], what: str, path: Path) -> "Written":
        """What became of writing to `path`: an error leaves the other files alone."""
        try:
            write(path)
        except (OSError, ValueError) as error:
            return cls(what, path, str(error))
        return cls(what, path)


# --------------------------------------------------------------------------------------------
# tables


def show(results: Sequence[Result], data: Dataset, to: Console, verbose: bool = False) -> None:
    """Print a table of the trainings, the scores by class, and what ran.

    verbose : the nets too, why each solver was chosen, and the scores by class of each training
        of a comparison
    """
    to.print(_trainings(results, data, to))
    if verbose or len(results) == 1:
        for result in filter(lambda result: result.usable, results):
            to.print(_classes(result, data, to))
    history = results[0].history
    rounded = history.precision != history.dtype
    products = f", products in {history.precision}" if rounded else ""
    to.print(f"backend {history.backend} on {history.device}, {history.dtype}{products}")
    labels_of: dict[str, list[str]] = {}
    for result in results:
        for line in _remarks(result, verbose):
            labels_of.setdefault(line, []).append(result.label)
    for line, those in labels_of.items():
        to.print(line if len(those) == len(results) else f"{'; '.join(those)}: {line}")
    to.print(f"data: {data.source}")
    to.print(f"sets: {data.sizes}")


def _trainings(results: Sequence[Result], data: Dataset, to: Console) -> Table:
    """A row for each training, with as many columns as the console has room for."""
    columns = {"training": [result.label for result in results]} if results[0].label else {}
    unit = f"{results[0].recipe.unit}s"
    columns[unit] = [f"{result.history.epochs_run:,}" for result in results]
    histories = [result.history for result in results]
    if any(history.final_validation_cost is not None for history in histories):
        columns["cost"] = [_cost(history.final_cost) for history in histories]
        columns[VALIDATION_COST] = [_cost(history.final_validation_cost) for history in histories]
        columns["train"] = [_share(history.final_accuracy) for history in histories]
        columns["validation"] = [_share(history.final_validation_accuracy) for history in histories]
    else:
        columns["first cost"] = [_cost(next(iter(history.costs), None)) for history in histories]
        columns["final cost"] = [_cost(history.final_cost) for history in histories]
        columns["train"] = [_share(history.final_accuracy) for history in histories]
    columns["test"] = [_share(result.test_accuracy(data)) for result in results]
    columns["time"] = [f"{result.seconds:.2f} s" for result in results]
    for expendable in (VALIDATION_COST, "time", unit, ""):
        table = _empty(columns, to)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        if to.measure(table, options=to.options.update(width=PIPE_WIDTH)).maximum <= to.width:
            break
        columns.pop(expendable, None)
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
    part, X, Y = _judged(data)
    title = f"{result.label} on the {part} set".strip()
    table = _empty(("class", "precision", "recall", "F1", "support"), to, title)
    for row in report(result.predict(X), Y, data.classes):
        scores = (row.precision, row.recall, row.f1)
        table.add_row(row.name, *(f"{score:.3f}" for score in scores), f"{row.support:,}")
    return table


def _judged(data: Dataset) -> tuple[str, Array, Array]:
    """The name, X and Y of the set that predictions are shown of: test, or training without it."""
    if data.X_test.shape[1]:
        return "test", data.X_test, data.Y_test
    return "training", data.X_train, data.Y_train


def _remarks(result: Result, verbose: bool) -> Iterator[str]:
    """Lines on how a training went."""
    history, recipe = result.history, result.recipe
    if recipe.method is None:
        yield f"{how(recipe)}, solver {history.solver}" + f" ({history.reason})" * verbose
    else:
        yield history.reason if verbose else how(recipe)
    net, about = recipe.net, ""
    if verbose:
        hidden = f"{', '.join(dict.fromkeys(net.hidden))} and " if net.hidden else ""
        about = f" of {hidden}{net.output}, first weights {recipe.init}"
    if verbose or not result.label:  # the label of a comparison says what differs
        yield f"net {list(net.layers)}{about}"
    if history.compile_seconds >= 1:
        yield f"{history.compile_seconds:.1f} s of the time went into compiling, this once"
    if history.stopped == "interrupted":
        yield f"interrupted after {history.epochs_run:,} of {recipe.epochs:,} {recipe.unit}s"
    elif history.stopped:
        line = f"stopped after {history.epochs_run:,} epochs: no lower validation cost for "
        line += str(recipe.patience)
        if history.final_validation_cost in history.validation_costs:  # which NaN is not
            best = history.epochs[history.validation_costs.index(history.final_validation_cost)]
            line += f"; the weights of epoch {best:,} are scored and saved"
        yield line


def how(recipe: Recipe) -> str:
    """The optimizer, its learning rate and the batch size of a recipe, or SciPy's method."""
    if recipe.method is not None:
        return f"minimised by {recipe.method}, without a validation set"
    text = f"{recipe.optimizer} at {recipe.learning_rate:g}"
    if recipe.batch_size is not None:
        text += f" on batches of {recipe.batch_size}"
    if recipe.decay:
        text += f", decay {recipe.decay:g}"
    return text


def describe_picture(result: Result, data: Dataset, index: int) -> str:
    """The class of a training picture, and the one predicted."""
    X, Y = data.X_train[:, index : index + 1], labels(data.Y_train)
    predicted = data.classes[int(result.predict(X)[0])]
    return f"{data.classes[Y[index]]}, predicted {predicted}"


# --------------------------------------------------------------------------------------------
# files


def save(results: Sequence[Result], data: Dataset, options: argparse.Namespace) -> list[Written]:
    """Write the models and the JSON that were asked for.

    The models come first: forming the JSON's final costs may be interrupted or lack the memory.
    """
    written = []
    if options.save:
        for result in results:
            model = models.Model(
                result.recipe.net,
                result.params,
                data.classes,
                data.preprocessing,
                data.source,
                data.stand_in,
            )
            path = _path(options.save, result.label)
            written.append(Written.by(partial(models.save, model), "model", path))
    if options.json:
        text = as_json(_content(results, data, options))
        if options.json == "-":
            sys.stdout.write(text)
        else:
            written.append(Written.by(partial(write_whole, text), "results", Path(options.json)))
    return written


def _content(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "recipe": options.recipe,
        "data": data.source,
        "stand_in": data.stand_in,
        "trainings": [
            {
                "label": result.label,
                "net": asdict(result.recipe.net),
                "method": result.recipe.method,
                "learning_rate": (None if result.recipe.method else result.recipe.learning_rate),
                "decay": result.recipe.decay,
                "seed": result.recipe.seed,
                "seconds": result.seconds,
                "test_accuracy": result.test_accuracy(data),
                **result.history.to_dict(),
            }
            for result in results
        ],
    }


def draw(results: Sequence[Result], data: Dataset, options: argparse.Namespace) -> list[Written]:
    """Draw and write the pictures that suit the data."""
    figures = _figures(results, data, options.recipe or results[0].recipe.title)
    if options.show is not None and results[-1].usable:
        figures |= _figure_of_picture(results[-1], data, options)
    return [
        Written.by(partial(plots.save, figure), "picture", _path(options.plot, name))
        for name, figure in figures.items()
    ]


def _figures(results: Sequence[Result], data: Dataset, name: str) -> dict[str, Any]:
    """The pictures, by what is added to the file's name; those of one training are the last's."""
    X, Y = data.X_train, data.Y_train
    title, last = plots.title_of(name, data), results[-1]
    usable = [result for result in results if result.usable]
    if usable and X.shape[0] == 2:
        trained = {r.label or _hidden(r): (r.recipe.net, r.params, r.history) for r in usable}
        return {"": plots.comparison(trained, X, Y, title, data.classes)}
    figures = {"": plots.costs(_curves(results), title)}
    shape = data.preprocessing.image_shape
    if shape is None or not last.usable:
        return figures
    title_of_last = _title(last, data, name)
    part, judged_X, judged_Y = _judged(data)
    figures["misclassified"] = plots.misclassified(
        judged_X,
        judged_Y,
        last.predict(judged_X),
        data.classes,
        shape,
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
    sizes = ", ".join(map(str, result.recipe.net.layers[1:-1]))
    return f"{sizes} hidden units" if sizes else "no hidden layer"


def _curves(results: Sequence[Result]) -> dict[str, plots.Curve]:
    """The costs of each training, and of its validation set if there is one."""
    curves: dict[str, plots.Curve] = {}
    for result in results:
        history = result.history
        curves[result.label or ("training" if history.validation_costs else "")] = history
        if history.validation_costs:
            name = f"{result.label}, validation" if result.label else "validation"
            curves[name] = history.epochs, history.validation_costs
    return curves


def _figure_of_picture(
    result: Result, data: Dataset, options: argparse.Namespace
) -> dict[str, Any]:
    index, name = options.show, options.recipe or result.recipe.title
    picture, shape = data.X_train[:, index : index + 1], data.preprocessing.image_shape
    assert shape is not None  # checked before the training
    titles = [describe_picture(result, data, index)]
    title = _title(result, data, name)
    return {f"picture-{index}": plots.pictures(picture, titles, shape, title=title)}


def _path(file: str, name: str) -> Path:
    """`file` with a name added before its suffix: cats-misclassified.png beside cats.png."""
    path = Path(file)
    words = "-".join(re.findall(r"[\w.]+", name))
    return path.with_name(f"{path.stem}-{words}{path.suffix}") if words else path
