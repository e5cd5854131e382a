"""The options of `accelnn train`, and what is refused before anything is loaded."""

import argparse
import inspect
import itertools
from collections.abc import Sequence
from pathlib import Path

from accelnn import backend
from accelnn.cli.console import Parser
from accelnn.files import check_writable, overlap
from accelnn.optimizers import OPTIMIZERS
from accelnn.recipes import RECIPES
from accelnn.solvers import SOLVERS
from accelnn.solvers.precisions import PRECISIONS, ROUNDED
from accelnn.tours import FIGURES, TOURS
from accelnn.training.checkpoint import interval
from accelnn.training.minimize import METHODS

OWN = ("images", "hdf5", "csv", "parquet")  # options that name your own data
TABLES = ("csv", "parquet")
OF_TABLES = ("target", "task", "folds")  # options that only a table has
WRITTEN = ("save", "json", "plot", "checkpoint")  # options that name a file to write

# options of gradient descent: any of them selects it
OF_DESCENT = (
    *("learning_rate", "decay", "optimizer", "batch_size", "validation", "patience", "solver"),
    "precision",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends the program if they do not go together, or a file cannot be written."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if options.hidden and any(text.isdecimal() for text in (*unknown, options.recipe or "")):
        parser.error("--hidden takes its sizes with commas, such as --hidden 8,8")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    _check(parser, options)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="accelnn train",
        usage="%(prog)s RECIPE [OPTIONS]\n"
        "       %(prog)s --images DIR | --hdf5 FILE [OPTIONS]\n"
        "       %(prog)s --csv FILE | --parquet FILE --target COLUMN [OPTIONS]\n"
        "       %(prog)s --list",
        description="Train an experiment of the notes, or a net for your own data.",
    )
    add = parser.add_argument
    add("recipe", nargs="?", metavar="RECIPE", help="a recipe or tour from --list")
    add("--list", action="store_true", help="list the recipes and tours")
    add("--data", metavar="FOLDER", help="folder of the recipe's real data")

    add = parser.add_argument_group(
        "your own data",
        "In place of a recipe. By default --hidden 100, adam at 0.001, at most 1000 epochs in "
        "batches of 32; from 10,000 training examples on --hidden 128,64 and at most 200 epochs in "
        "batches of 256. Validation and test 0.15 each, patience 20.",
    ).add_argument
    add("--images", metavar="DIR", help="a folder of pictures for each class")
    add("--hdf5", metavar="FILE", help="pictures, stored as the cats are")
    add("--csv", metavar="FILE", help="a table with a header line")
    add("--parquet", metavar="FILE", help="a table as Parquet")
    add("--test", type=_share, metavar="SHARE", help="share to test on")

    add = parser.add_argument_group(
        "tables",
        "Columns of numbers, texts and ISO dates, with gaps; the page docs/tables.md has more.",
    ).add_argument
    add("--target", metavar="COLUMN", help="the column to predict, classes or numbers")
    add("--task", choices=("classification", "regression"), help="by default by the target")
    add("--folds", type=_folds, metavar="K", help="cross-validate in place of train and test")

    add = parser.add_argument_group("net").add_argument
    add("--hidden", type=_sizes, metavar="N,N", help="sizes of the hidden layers")
    add("--l2", type=_l2, metavar="RATE", help="regularise: RATE/(2m) times the squared weights")
    add("--keep-prob", type=_kept, metavar="P", help="dropout: share of hidden units to keep")
    compare = "compare nets with one hidden layer of these sizes"
    add("--compare-hidden", type=_size, nargs="+", metavar="N", help=compare)
    add("--seed", type=_natural, metavar="N", help="seed of every random number")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=_natural, metavar="N", help="passes over the data (SciPy: evaluations)")
    add("--method", choices=("descent", *METHODS), help="gradient descent, or SciPy's minimisers")
    add("--learning-rate", type=_rate, nargs="+", metavar="RATE", help="several rates are compared")
    add("--decay", type=_rate, metavar="RATE", help="divide the learning rate by 1 + RATE * epoch")
    add("--optimizer", choices=tuple(OPTIMIZERS))
    add("--batch-size", type=_size, metavar="N", help="train on mini-batches of N examples")
    balanced = "balanced: every class counts the same in the cost"
    add("--class-weight", choices=("balanced",), help=balanced)
    add("--validation", type=_share, metavar="SHARE", help="share to watch, not to learn from")
    add("--patience", type=_size, metavar="N", help="stop N epochs after the best validation cost")

    add = parser.add_argument_group("checkpoints").add_argument
    add("--checkpoint", metavar="FILE", help="from which the training can go on if it is ended")
    every = 'seconds between two (60), or such as "10 epochs"'
    add("--checkpoint-every", type=_interval, metavar="TEXT", help=every)
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")

    add = parser.add_argument_group("machine").add_argument
    add("--backend", type=backend.argument, metavar="NAME", help="numpy, cupy, cupy:N or auto")
    add("--dtype", choices=("float64", "float32"), help="precision of parameters and data")
    add("--precision", choices=PRECISIONS, help="of matrix products; tf32 and bfloat16 need a GPU")
    add("--solver", choices=("auto", *SOLVERS), help="how to compute gradient descent")

    add = parser.add_argument_group("output").add_argument
    add("--verbose", action="store_true", help="show the nets and why each solver was chosen")
    add("--show", type=int, metavar="INDEX", help="predict this training picture")
    add("--plot", metavar="FILE", help="draw into FILE (.png, .pdf, .svg)")
    add("--save", metavar="FILE", help="save the model (HDF5; a table's as .skops)")
    add("--json", metavar="FILE", help="write the results; - is standard output")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if options do not go together, or a file could not be written."""
    given = {n for n, value in vars(options).items() if value is not None and value is not False}
    if len(given & {"list", "recipe", *OWN}) != 1:
        parser.error("expected one of RECIPE, --list, --images, --hdf5, --csv and --parquet")
    if options.recipe and options.recipe not in (*RECIPES, *TOURS):
        parser.error(f"unknown recipe {options.recipe}: expected a name from --list")
    for name in sorted(_useless(options.recipe, given)):
        option = f"--{name.replace('_', '-')}"
        parser.error(f"{option} does nothing for {options.recipe or 'your own data'}")
    if options.precision and not options.dtype:
        options.dtype = "float32" if options.precision in ROUNDED else options.precision
    _check_table(parser, options, given)
    for name in ("checkpoint_every", "resume"):
        if name in given and not options.checkpoint:
            parser.error(f"--{name.replace('_', '-')} goes with --checkpoint FILE")
    if options.compare_hidden and (options.hidden or len(options.learning_rate or ()) > 1):
        parser.error("--compare-hidden goes neither with --hidden nor with several learning rates")
    files = {name: getattr(options, name) for name in (*OWN, *WRITTEN)}
    paths = [(name, Path(f)) for name, f in files.items() if f and (name, f) != ("json", "-")]
    for name, path in paths:
        if name in WRITTEN:
            try:
                check_writable(path)
            except OSError as error:
                parser.error(f"--{name} {error}")
    for (first, other), (second, path) in itertools.combinations(paths, 2):
        if second in WRITTEN and overlap(path, other):
            place = "in the folder" if other.is_dir() else "the same file as"
            parser.error(f"--{second} {path} is {place} --{first} {other}: name another file")
    if options.target and options.save and Path(options.save).suffix != ".skops":
        name = Path(options.save).with_suffix(".skops").name
        parser.error(f"--save {options.save}: a table's model is a .skops file, such as {name}")


def _check_table(
    parser: argparse.ArgumentParser, options: argparse.Namespace, given: set[str]
) -> None:
    """End the program if options do not suit a table, or are for one and there is none."""
    kind = next((name for name in TABLES if getattr(options, name)), None)
    if kind is None:
        for name in sorted(given.intersection(OF_TABLES)):
            parser.error(f"--{name} goes with --csv or --parquet")
        return
    if not options.target:
        columns = _columns(options.csv) if options.csv else ""
        parser.error(f"--{kind} needs --target COLUMN{columns}")
    for name in ("save", "plot", "test", "checkpoint"):
        if options.folds and name in given:
            parser.error(f"--{name} does nothing with --folds, which keeps no net and no test set")


def _columns(file: str) -> str:
    """The header of a table, for an error, if it can be read."""
    try:
        with open(file, encoding="utf-8-sig") as table:
            return f", one of {table.readline().strip()}"
    except (OSError, UnicodeDecodeError):
        return ""


def _useless(name: str | None, given: set[str]) -> set[str]:
    """The options among those given that do nothing for the recipe, tour or, if None, own data."""
    if name is None:
        return given & {"data"}
    function = TOURS[name] if name in TOURS else RECIPES[name].data
    taken = {"data"} if "folder" in inspect.signature(function).parameters else set()
    if name in RECIPES:
        return given & {*OF_TABLES, "test", "data"} - taken
    return given - {"recipe", "backend"} - taken - ({"plot"} if name in FIGURES else set())


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(_size, text.split(",")))


def _size(text: str) -> int:
    return _natural(text, lowest=1)


def _folds(text: str) -> int:
    return _natural(text, lowest=2)


def _natural(text: str, lowest: int = 0) -> int:
    if not (text.isdecimal() and lowest <= int(text) < 2**32):
        expected = f"expected an integer from {lowest} to 2**32 - 1"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return int(text)


def _interval(text: str) -> float | str:
    try:
        every = text if "epoch" in text else float(text)
        interval(every)
    except ValueError:
        expected = 'expected seconds above 0, or such as "10 epochs"'
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None
    return every


def _rate(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return float(text)


def _l2(text: str) -> float:
    return 0.0 if float(text) == 0 else _rate(text)


def _kept(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], got {text}")
    return float(text)


def _share(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a share in [0, 1), got {text}")
    return float(text)
