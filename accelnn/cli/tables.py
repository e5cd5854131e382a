"""Tables in `accelnn train` and `accelnn predict`: what is decided, cross-validation, the report of
a regression, saved models, and predictions as CSV."""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from accelnn import backend, tables
from accelnn.backend import Array
from accelnn.cli.console import as_json, printable, show_warning
from accelnn.cli.results import Files, Report, Result, empty_table
from accelnn.datasets import Dataset
from accelnn.files import write_whole
from accelnn.recipes import Recipe
from accelnn.solvers.threads import cores

# The scores of cross-validation by task: functions of scikit-learn's metrics, with their options
SCORES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "classification": {
        "accuracy": ("accuracy_score", {}),
        "F1, macro average": ("f1_score", {"average": "macro", "zero_division": 0}),
    },
    "regression": {
        "R²": ("r2_score", {}),
        "mean absolute error": ("mean_absolute_error", {}),
        "root mean squared error": ("root_mean_squared_error", {}),
    },
}


class OwnTable:
    """The table that the options name, examined and split; what was decided is printed."""

    def __init__(
        self, options: argparse.Namespace, shares: Mapping[str, Any], out: Console
    ) -> None:
        file = options.csv or options.parquet
        self.shares = {**shares, "test": 0} if options.folds else shares
        try:
            self.table = tables.examine(tables.read(file), options.target, options.task)
            for line in (self.table, *self.table.notes):
                out.print(printable(line), soft_wrap=True)
            self.prepare = tables.preparation(self.table, file)
            split = tables.dataset(self.table, self.prepare, dtype=options.dtype, **self.shares)
            self.data, self.estimator = split
        except ValueError as error:
            named = str(error).startswith(f"{Path(file)}: ")
            raise error if named else ValueError(f"{file}: {error}") from None

    def model(self, result: Result) -> Any:
        """The pipeline of a training."""
        from sklearn.pipeline import Pipeline

        net = copy.copy(self.estimator).keep(result.recipe.net, result.params)
        return Pipeline([*self.prepare.steps, ("net", net)])


@dataclass(frozen=True)
class TableReport(Report):
    """The report of trainings on a table."""

    own: OwnTable | None = None

    def _save_model(self, result: Result, path: Path) -> None:
        assert self.own
        tables.save(self.own.model(result), path)

    def _scores(self, result: Result, to: Console) -> Table:
        if self.data.classes:
            return super()._scores(result, to)
        assert self.own
        part, X, Y = self.scored
        scale = self.own.estimator.target_scale_
        predicted, true = (backend.to_host(A)[0] * scale for A in (result.predict(X), Y))
        errors = predicted - true
        table = empty_table(("score", ""), to, f"{result.label} on the {part} set".strip())
        table.add_row("mean absolute error", f"{abs(errors).mean():.4g}")
        table.add_row("root mean squared error", f"{np.sqrt((errors**2).mean()):.4g}")
        table.add_row("standard deviation of the target", f"{true.std():.4g}")
        return table


# --------------------------------------------------------------------------------------------
# cross-validation

MakeRecipe = Callable[[Dataset], Recipe]


def cross_validate(
    own: OwnTable, make_recipe: MakeRecipe, options: argparse.Namespace, out: Console
) -> int:
    """Train and score on folds of the table, and print the scores; returns the exit status."""
    recipes = dict(make_recipe(own.data).trainings())
    start, found = time.perf_counter(), {}
    for label in recipes:
        found[label] = _scores_of_folds(own, partial(_training, make_recipe, label), options)
    seconds, files = time.perf_counter() - start, Files()
    if options.json:
        text = as_json(_as_dict(own, found, options, seconds))
        if options.json == "-":
            sys.stdout.write(text)
        else:
            files.write("results", Path(options.json), partial(write_whole, text))
    out.print(_folds_table(found, own.table.task, out))
    for label, recipe in recipes.items():
        steps = recipe.method or f"{recipe.optimizer} at {recipe.learning_rate:g}"
        out.print(f"{label}: " * bool(label) + f"{steps}, net {list(recipe.net.layers)}")
    place = backend.current()
    ran = f"backend {place.name} on {place.device_name()}"
    out.print(f"{ran}, {options.folds} folds, {seconds:.2f} s")
    files.show(out)
    return int(bool(files.errors))


def _training(make_recipe: MakeRecipe, label: str, data: Dataset) -> Recipe:
    """One of the trainings that a recipe compares, on one thread."""
    return dict(make_recipe(data).trainings())[label].changed(threads=1)


def _scores_of_folds(
    own: OwnTable, recipe: MakeRecipe, options: argparse.Namespace
) -> dict[str, Array]:
    """The scores (folds,) by name."""
    from joblib import parallel_config
    from sklearn import metrics, model_selection

    table, seed = own.table, options.seed or 0
    settings = {"seed": seed, "dtype": options.dtype, "recipe": recipe}
    settings["validation"] = own.shares.get("validation", 0.15)
    kind = tables.NetClassifier if table.classes else tables.NetRegressor
    splits = model_selection.StratifiedKFold if table.classes else model_selection.KFold
    scores = {
        name: metrics.make_scorer(getattr(metrics, function), **how)
        for name, (function, how) in SCORES[table.task].items()
    }
    with parallel_config("threading", n_jobs=cores() if backend.current().name == "numpy" else 1):
        found = model_selection.cross_validate(
            tables.pipeline(table, kind(**settings)),
            table.X,
            table.y,
            cv=splits(options.folds, shuffle=True, random_state=seed),
            scoring=scores,
            error_score="raise",
        )
    return {name: found[f"test_{name}"] for name in scores}


def _folds_table(found: Mapping[str, Mapping[str, Array]], task: str, to: Console) -> Table:
    """A row for each score; of trainings that are compared, the first score alone."""
    first = next(iter(SCORES[task]))
    rows, heading, title = found.get(""), "score", None
    if rows is None:
        rows = {label: scores[first] for label, scores in found.items()}
        heading, title = "training", first
    table = empty_table((heading, "mean", "±", "folds"), to, title)
    for name, values in rows.items():
        numbers = [values.mean(), values.std(), *values]
        shown = (f"{n:.1%}" if task == "classification" else f"{n:.4g}" for n in numbers)
        mean, deviation, *each = shown
        table.add_row(name, mean, deviation, "  ".join(each))
    return table


def _as_dict(
    own: OwnTable, found: Mapping[str, Any], options: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    trainings = [
        {
            "label": label,
            "scores": {
                name: {"mean": v.mean(), "deviation": v.std(), "folds": v.tolist()}
                for name, v in scores.items()
            },
        }
        for label, scores in found.items()
    ]
    about = {"data": own.data.source, "task": own.table.task, "folds": options.folds}
    return about | {"seconds": seconds, "trainings": trainings}


# --------------------------------------------------------------------------------------------
# `accelnn predict MODEL TABLE`


def predict(model_file: str, table_file: str, output: str | None) -> None:
    """Write a table with the model's predictions appended, to `output` or standard output.

    Raises OSError, or ValueError if the model or the table cannot be read or do not fit.
    """
    model, path = tables.load(model_file), Path(table_file)
    columns = model[0]
    texts = [name for name, kind in columns.kinds.items() if kind == "text"]
    frame = tables.read(path, texts)
    try:
        found = tables.append(model, frame)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if extra := [repr(n) for n in frame if n not in (*columns.kinds, *columns.ignored)]:
        show_warning(f"{path}: columns that the model does not know: {', '.join(extra)[:300]}")
    form = tables.Form()
    if not tables.is_parquet(path):
        form = tables.csv_form(path)
        frame = tables.read_csv(path, form, dtype=str, keep_default_na=False)  # as it is written
    if "label" in found:
        found = found.astype({name: "float32" for name in found if name != "label"})  # short
    whole = frame.join(found)
    text = whole.to_csv(index=False, sep=form.separator, decimal=form.decimal)
    if output:
        write_whole(text, Path(output))
        print(f"{len(whole):,} rows with predictions: {output}")
    elif sys.stdout.isatty():
        print("\n".join(map(printable, text.splitlines())))
    else:
        sys.stdout.write(text)
