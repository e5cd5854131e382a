"""The results of `accelnn train`: tables, JSON, models and pictures."""

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
from accelnn.cli.console import PIPE_WIDTH, as_json, printable, show_error
from accelnn.cli.train_options import OWN
from accelnn.datasets import Dataset
from accelnn.files import check_writable, overlap, write_whole
from accelnn.network import Parameters
from accelnn.recipes import Recipe
from accelnn.scores import accuracy, labels, r2, report
from accelnn.training import History

LEFT = ("training", "class", "score", "folds")  # headings of columns that begin at the left
VALIDATION_COST = "validation\ncost"  # on two lines, to be narrower


@dataclass(frozen=True)
class Result:
    """One training that has ended. `label` is empty if there is only one."""

    label: str
    recipe: Recipe
    params: Parameters
    history: History

    @functools.cached_property
    def usable(self) -> bool:
        """Whether all weights are finite, as they are not after a training that diverged."""
        flat = self.params.flat
        return bool(array_module(flat).isfinite(flat).all())

    def predict(self, X: Array) -> Array:
        """The labels of these examples, (m,)."""
        return streaming.predict(self.recipe.net, self.params, X)

    def test_score(self, data: Dataset) -> float | None:
        """The accuracy on the test set, or R² of a regression; None if there is no test set or the
        training diverged."""
        return self._score(data.X_test, data.Y_test)

    def train_scores(self, data: Dataset) -> tuple[float | None, float | None]:
        """The same on the training and the validation set."""
        if self.recipe.net.classifies:
            return self.history.final_accuracy, self.history.final_validation_accuracy
        train = self._score(data.X_train, data.Y_train)
        return train, self._score(data.X_validation, data.Y_validation)

    def _score(self, X: Array, Y: Array) -> float | None:
        if X is None or not X.shape[1] or not self.usable:
            return None
        return (accuracy if self.recipe.net.classifies else r2)(self.predict(X), Y)


@dataclass
class Files:
    """Writes files; an error leaves the others alone. `show` prints their names and the errors."""

    written: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def write(self, what: str, path: Path, write: Callable[[Path], None]) -> None:
        try:
            write(path)
            self.written.append(f"{what}: {path}")
        except (OSError, ValueError, MemoryError) as error:
            self.errors.append(f"{what} {path}: {error}")

    def show(self, to: Console) -> None:
        for line in self.written:
            to.print(line)
        for line in self.errors:
            show_error(line)


@dataclass(frozen=True)
class Report:
    """The output of one command: the tables, files and pictures of its trainings."""

    results: Sequence[Result]
    data: Dataset
    options: argparse.Namespace
    files: Files = field(default_factory=Files)

    @functools.cached_property
    def usable(self) -> list[Result]:
        """The results that can predict."""
        return [result for result in self.results if result.usable]

    @property
    def scored(self) -> tuple[str, Array, Array]:
        """The name, X and Y of the test set, or without one of the training set."""
        if self.data.X_test.shape[1]:
            return "test", self.data.X_test, self.data.Y_test
        return "training", self.data.X_train, self.data.Y_train

    def save(self) -> None:
        """Write all files, the models first: the final costs may be interrupted or lack memory."""
        options = self.options
        if options.save:
            for result in self.results:
                save = partial(self._save_model, result)
                self.files.write("model", _path(options.save, result.label), save)
        if options.json and options.json != "-":
            self.files.write("results", Path(options.json), self._write_json)
        if options.plot:
            try:
                for part, figure in self._figures():
                    path = _path(options.plot, part)
                    self.files.write("picture", path, partial(plots.save, figure))
            except (ValueError, MemoryError) as error:
                self.files.errors.append(f"picture {options.plot}: {error}")

    def _save_model(self, result: Result, path: Path) -> None:
        data = self.data
        about = data.classes, data.preprocessing, data.source, data.stand_in
        models.save(models.Model(result.recipe.net, result.params, *about), path)

    def _write_json(self, path: Path) -> None:
        write_whole(self._json(), path)

    def _json(self) -> str:
        trainings = [_as_dict(result, self.data) for result in self.results]
        made = {"recipe": self.options.recipe, "data": self.data.source}
        return as_json(made | {"stand_in": self.data.stand_in, "trainings": trainings})

    def show(self, to: Console) -> None:
        """Print the JSON if --json is -, a table of the trainings, the scores by class, what ran,
        --show's picture, and what was written."""
        if self.options.json == "-":
            sys.stdout.write(self._json())
        to.print(self._trainings(to))
        for result in self.usable:
            if self.options.verbose or len(self.results) == 1:
                to.print(self._scores(result, to))
        ran = self.results[0].history
        products = "" if ran.precision == ran.dtype else f", products in {ran.precision}"
        many = f", {ran.processes} processes" if ran.processes > 1 else ""
        to.print(f"backend {ran.backend} on {ran.device}, {ran.dtype}{products}{many}")
        labels_of: dict[str, list[str]] = {}
        for result in self.results:
            for line in _remarks(result, self.options.verbose):
                labels_of.setdefault(line, []).append(result.label)
        for line, those in labels_of.items():
            to.print(line if len(those) == len(self.results) else f"{'; '.join(those)}: {line}")
        to.print(f"data: {printable(self.data.source)}\nsets: {self.data.sizes}")
        for result in self.usable:
            if self.options.show is not None:
                picture = f"{result.label} picture {self.options.show}".strip()
                to.print(f"{picture}: {self._prediction(result)}")
        self.files.show(to)

    def _trainings(self, to: Console) -> Table:
        """A row for each training, with as many columns as the console has room for."""
        unit = f"{self.results[0].recipe.unit}s"
        classes = bool(self.data.classes)
        score, show = ("", _share) if classes else (" R²", _r2)
        histories = [result.history for result in self.results]
        known = [result.train_scores(self.data) for result in self.results]
        cells = {
            "training": [result.label for result in self.results],
            unit: [f"{history.epochs_run:,}" for history in histories],
            "first cost": [_cost(next(iter(history.costs), None)) for history in histories],
            "final cost": [_cost(history.final_cost) for history in histories],
            VALIDATION_COST: [_cost(history.final_validation_cost) for history in histories],
            f"train{score}": [show(scores[0]) for scores in known],
            f"validation{score}": [show(scores[1]) for scores in known],
            f"test{score}": [show(result.test_score(self.data)) for result in self.results],
            "time": [f"{result.history.seconds:.2f} s" for result in self.results],
        }
        watched = any(cells[VALIDATION_COST])
        for name in ("first cost",) if watched else (VALIDATION_COST, f"validation{score}"):
            del cells[name]
        if not self.results[0].label:
            del cells["training"]
        for expendable in (VALIDATION_COST, "time", unit, ""):
            table = empty_table(cells, to)
            for row in zip(*cells.values(), strict=True):
                table.add_row(*row)
            if to.measure(table, options=to.options.update(width=PIPE_WIDTH)).maximum <= to.width:
                break
            cells.pop(expendable, None)
        return table

    def _scores(self, result: Result, to: Console) -> Table:
        part, X, Y = self.scored
        title = f"{result.label} on the {part} set".strip()
        table = empty_table(("class", "precision", "recall", "F1", "support"), to, title)
        for row in report(result.predict(X), Y, self.data.classes):
            scores = (f"{score:.3f}" for score in (row.precision, row.recall, row.f1))
            table.add_row(row.name, *scores, f"{row.support:,}")
        return table

    def _prediction(self, result: Result) -> str:
        """The class of --show's training picture, and the predicted one."""
        index, classes = self.options.show, self.data.classes
        X, Y = self.data.X_train[:, index : index + 1], labels(self.data.Y_train)
        return f"{classes[Y[index]]}, predicted {classes[int(result.predict(X)[0])]}"

    def _figures(self) -> Iterator[tuple[str, plots.Figure]]:
        """The pictures that suit the data, each after its part of the file's name; one training's
        shows the last."""
        data, last = self.data, self.results[-1]
        X, classes, shape = data.X_train, data.classes, data.preprocessing.image_shape
        name = self.options.recipe or last.recipe.title
        drawn = ", drawn stand-ins" if data.stand_in else ""
        title = f"{name}{drawn}"
        title_of_last = f"{name}: {last.label}{drawn}" if last.label else title
        if self.usable and X.shape[0] == 2 and classes:
            runs = {r.label or _hidden(r): (r.recipe.net, r.params, r.history) for r in self.usable}
            yield "", plots.comparison(runs, X, data.Y_train, title, classes)
            return
        curves: dict[str, plots.Curve] = {}
        for result in self.results:
            curves |= plots.curves_of(result.history, result.label)
        yield "", plots.costs(curves, title)
        if shape is None or not last.usable:
            return
        part, X_scored, Y_scored = self.scored
        scored = X_scored, Y_scored, last.predict(X_scored), classes
        set_title = f"{title_of_last}, {part} set"
        yield "misclassified", plots.misclassified(*scored, shape, title=set_title)
        if len(classes) > 2:
            chosen = array_module(X).asarray(np.random.RandomState(0).permutation(X.shape[1])[:100])
            yield "examples", plots.pictures(X[:, chosen], None, shape, columns=10, title=title)
        if last.recipe.net.hidden and shape[2] == 1:
            yield "hidden", plots.hidden_layer(last.params, shape, title_of_last)
        if (index := self.options.show) is not None:
            given = X[:, index : index + 1], [self._prediction(last)], shape
            yield f"picture-{index}", plots.pictures(*given, title=title_of_last)


def empty_table(headings: Iterable[str], to: Console, title: str | None = None) -> Table:
    style = box.SIMPLE_HEAD if to.is_terminal else box.ASCII2
    table = Table(title=title, title_justify="left", box=style)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in LEFT else "right")
    return table


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _r2(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cost(cost: float | None) -> str:
    if cost is None:
        return ""
    return f"{cost:.6f}" if abs(cost) < 1e6 else f"{cost:.3g}"


def _remarks(result: Result, verbose: bool) -> Iterator[str]:
    """Lines on how a training went."""
    history, recipe, net = result.history, result.recipe, result.recipe.net
    if recipe.method is None:
        batches = f" on batches of {recipe.batch_size}" if recipe.batch_size else ""
        decay = f", decay {recipe.decay:g}" if recipe.decay else ""
        reason = f" ({history.reason})" if verbose else ""
        steps = f"{recipe.optimizer} at {recipe.learning_rate:g}{batches}{decay}"
        yield f"{steps}, solver {history.solver}{reason}"
    elif verbose:
        yield history.reason
    else:
        yield f"minimised by {recipe.method}, without a validation set"
    if verbose:
        hidden = f"{', '.join(dict.fromkeys(net.hidden))} and " if net.hidden else ""
        yield f"net {list(net.layers)} of {hidden}{net.output}, first weights {recipe.init}"
    elif not result.label:  # the label of a comparison says what differs
        yield f"net {list(net.layers)}"
    if history.compile_seconds >= 1:
        yield f"compiling took {history.compile_seconds:.1f} s of the time, only this once"
    if history.stopped == "interrupted":
        total = plots.counted(recipe.epochs, recipe.unit)
        yield f"interrupted after {history.epochs_run:,} of {total}"
    elif history.stopped:
        line = f"stopped after {plots.counted(history.epochs_run, 'epoch')}: "
        line += f"no lower validation cost for {plots.counted(recipe.patience or 0, 'epoch')}"
        best = history.final_validation_cost
        if best in history.validation_costs:  # as NaN is not
            epoch = history.epochs[history.validation_costs.index(best)]
            line += f"; the weights of epoch {epoch:,} are scored and saved"
        yield line


def _as_dict(result: Result, data: Dataset) -> dict[str, Any]:
    return {
        "label": result.label,
        "net": asdict(result.recipe.net),
        "method": result.recipe.method,
        "learning_rate": None if result.recipe.method else result.recipe.learning_rate,
        "decay": result.recipe.decay,
        "seed": result.recipe.seed,
        ("test_accuracy" if data.classes else "test_r2"): result.test_score(data),
        **result.history.to_dict(),
    }


def _hidden(result: Result) -> str:
    sizes = result.recipe.net.layers[1:-1]
    if len(sizes) == 1:
        return plots.counted(sizes[0], "hidden unit")
    return f"{', '.join(map(str, sizes))} hidden units" if sizes else "no hidden layer"


def check_outputs(options: argparse.Namespace, labels: Sequence[str], data: Dataset) -> None:
    """Raise OSError or ValueError if a file named after a training or a picture cannot be written,
    or would overwrite the data."""
    no_pictures = data.preprocessing.image_shape is None
    parts = () if no_pictures else ("misclassified", "examples", "hidden", "picture-0")
    inputs = [Path(file) for name in OWN if (file := getattr(options, name))]
    for file, names in ((options.save, labels), (options.plot, parts)):
        for path in (_path(file, name) for name in names if file):
            check_writable(path)
            if any(overlap(path, given) for given in inputs):
                raise ValueError(f"{path} would overwrite the data: name another file")


def _path(file: str, name: str) -> Path:
    """`file` with a name added before its suffix: cats-misclassified.png beside cats.png."""
    path, encoding = Path(file), sys.getfilesystemencoding()
    known = name.encode(encoding, "ignore").decode(encoding)  # a C locale has no λ
    words = "-".join(re.findall(r"[\w.]+", known))
    return path.with_name(f"{path.stem}-{words}{path.suffix}") if words else path
