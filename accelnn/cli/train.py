"""`python -m accelnn.train RECIPE`: an experiment of the notes, or your own data, trained, scored,
drawn and saved. `--list` names the recipes."""

import argparse
import inspect
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import accelnn
from accelnn import backend, batches, datasets, models, streaming
from accelnn.backend import Array, BackendError, array_module
from accelnn.bench.records import finite, write_whole
from accelnn.bench.report import console
from accelnn.datasets import Dataset
from accelnn.files import check_writable
from accelnn.network import Network, Parameters
from accelnn.optimizers import OPTIMIZERS, Schedule, inverse_decay
from accelnn.recipes import RECIPES, Recipe
from accelnn.scores import accuracy, report
from accelnn.solvers import SOLVERS
from accelnn.training.history import Callback, History
from accelnn.training.minimize import METHODS
from accelnn.solvers.precisions import PRECISIONS, ROUNDED
from accelnn.tours import TOURS

# Epochs between recorded costs, as the notes print them; on mini-batches every epoch is recorded.
RECORD_EVERY = 100

# What only gradient descent has: to name one of these is to ask for it.
OF_DESCENT = ("learning_rate", "decay", "optimizer", "batch_size", "patience")

# A step of Adam is about as long as its learning rate, whatever the gradient, so a recipe's rate
# does not suit both it and the others: Kingma and Ba's, and one that many nets can bear.
RATE_OF_ADAM, RATE_OF_OTHERS = 1e-3, 0.1


@dataclass(frozen=True)
class Result:
    """One training that has ended. `label` is empty where there is only one.

    train_accuracy : of the examples it learned from
    """

    label: str
    recipe: Recipe
    params: Parameters
    history: History
    train_accuracy: float
    test_accuracy: float | None
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    out = console(sys.stderr if options.json == "-" else sys.stdout)
    chosen: AbstractContextManager[Any] = nullcontext()
    try:
        if options.backend:
            chosen = backend.use(options.backend)
        with chosen, warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(options, out)
    except (OSError, ValueError, BackendError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, out: Console) -> int:
    if options.list:
        _list(out)
        return 0
    if options.recipe in TOURS:
        TOURS[options.recipe](out.print)
        return 0
    if options.plot:
        from accelnn import plots

        plots.checked_path(options.plot)
    backend.current()  # here, so that a fallback is told before anything else
    data, recipe = _data_and_recipe(options)
    if options.show is not None:
        _check_picture(data, options.show)
    _check_trainings(recipe, data, options)
    results, interrupted = train(recipe, data, options.dtype)
    written = True
    if results:
        show(results, data, out)
        written = _write(results, data, options, out)
    if interrupted:
        ended = f"{len(results)} training{'' if len(results) == 1 else 's'}"
        print(f"Interrupted: {ended} had ended.", file=sys.stderr)
        return 130
    return 0 if written else 1


def train(recipe: Recipe, data: Dataset, dtype: str | None) -> tuple[list[Result], bool]:
    """Train all that the recipe compares, with a progress bar on standard error.

    Returns the trainings that ended, and whether Ctrl-C ended the others.
    """
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[cost]}"))
    to = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=to, transient=True, disable=not to.is_terminal
    ) as bar:
        try:
            for label, one in recipe.trainings():
                task = bar.add_task(label or _how(one), total=one.epochs, cost="")

                def follow(now: accelnn.Checkpoint, task: Any = task) -> None:
                    cost = f"cost {now.cost:.4f}"
                    if now.validation_cost is not None:
                        cost += f", validation {now.validation_cost:.4f}"
                    bar.update(task, completed=now.epoch, cost=cost)

                result = _train_one(label, one, data, dtype, [follow])
                results.append(result)
                cost = f"cost {result.history.final_cost:.4f}, {result.history.solver}"
                bar.update(task, completed=one.epochs, cost=cost)
        except KeyboardInterrupt:
            return results, True
    return results, False


def _train_one(
    label: str,
    recipe: Recipe,
    data: Dataset,
    dtype: str | None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    start = time.perf_counter()
    X, Y, validation = _learned_and_watched(recipe, data)
    rate: float | Schedule | None = recipe.learning_rate
    if recipe.solver == "minimize":
        rate = None
    elif recipe.decay:
        rate = inverse_decay(recipe.learning_rate, recipe.decay)
    params, history = accelnn.fit(
        recipe.net,
        recipe.first_weights(dtype),
        X,
        Y,
        epochs=recipe.epochs,
        learning_rate=rate,
        optimizer=recipe.optimizer,
        batch_size=recipe.batch_size,
        solver=recipe.solver,
        method=recipe.method,
        precision=recipe.precision,
        record_every=_record_every(recipe),
        seed=recipe.seed,
        validation=validation,
        patience=recipe.patience,
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - start

    def score(X: Any, Y: Any) -> float:
        return accuracy(streaming.predict(recipe.net, params, X), Y)

    return Result(
        label,
        recipe,
        params,
        history,
        score(X, Y),
        score(data.X_test, data.Y_test) if data.X_test.shape[1] else None,
        seconds,
    )


def _record_every(recipe: Recipe) -> int:
    return RECORD_EVERY if recipe.batch_size is None else 1


def _learned_and_watched(
    recipe: Recipe, data: Dataset
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """X and Y to learn from, and those to watch: a share is drawn here as `fit` would draw it,
    so that the training accuracy is of what was learned from."""
    X, Y = data.X_train, data.Y_train
    if not isinstance(recipe.validation, float):
        return X, Y, recipe.validation
    X, Y, X_watched, Y_watched = batches.split(X, Y, recipe.validation, recipe.seed)
    return X, Y, (X_watched, Y_watched)


# --------------------------------------------------------------------------------------------
# what to train, on what


def _data_and_recipe(options: argparse.Namespace) -> tuple[Dataset, Recipe]:
    """The data and the recipe that the options name, with the recipe's fields they change."""
    if options.recipe:
        recipe = RECIPES[options.recipe]
        where = {"folder": options.data} if options.data else {}
        data = recipe.data(dtype=options.dtype, **where)
        recipe = recipe.changed(layers=(data.X_train.shape[0], *recipe.net.layers[1:]))
    else:
        data, recipe = _own(options)
    changes = {
        name: value
        for name in ("epochs", "seed", "solver", "method", "precision", *OF_DESCENT[1:])
        if (value := getattr(options, name)) is not None
    }
    if options.hidden:
        first, *between, last = recipe.net.layers
        if len(between) != 1:
            raise ValueError(
                f"--hidden compares sizes of one hidden layer, and the net is {recipe.net.layers}"
            )
        changes["compare"] = {
            f"{n} hidden unit{'s' if n > 1 else ''}": {"layers": (first, n, last)}
            for n in options.hidden
        }
    rates = options.learning_rate or []
    if len(rates) == 1:
        changes["learning_rate"] = rates[0]
    elif rates:
        changes["compare"] = {f"learning rate {rate}": {"learning_rate": rate} for rate in rates}
    elif (changes.get("optimizer", recipe.optimizer) == "adam") != (recipe.optimizer == "adam"):
        changes["learning_rate"] = (
            RATE_OF_ADAM if changes["optimizer"] == "adam" else RATE_OF_OTHERS
        )
    if options.recipe and options.validation:
        changes["validation"] = options.validation
    if "solver" not in changes and (rates or changes.keys() & {*OF_DESCENT, "validation"}):
        changes["solver"] = "auto"
    return data, recipe.changed(**changes)


def _own(options: argparse.Namespace) -> tuple[Dataset, Recipe]:
    """The user's data, and a net for it: hidden layers as asked, an output for its classes."""
    validation = 0.2 if options.validation is None else options.validation
    split = {"validation": validation, "seed": options.seed or 0, "dtype": options.dtype}
    if options.images:
        data = datasets.load_images(options.images, **split)
    elif options.hdf5:
        data = datasets.load_hdf5(options.hdf5, **split)
    else:
        data = datasets.load_csv(options.csv, options.target, **split)
    watched = data.X_test.shape[1] and options.solver != "minimize"
    two = len(data.classes) == 2
    net = Network(
        [data.X_train.shape[0], *(options.layers or ()), 1 if two else len(data.classes)],
        output="sigmoid" if two else "softmax",
    )
    return data, Recipe(
        title="your own data",
        data=lambda **_: data,
        net=net,
        init="he",
        epochs=1000,
        learning_rate=0.1 if options.csv else 0.0075,
        validation=(data.X_test, data.Y_test) if watched else None,
    )


# --------------------------------------------------------------------------------------------
# what came of it


def show(results: Sequence[Result], data: Dataset, to: Console) -> None:
    """Print a table of the trainings, the classes where there are many, and where it ran."""
    table = Table(box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2)
    if results[0].label:
        table.add_column("training")
    watched = any(result.history.final_validation_cost is not None for result in results)
    headings = ["epochs", "first cost", "final cost", "train", "test", "time"]
    if watched:  # in two lines, so that all goes into 80 columns
        headings[1:3] = ["first\ncost", "final\ncost", "validation\ncost"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        costs = result.history.costs
        table.add_row(
            *([result.label] if result.label else []),
            f"{_epochs(result):,}",
            _cost(costs[0]) if costs else "",
            _cost(result.history.final_cost),
            *([_cost(result.history.final_validation_cost)] if watched else []),
            f"{result.train_accuracy:.2%}",
            "" if result.test_accuracy is None else f"{result.test_accuracy:.2%}",
            f"{result.seconds:.2f} s",
        )
    to.print(table)
    if len(data.classes) > 2:
        for result in results:
            _show_classes(result, data, to)
    _show_how(results, to)
    to.print(f"data: {data.source}")


def _show_how(results: Sequence[Result], to: Console) -> None:
    """Print what ran and why it stopped, once for all trainings of which it is the same."""
    history = results[0].history
    own = history.precision == history.dtype
    products = "" if own else f", products in {history.precision}"
    to.print(f"backend {history.backend} on {history.device}, {history.dtype}{products}")
    labels_of: dict[str, list[str]] = {}
    for result in results:
        for line in _ran(result):
            labels_of.setdefault(line, []).append(result.label)
    for line, labels in labels_of.items():
        to.print(line if len(labels) == len(results) else f"{'; '.join(labels)}: {line}")


def _ran(result: Result) -> Iterator[str]:
    history = result.history
    solver = f"solver {history.solver} ({history.reason})"
    if history.optimizer is None:
        yield solver
        return
    yield f"{solver}; {_how(result.recipe)}"
    if history.compile_seconds >= 1:
        yield f"{history.compile_seconds:.1f} s of the time went into compiling, this once"
    if history.stopped:
        yield f"stopped after {_epochs(result):,} epochs ({history.stopped})"


def _how(recipe: Recipe) -> str:
    """The way of training that the recipe asks for, in few words."""
    if recipe.solver == "minimize":
        return f"minimize, {recipe.method}"
    how = f"{recipe.optimizer} at {recipe.learning_rate:g}"
    if recipe.batch_size is not None:
        how += f" on batches of {recipe.batch_size}"
    if recipe.decay:
        how += f", decay {recipe.decay:g}"
    return how


def _epochs(result: Result) -> int:
    """How many it trained: patience stops it before a record."""
    if result.history.stopped is None:
        return result.recipe.epochs
    return len(result.history.epochs) * _record_every(result.recipe)


def _cost(cost: float | None) -> str:
    if cost is None:
        return ""
    return f"{cost:.6f}" if abs(cost) < 1e6 else f"{cost:.3g}"


def _show_classes(result: Result, data: Dataset, to: Console) -> None:
    part, X, Y = "test", data.X_test, data.Y_test
    if not X.shape[1]:
        part, X, Y = "train", data.X_train, data.Y_train
    table = Table(
        title=f"{result.label} on the {part} set".strip(),
        box=box.SIMPLE_HEAD if to.is_terminal else box.ASCII2,
    )
    for heading in ("class", "precision", "recall", "F1", "support"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    predictions = streaming.predict(result.recipe.net, result.params, X)
    for row in report(predictions, Y, data.classes):
        scores = (row.precision, row.recall, row.f1)
        table.add_row(row.name, *(f"{score:.3f}" for score in scores), f"{row.support:,}")
    to.print(table)


def _write(
    results: Sequence[Result], data: Dataset, options: argparse.Namespace, to: Console
) -> bool:
    """Write the JSON, models and pictures that were asked for; returns whether all were written.

    What cannot be written is told, and takes nothing else with it.
    """
    written = True

    def attempt(what: str, path: Path, write: Callable[[], None]) -> None:
        nonlocal written
        try:
            write()
            to.print(f"{what}: {path}")
        except (OSError, ValueError) as error:
            print(f"error: {what} {path}: {error}", file=sys.stderr)
            written = False

    if options.show is not None:
        _say_picture(results, data, options.show, to)
    if options.json:
        content = finite(_as_json(results, data, options))
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            path = Path(options.json)
            attempt("results", path, partial(write_whole, text, path))
    if options.save:
        for result in results:
            model = models.Model(result.recipe.net, result.params, data.classes, data.preprocessing)
            path = _beside(options.save, result.label)
            attempt("model", path, partial(models.save, model, path))
    if options.plot:
        from accelnn import plots

        for name, figure in _figures(results, data, options.show).items():
            path = _beside(options.plot, name)
            attempt("picture", path, partial(plots.save, figure, path))
    return written


def _figures(results: Sequence[Result], data: Dataset, show: int | None) -> Mapping[str, Any]:
    """The pictures that suit the data, by what is added to the file's name."""
    from accelnn import plots

    X, Y = data.X_train, data.Y_train
    named = {result.label or "training": result for result in results}
    if X.shape[0] == 2:
        trained = {name: (r.recipe.net, r.params, r.history) for name, r in named.items()}
        return {"": plots.comparison(trained, X, Y)}
    curves: dict[str, plots.Curve] = {}
    for name, result in named.items():
        history = curves[name] = result.history
        if history.validation_costs:
            name = f"{result.label}, validation" if result.label else "validation"
            curves[name] = history.epochs, history.validation_costs
    figures = {"": plots.costs(curves)}
    shape, last = data.preprocessing.image_shape, results[-1]
    if shape is None:
        return figures
    net, params = last.recipe.net, last.params
    judged_X, judged_Y = (data.X_test, data.Y_test) if data.X_test.shape[1] else (X, Y)
    figures["misclassified"] = plots.misclassified(
        judged_X, judged_Y, streaming.predict(net, params, judged_X), data.classes, shape
    )
    if len(data.classes) > 2:
        drawn = np.random.RandomState(0).permutation(X.shape[1])[:100]
        examples = X[:, array_module(X).asarray(drawn)]
        figures["examples"] = plots.pictures(examples, None, shape, columns=10)
    if net.hidden and shape[2] == 1:
        figures["hidden"] = plots.hidden_layer(params, shape)
    if show is not None:
        figures[f"picture-{show}"] = plots.pictures(
            X[:, show : show + 1], [_describe_picture(last, data, show)], shape
        )
    return figures


def _say_picture(results: Sequence[Result], data: Dataset, index: int, to: Console) -> None:
    for result in results:
        to.print(
            f"{result.label} picture {index}: {_describe_picture(result, data, index)}".strip()
        )


def _check_trainings(recipe: Recipe, data: Dataset, options: argparse.Namespace) -> None:
    """Raise ValueError where a training would fail, so that none fails after others have run."""
    trainings = list(recipe.trainings())
    if data.too_large and any(one.batch_size is None for _, one in trainings):
        smaller = ", or --dtype float32" if data.X_train.dtype == np.float64 else ""
        raise ValueError(f"{data.too_large}: stream it in mini-batches, --batch-size N{smaller}")
    for _, one in trainings:
        if one.solver != "minimize":
            continue
        asked = [name for name in OF_DESCENT if getattr(options, name)]
        if options.recipe and options.validation:
            asked.append("validation")
        if asked:
            option = "--" + asked[0].replace("_", "-")
            raise ValueError(f"{option} is for gradient descent: --solver minimize has none")
        if one.batch_size or one.optimizer != "sgd":
            raise ValueError(
                f"--solver minimize takes all examples at once, and {options.recipe} is trained "
                f"by {_how(replace(one, solver='auto'))}"
            )
    if len(trainings) < 2:
        return  # `fit` refuses it by itself, before it trains
    for label, one in trainings:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _train_one(label, replace(one, epochs=0), data, options.dtype)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None


def _check_picture(data: Dataset, index: int) -> None:
    m = data.X_train.shape[1]
    if data.preprocessing.image_shape is None:
        raise ValueError("--show needs pictures, and this data has none")
    if not 0 <= index < m:
        raise ValueError(f"--show {index}: expected a training picture in 0..{m - 1}")


def _describe_picture(result: Result, data: Dataset, index: int) -> str:
    from accelnn.scores import labels

    X, Y = data.X_train[:, index : index + 1], data.Y_train[:, index : index + 1]
    predicted = labels(streaming.predict(result.recipe.net, result.params, X))[0]
    return f"{data.classes[labels(Y)[0]]}, predicted {data.classes[predicted]}"


def _as_json(
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
                "learning_rate": (
                    None if result.recipe.solver == "minimize" else result.recipe.learning_rate
                ),
                "decay": result.recipe.decay,
                "seed": result.recipe.seed,
                "seconds": result.seconds,
                "train_accuracy": result.train_accuracy,
                "test_accuracy": result.test_accuracy,
                **asdict(result.history),
            }
            for result in results
        ],
    }


def _beside(file: str, name: str) -> Path:
    """`file` with a name added before its suffix: cats-misclassified.png beside cats.png."""
    path = Path(file)
    words = "-".join(re.findall(r"[\w.]+", name))
    return path.with_name(f"{path.stem}-{words}{path.suffix}") if words else path


# --------------------------------------------------------------------------------------------
# the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelnn.train",
        description="Train one of the notes' experiments, or your own data.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="see --list")
    parser.add_argument("--list", action="store_true", help="name the recipes")
    parser.add_argument(
        "--backend", type=backend.argument, metavar="NAME", help="numpy, cupy, cupy:N or auto"
    )
    parser.add_argument("--dtype", choices=("float64", "float32"))
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of matrix products; tf32 and bfloat16 on a GPU"
    )
    parser.add_argument("--epochs", type=_natural, metavar="N")
    parser.add_argument(
        "--learning-rate", type=_rate, nargs="+", metavar="RATE", help="several are compared"
    )
    parser.add_argument("--seed", type=_natural, help="of weights, dropout, mini-batches and split")
    parser.add_argument("--solver", choices=("auto", *SOLVERS, "minimize"))
    parser.add_argument("--method", choices=tuple(METHODS), help="of --solver minimize")
    parser.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        help=f"adam's learning rate is {RATE_OF_ADAM:g} where none is given",
    )
    parser.add_argument("--batch-size", type=_natural, metavar="N", help="examples a step")
    parser.add_argument(
        "--decay", type=_rate, metavar="RATE", help="learning rate / (1 + RATE * epoch)"
    )
    parser.add_argument(
        "--validation",
        type=_share,
        metavar="SHARE",
        help="of the training examples, to be watched (your own data: held out, 0.2)",
    )
    parser.add_argument(
        "--patience",
        type=_natural,
        metavar="N",
        help="stop where the validation cost fell in none of N records: every "
        f"{RECORD_EVERY} epochs, with --batch-size each",
    )
    parser.add_argument("--hidden", type=_sizes, metavar="N,N", help="hidden sizes to compare")
    parser.add_argument("--data", metavar="FOLDER", help="where the recipe's real data is")
    parser.add_argument("--show", type=int, metavar="INDEX", help="a training picture, predicted")
    parser.add_argument("--plot", metavar="FILE", help="draw into FILE (.png, .pdf, .svg)")
    parser.add_argument("--save", metavar="FILE", help="save the model (HDF5)")
    parser.add_argument("--json", metavar="FILE", help="write the results; - is standard output")
    own = parser.add_argument_group("your own data, in place of a recipe")
    own.add_argument("--images", metavar="DIR", help="a folder of pictures for each class")
    own.add_argument("--hdf5", metavar="FILE", help="pictures in the schema of the cats")
    own.add_argument("--csv", metavar="FILE", help="a table with a header; see --target")
    own.add_argument("--target", metavar="COLUMN", help="the column with the classes")
    own.add_argument("--layers", type=_sizes, metavar="N,N", help="hidden layers")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program where the options do not go together, or a file could not be written."""
    given = {n for n, value in vars(options).items() if value is not None and value is not False}
    sources = given & {"list", "recipe", "images", "hdf5", "csv"}
    if len(sources) != 1:
        parser.error("expected one of RECIPE, --list, --images, --hdf5 and --csv")
    if "recipe" in given:
        if options.recipe not in (*RECIPES, *TOURS):
            names = ", ".join((*RECIPES, *TOURS))
            parser.error(f"unknown recipe {options.recipe}: expected one of {names}")
        useless = given & {"target", "layers"}
        if options.recipe in TOURS:
            useless = given - {"recipe", "backend"}
        elif "folder" not in inspect.signature(RECIPES[options.recipe].data).parameters:
            useless |= given & {"data"}  # the data is drawn, not read
        for name in sorted(useless):
            parser.error(f"--{name.replace('_', '-')} does nothing for {options.recipe}")
    if options.precision and not options.dtype:
        options.dtype = "float32" if options.precision in ROUNDED else options.precision
    if ("csv" in given) != ("target" in given):
        parser.error("--csv and --target go together")
    if "hidden" in given and len(options.learning_rate or ()) > 1:
        parser.error("compare either --hidden sizes or --learning-rate values, not both")
    for name in given & {"plot", "save", "json"}:
        file = getattr(options, name)
        if not (name == "json" and file == "-"):
            try:
                check_writable(Path(file))
            except OSError as error:
                parser.error(f"--{name} {error}")


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if min(sizes) < 1:
        raise ValueError
    return sizes


def _natural(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**32 - 1, got {text}")
    return number


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return rate


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 up to, not with, 1, got {text}")
    return share


def _list(to: Console) -> None:
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.title)
    for name, tour in TOURS.items():
        table.add_row(name, (tour.__doc__ or "").strip().splitlines()[0])
    to.print(table)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
