"""`accelnn train RECIPE`: train, score, draw and save a recipe or a net for your own data."""

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from accelnn import backend, datasets, plots
from accelnn.backend import BackendError
from accelnn.cli.console import console, names_and_texts, printable, show_error, show_warning
from accelnn.cli.results import Files, Report, Result, check_outputs
from accelnn.cli.train_options import OF_DESCENT, OWN, parse
from accelnn.datasets import Dataset
from accelnn.distributed import Processes, launched, once
from accelnn.optimizers import OPTIMIZERS
from accelnn.recipes import RECIPES, Recipe, own_recipe, train_together
from accelnn.tours import FIGURES, TOURS
from accelnn.training import Interrupted, TrainingsFailed, TrainingsInterrupted
from accelnn.training.minimize import METHODS
from accelnn.training.progress import following


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 after an error, 130 after Ctrl-C, 143 after
    SIGTERM. Started by mpiexec, it runs on all processes, and prints and writes once."""
    with once():
        try:
            processes = launched()
        except (ModuleNotFoundError, RuntimeError) as error:
            show_error(error)
            return 1
        if processes is None:
            return _main(parse(arguments), None)
        options = _parsed(processes, arguments)
        from threadpoolctl import threadpool_limits

        with processes.failing(), threadpool_limits(processes.cores, user_api="blas"):
            return _main(options, processes)


def _parsed(processes: Processes, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, as process 1 finds them; ends all programs if they are wrong."""
    found: Any = None
    try:
        found = parse(arguments) if processes.rank == 0 else None
    except SystemExit as end:
        found = end.code
    found = processes.first(found)
    if not isinstance(found, argparse.Namespace):
        raise SystemExit(found)
    found.backend = processes.backend(found.backend or os.environ.get("ACCELNN_BACKEND", "numpy"))
    return found


def _main(options: argparse.Namespace, processes: Processes | None) -> int:
    out = console(sys.stderr if options.json == "-" else sys.stdout)
    logging.getLogger("matplotlib").setLevel("ERROR")  # it warns about a read-only home
    try:
        chosen = backend.use(options.backend) if options.backend else nullcontext()
        with chosen, warnings.catch_warnings():
            warnings.showwarning = show_warning
            return _run(options, out, processes)
    except (OSError, ValueError, BackendError, MemoryError, ModuleNotFoundError) as error:
        show_error(error)
        return 1


def _run(options: argparse.Namespace, out: Console, processes: Processes | None) -> int:
    if options.list:
        _list(out)
        return 0
    with nullcontext() if processes is None else processes.together():
        if options.plot:
            plots.checked_path(options.plot)
        if processes is not None and (options.recipe in TOURS or options.folds):
            name = options.recipe if options.recipe in TOURS else "--folds"
            raise ValueError(f"{name} runs on one process: start it without mpiexec")
        if options.recipe in TOURS:
            return _tour(options, out)
        backend.current()  # here, so that the warning of a fallback comes first
        new_report: Callable[..., Report] = Report
        if options.csv or options.parquet:
            from accelnn.cli import tables  # with pandas and scikit-learn, which take a second

            own = tables.OwnTable(options, _shares(options), out)
            if options.folds:
                return tables.cross_validate(own, partial(_recipe, options), options, out)
            data, new_report = own.data, partial(tables.TableReport, own=own)
        else:
            data = _data(options)
        recipe = _recipe(options, data)
        methods = {one.method for _, one in recipe.trainings()} - {None}
        if processes is not None and methods:
            hint = "start it without mpiexec, or with --method descent"
            raise ValueError(f"{', '.join(map(str, methods))} runs on one process: {hint}")
        _check(recipe, data, options)
    given = _given(options, "checkpoint", "checkpoint_every") | {"resume": options.resume}
    name, given = options.recipe or recipe.title, given if options.checkpoint else {}
    results, ended = train(recipe, data, options.dtype, name, processes, **given)
    if processes is not None and processes.rank > 0:
        return 130 if isinstance(ended, KeyboardInterrupt) else int(ended is not None)
    report = new_report(results, data, options)
    if results:
        report.save()  # first, so that nothing later can lose them
        report.show(out)
    if isinstance(ended, KeyboardInterrupt):
        saved = isinstance(ended, Interrupted) and ended.checkpoint
        kept = f": saved in {saved}; the same command with --resume goes on" if saved else "."
        print(f"Interrupted{printable(kept)}", file=sys.stderr)
        return 143 if getattr(ended, "signal", 0) == signal.SIGTERM else 130
    if ended is not None:
        show_error(ended)
        return 1
    return int(bool(report.files.errors))


def train(
    recipe: Recipe,
    data: Dataset,
    dtype: str | None,
    name: str,
    processes: Processes | None = None,
    **checkpoints: Any,
) -> tuple[list[Result], BaseException | None]:
    """Train all that the recipe compares, at once if they all are gradient descent; the progress
    bar of a single training is labelled `name`, and `checkpoints` are its options of `fit`.

    Returns the results, and what ended the trainings early: Ctrl-C, after which results may be of
    unfinished trainings, errors in some of several, or None.
    """
    trainings = list(recipe.trainings())
    if len(trainings) > 1 and all(one.method is None for _, one in trainings):
        comm = None if processes is None else processes.comm
        return _train_together(trainings, data, dtype, comm)
    results: list[Result] = []
    for label, one in trainings:
        bar = following(sys.stderr.isatty(), one.epochs, printable(label or name), one.unit)
        try:
            with bar as shown:
                given: dict[str, Any] = {"callbacks": [shown] if shown else []}
                given["processes"] = processes
                trained, history = one.train(data, dtype, **given, **checkpoints)
            results.append(Result(label, one, trained, history))
        except Interrupted as stopped:
            return [*results, Result(label, one, stopped.params, stopped.history)], stopped
        except KeyboardInterrupt as stopped:
            return results, stopped
    return results, None


def _train_together(
    trainings: Sequence[tuple[str, Recipe]], data: Dataset, dtype: str | None, comm: Any
) -> tuple[list[Result], BaseException | None]:
    ended: BaseException | None = None
    recipes, shown = [one for _, one in trainings], sys.stderr.isatty()
    try:
        found: Sequence[Any] = train_together(recipes, data, dtype, verbose=shown, comm=comm)
    except (TrainingsInterrupted, TrainingsFailed) as error:
        found, ended = error.results, error
    except KeyboardInterrupt as stopped:
        return [], stopped
    pairs = zip(trainings, found, strict=True)
    return [Result(*training, *result) for training, result in pairs if result], ended


def _data(options: argparse.Namespace) -> Dataset:
    if options.recipe:
        folder = {"folder": options.data} if options.data else {}
        return RECIPES[options.recipe].data(dtype=options.dtype, **folder)
    shares = {"dtype": options.dtype, **_shares(options)}
    if options.images:
        return datasets.load_images(options.images, **shares)
    return datasets.load_hdf5(options.hdf5, stream=options.batch_size is not None, **shares)


def _shares(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the split of your own data that were given."""
    given = _given(options, "validation", "test", "seed")
    if options.method in METHODS:
        given["validation"] = 0  # SciPy's methods cannot watch one
    return given


def _recipe(options: argparse.Namespace, data: Dataset) -> Recipe:
    """The recipe that the options name, with the fields that they change."""
    if options.recipe:
        recipe = RECIPES[options.recipe]
        recipe = recipe.changed(layers=(data.X_train.shape[0], *recipe.net.layers[1:]))
        if options.hidden:
            recipe = recipe.with_hidden(options.hidden)
    else:
        file = next(filter(None, (getattr(options, name) for name in OWN)))
        recipe = replace(own_recipe(data, options.hidden), title=Path(file).resolve().name)
    names = "epochs", "seed", "solver", "precision", "optimizer", "batch_size", "decay", "patience"
    changes = _given(options, *names, "class_weight")
    recipe = recipe.changed(**_given(options, "l2", "keep_prob"))
    if options.recipe and options.validation:
        changes["validation"] = options.validation
    of_descent = [name for name in OF_DESCENT if getattr(options, name)]
    if options.method in METHODS:
        for name in of_descent:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} is for gradient descent, not for --method {options.method}")
        changes["method"] = options.method
    elif options.method == "descent" or of_descent:
        changes["method"] = None
    rates, optimizer = options.learning_rate or [], options.optimizer or recipe.optimizer
    if rates:
        changes["learning_rate"] = rates[0]
    elif (optimizer == "adam") != (recipe.optimizer == "adam"):
        changes["learning_rate"] = OPTIMIZERS[optimizer]().default_rate or 0.1  # sgd, momentum
    if len(rates) > 1:
        changes["compare"] = {f"learning rate {rate:g}": {"learning_rate": rate} for rate in rates}
    recipe = replace(recipe, **changes)
    if sizes := options.compare_hidden:
        recipe = replace(recipe, compare={}).with_hidden(sizes[:1])
        first, _, last = recipe.net.layers
        nets = {plots.counted(n, "hidden unit"): {"layers": (first, n, last)} for n in sizes}
        recipe = replace(recipe, compare=nets)
    return recipe


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options of these names that were given."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _check(recipe: Recipe, data: Dataset, options: argparse.Namespace) -> None:
    """Raise ValueError if a training would fail, so that none fails after others have run."""
    m = data.X_train.shape[1]
    if options.show is not None and data.preprocessing.image_shape is None:
        raise ValueError("--show needs pictures, and this data has none")
    if options.show is not None and not 0 <= options.show < m:
        raise ValueError(f"--show {options.show}: expected a training picture in 0..{m - 1}")
    trainings = list(recipe.trainings())
    check_outputs(options, [label for label, _ in trainings], data)
    if options.checkpoint and (len(trainings) > 1 or recipe.method):
        found = f"--method {recipe.method}" if recipe.method else f"{len(trainings)} trainings"
        raise ValueError(f"--checkpoint is for one training by gradient descent, not for {found}")
    if data.too_large and any(one.method or one.batch_size is None for _, one in trainings):
        smaller = ", or --dtype float32" if data.X_train.dtype == np.float64 else ""
        raise ValueError(f"{data.too_large}: stream it in mini-batches, --batch-size N{smaller}")
    if len(trainings) < 2:
        return  # `fit` refuses it before it trains
    for label, one in trainings:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                replace(one, epochs=0).train(data, options.dtype)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None


def _list(to: Console) -> None:
    table = names_and_texts()
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.title)
    table.add_section()
    for name, tour in TOURS.items():
        table.add_row(name, (tour.__doc__ or "").splitlines()[0].rstrip("."))
    to.print(table)


def _tour(options: argparse.Namespace, out: Console) -> int:
    folder = {"folder": options.data} if options.data else {}
    found, files = TOURS[options.recipe](out.print, **folder), Files()
    if options.plot:
        figure = FIGURES[options.recipe](found)
        files.write("picture", Path(options.plot), partial(plots.save, figure))
    files.show(out)
    return int(bool(files.errors))
