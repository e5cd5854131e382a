"""`accelnn train RECIPE`: an experiment of the notes, or your own data, trained, scored, drawn and
saved. `--list` names the recipes."""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from accelnn import backend, datasets, plots
from accelnn.backend import BackendError
from accelnn.cli.console import console, names_and_texts, show_warning
from accelnn.cli.results import Result, Written, describe_picture, draw, save, show
from accelnn.cli.train_options import DESCENT, OF_DESCENT, parse
from accelnn.datasets import Dataset
from accelnn.optimizers import OPTIMIZERS
from accelnn.recipes import RECIPES, Recipe, own_recipe
from accelnn.tours import FIGURES, TOURS
from accelnn.training import Interrupted
from accelnn.training.minimize import METHODS
from accelnn.training.progress import following

# Default learning rate of SGD and momentum if the recipe's own is Adam's
RATE = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    options = parse(arguments)
    out = console(sys.stderr if options.json == "-" else sys.stdout)
    try:
        chosen = backend.use(options.backend) if options.backend else nullcontext()
        with chosen, warnings.catch_warnings():
            warnings.showwarning = show_warning
            return _run(options, out)
    except (OSError, ValueError, BackendError, MemoryError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, out: Console) -> int:
    if options.list:
        _list(out)
        return 0
    if options.plot:
        plots.checked_path(options.plot)
    if options.recipe in TOURS:
        return _tour(options, out)
    backend.current()  # here, so that the warning of a fallback comes first
    data, recipe = _data_and_recipe(options)
    if options.show is not None:
        _check_picture(data, options.show)
    _check_trainings(recipe, data, options)
    results, interrupted = train(recipe, data, options.dtype, options.recipe or recipe.title)
    complete = not results or _report(results, data, options, out)
    if interrupted:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0 if complete else 1


def _report(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace, out: Console
) -> bool:
    """Save, show and draw the results; returns whether every file could be written."""
    written = save(results, data, options)  # first, so that nothing later can lose them
    show(results, data, out, options.verbose)
    if options.show is not None:
        for result in filter(lambda result: result.usable, results):
            picture = f"{result.label} picture {options.show}".strip()
            out.print(f"{picture}: {describe_picture(result, data, options.show)}")
    if options.plot:
        written += draw(results, data, options)
    for file in written:
        _tell(file, out)
    return all(file.error is None for file in written)


def _tell(file: Written, out: Console) -> None:
    if file.error is None:
        out.print(f"{file.what}: {file.path}")
    else:
        print(f"error: {file.what} {file.path}: {file.error}", file=sys.stderr)


def train(recipe: Recipe, data: Dataset, dtype: str | None, name: str) -> tuple[list[Result], bool]:
    """Train all that the recipe compares, with a progress bar for each if standard error is a
    terminal; `name` labels that of a single training.

    Returns the results, and whether Ctrl-C came: then the last one is of a training cut short.
    """
    results: list[Result] = []
    for label, one in recipe.trainings():
        shown: Any = nullcontext()
        if sys.stderr.isatty():
            shown = following(True, one.epochs, label or name, one.unit)
        start = time.perf_counter()
        interrupted = False
        try:
            with shown as callback:
                trained, history = one.train(data, dtype, [callback] if callback else [])
        except Interrupted as stopped:
            trained, history, interrupted = stopped.params, stopped.history, True
        except KeyboardInterrupt:
            return results, True
        results.append(Result(label, one, trained, history, time.perf_counter() - start))
        if interrupted:
            return results, True
    return results, False


# --------------------------------------------------------------------------------------------
# the data and the recipe


def _data_and_recipe(options: argparse.Namespace) -> tuple[Dataset, Recipe]:
    """The data and the recipe that the options name, with the fields that they change."""
    if options.recipe:
        recipe = RECIPES[options.recipe]
        folder = {"folder": options.data} if options.data else {}
        data = recipe.data(dtype=options.dtype, **folder)
        recipe = recipe.changed(layers=(data.X_train.shape[0], *recipe.net.layers[1:]))
        if options.hidden:
            recipe = _sized(recipe, options.hidden, "--hidden")
    else:
        data = _own_data(options)
        recipe = own_recipe(data, options.hidden)
        file = options.images or options.hdf5 or options.csv
        recipe = recipe.changed(title=Path(file).resolve().name)
    fields = ("epochs", "seed", "solver", "precision", "optimizer", "batch_size", "decay")
    changes: dict[str, Any] = {
        name: value
        for name in (*fields, "patience")
        if (value := getattr(options, name)) is not None
    }
    if options.recipe and options.validation:
        changes["validation"] = options.validation
    if options.method:
        changes["method"] = None if options.method == DESCENT else options.method
    elif any(getattr(options, name) for name in OF_DESCENT):
        changes["method"] = None
    optimizer, rates = options.optimizer or recipe.optimizer, options.learning_rate or []
    if rates:
        changes["learning_rate"] = rates[0]
    elif (optimizer == "adam") != (recipe.optimizer == "adam"):
        changes["learning_rate"] = OPTIMIZERS[optimizer]().default_rate or RATE
    if len(rates) > 1:
        changes["compare"] = {f"learning rate {rate:g}": {"learning_rate": rate} for rate in rates}
    recipe = recipe.changed(**changes)
    if options.compare_hidden:
        recipe = _comparing_hidden(recipe, options.compare_hidden)
    return data, recipe


def _sized(recipe: Recipe, sizes: Sequence[int], option: str) -> Recipe:
    try:
        return recipe.with_hidden(sizes)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _comparing_hidden(recipe: Recipe, sizes: Sequence[int]) -> Recipe:
    """The recipe with one hidden layer, compared for these sizes."""
    single = _sized(replace(recipe, compare={}), sizes[:1], "--compare-hidden")
    first, _, last = single.net.layers
    return single.changed(
        compare={
            f"{n} hidden unit{'s' if n > 1 else ''}": {"layers": (first, n, last)} for n in sizes
        }
    )


def _own_data(options: argparse.Namespace) -> Dataset:
    shares: dict[str, Any] = {
        name: value
        for name in ("validation", "test", "seed")
        if (value := getattr(options, name)) is not None
    }
    if options.method in METHODS:
        shares["validation"] = 0  # which SciPy's methods cannot watch
    if options.images:
        return datasets.load_images(options.images, dtype=options.dtype, **shares)
    if options.hdf5:
        return datasets.load_hdf5(options.hdf5, dtype=options.dtype, **shares)
    return datasets.load_csv(options.csv, options.target, dtype=options.dtype, **shares)


# --------------------------------------------------------------------------------------------
# what is refused before anything is trained


def _check_trainings(recipe: Recipe, data: Dataset, options: argparse.Namespace) -> None:
    """Raise ValueError if a training would fail, so that none fails after others have run."""
    trainings = list(recipe.trainings())
    if data.too_large and any(one.method or one.batch_size is None for _, one in trainings):
        smaller = ", or --dtype float32" if data.X_train.dtype == np.float64 else ""
        raise ValueError(f"{data.too_large}: stream it in mini-batches, --batch-size N{smaller}")
    asked = [name for name in OF_DESCENT if getattr(options, name)]
    if recipe.method is not None and asked:
        option = "--" + asked[0].replace("_", "-")
        raise ValueError(f"{option} is for gradient descent, not for --method {recipe.method}")
    if len(trainings) < 2:
        return  # `fit` refuses it before it trains
    for label, one in trainings:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                replace(one, epochs=0).train(data, options.dtype)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None


def _check_picture(data: Dataset, index: int) -> None:
    m = data.X_train.shape[1]
    if data.preprocessing.image_shape is None:
        raise ValueError("--show needs pictures, and this data has none")
    if not 0 <= index < m:
        raise ValueError(f"--show {index}: expected a training picture in 0..{m - 1}")


# --------------------------------------------------------------------------------------------
# the list, and tours


def _list(to: Console) -> None:
    table = names_and_texts()
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.title)
    table.add_section()
    for name, tour in TOURS.items():
        table.add_row(name, (tour.__doc__ or "").strip().splitlines()[0].rstrip("."))
    to.print(table)


def _tour(options: argparse.Namespace, out: Console) -> int:
    folder = {"folder": options.data} if options.data else {}
    found = TOURS[options.recipe](out.print, **folder)
    if not options.plot:
        return 0
    figure = FIGURES[options.recipe](found)
    picture = Written.by(partial(plots.save, figure), "picture", Path(options.plot))
    _tell(picture, out)
    return int(picture.error is not None)
