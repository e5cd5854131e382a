"""The options of `accelnn train`, and what is refused before anything is loaded."""

import argparse
import inspect
import itertools
from collections.abc import Sequence
from pathlib import Path

from accelnn import backend
from accelnn.files import check_writable, overlap
from accelnn.optimizers import OPTIMIZERS
from accelnn.recipes import RECIPES
from accelnn.solvers import SOLVERS
from accelnn.solvers.precisions import PRECISIONS, ROUNDED
from accelnn.tours import FIGURES, TOURS
from accelnn.training.minimize import METHODS

DESCENT = "descent"  # of --method: gradient descent, and none of SciPy's methods

OWN = ("images", "hdf5", "csv")  # options that name your own data
WRITTEN = ("save", "json", "plot")  # options that name a file to write

# Options that only gradient descent has: any of them selects it.
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
    parser = argparse.ArgumentParser(
        prog="accelnn train",
        usage="%(prog)s RECIPE [OPTIONS]\n"
        "       %(prog)s --images DIR | --hdf5 FILE | --csv FILE --target COLUMN\n"
        "       %(prog)s --list",
        description="Train an experiment of the notes, or a net for your own data.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe or tour from --list")
    parser.add_argument("--list", action="store_true", help="list the recipes and tours")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the recipe's real data")

    own = parser.add_argument_group("your own data, in place of a recipe")
    own.add_argument("--images", metavar="DIR", help="a folder of pictures for each class")
    own.add_argument("--hdf5", metavar="FILE", help="pictures, stored as the cats are")
    own.add_argument("--csv", metavar="FILE", help="a table with a header line")
    own.add_argument("--target", metavar="COLUMN", help="the table's column of classes")
    own.add_argument(
        "--test",
        type=_share,
        metavar="SHARE",
        help="share of the examples to test on; by default 0.15",
    )

    net = parser.add_argument_group("net")
    net.add_argument(
        "--hidden",
        type=_sizes,
        metavar="N,N",
        help="sizes of the hidden layers; own data: 100, or 128,64 for 10,000 or more "
        "training examples",
    )
    net.add_argument(
        "--compare-hidden",
        type=_size,
        nargs="+",
        metavar="N",
        help="compare nets with one hidden layer of these sizes",
    )
    net.add_argument("--seed", type=_natural, metavar="N", help="seed of every random number")

    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs",
        type=_natural,
        metavar="N",
        help="passes over the training set; with --method TNC or L-BFGS-B evaluations of "
        "the cost; own data: at most 1000, or 200 for 10,000 or more training examples",
    )
    training.add_argument(
        "--method",
        choices=(DESCENT, *METHODS),
        help="gradient descent, or one of SciPy's minimisers, which use no validation set",
    )
    training.add_argument(
        "--learning-rate",
        type=_rate,
        nargs="+",
        metavar="RATE",
        help="several rates are compared; own data: 0.001",
    )
    training.add_argument(
        "--decay", type=_rate, metavar="RATE", help="divide the learning rate by 1 + RATE * epoch"
    )
    training.add_argument("--optimizer", choices=tuple(OPTIMIZERS))
    training.add_argument(
        "--batch-size",
        type=_size,
        metavar="N",
        help="train on mini-batches of N examples; own data: 32, or 256 for 10,000 or more "
        "training examples",
    )
    training.add_argument(
        "--validation",
        type=_share,
        metavar="SHARE",
        help="share of the examples to watch, not to learn from; own data: 0.15",
    )
    training.add_argument(
        "--patience",
        type=_size,
        metavar="N",
        help="stop after N epochs without a new lowest validation cost; own data: 20",
    )

    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--backend", type=backend.argument, metavar="NAME", help="numpy, cupy, cupy:N or auto"
    )
    machine.add_argument(
        "--dtype", choices=("float64", "float32"), help="precision of parameters and data"
    )
    machine.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of matrix products; tf32 and bfloat16 need a GPU",
    )
    machine.add_argument(
        "--solver", choices=("auto", *SOLVERS), help="how to compute gradient descent"
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "--verbose", action="store_true", help="show the nets and why each solver was chosen"
    )
    output.add_argument("--show", type=int, metavar="INDEX", help="predict this training picture")
    output.add_argument("--plot", metavar="FILE", help="draw into FILE (.png, .pdf, .svg)")
    output.add_argument("--save", metavar="FILE", help="save the model (HDF5)")
    output.add_argument("--json", metavar="FILE", help="write the results; - is standard output")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if options do not go together, or a file could not be written."""
    given = {n for n, value in vars(options).items() if value is not None and value is not False}
    if len(given & {"list", "recipe", *OWN}) != 1:
        parser.error("expected one of RECIPE, --list, --images, --hdf5 and --csv")
    for name in sorted(_useless(parser, options, given)):
        parser.error(
            f"--{name.replace('_', '-')} does nothing for {options.recipe or 'your own data'}"
        )
    if options.precision and not options.dtype:
        options.dtype = "float32" if options.precision in ROUNDED else options.precision
    if options.csv and not options.target:
        parser.error(f"--csv needs --target COLUMN{_columns(options.csv)}")
    if options.target and not options.csv:
        parser.error("--target goes with --csv")
    if "compare_hidden" in given and ("hidden" in given or len(options.learning_rate or ()) > 1):
        parser.error(
            "--compare-hidden goes neither with --hidden nor with several --learning-rate values"
        )
    for name in given.intersection(WRITTEN):
        file = getattr(options, name)
        if not (name == "json" and file == "-"):
            try:
                check_writable(Path(file))
            except OSError as error:
                parser.error(f"--{name} {error}")
    _check_apart(parser, options)


def _check_apart(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if a file to write is one to read, or another to write."""
    files = [(name, getattr(options, name)) for name in (*OWN, *WRITTEN) if getattr(options, name)]
    for (first, other), (second, file) in itertools.combinations(files, 2):
        if second in WRITTEN and file != "-" and overlap(Path(file), Path(other)):
            place = "in the folder" if Path(other).is_dir() else "the same file as"
            parser.error(f"--{second} {file} is {place} --{first} {other}: name another file")


def _columns(file: str) -> str:
    """The header of a table, for an error, if it can be read."""
    try:
        with open(file, encoding="utf-8-sig") as table:
            return f", one of {table.readline().strip()}"
    except (OSError, UnicodeDecodeError):
        return ""


def _useless(
    parser: argparse.ArgumentParser, options: argparse.Namespace, given: set[str]
) -> set[str]:
    """The options given that do nothing for the recipe, tour or own data; ends if the recipe is
    unknown."""
    name = options.recipe
    if name in TOURS:
        return given - {"recipe", "backend"} - _of_tour(name)
    if name is None:
        return given & {"data"}
    if name not in RECIPES:
        names = ", ".join((*RECIPES, *TOURS))
        parser.error(f"unknown recipe {name}: expected one of {names}")
    takes_folder = "folder" in inspect.signature(RECIPES[name].data).parameters
    return given & ({"target", "test"} if takes_folder else {"target", "test", "data"})


def _of_tour(name: str) -> set[str]:
    """The options that a tour takes."""
    options = set()
    if "folder" in inspect.signature(TOURS[name]).parameters:
        options.add("data")
    if name in FIGURES:
        options.add("plot")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(_size, text.split(",")))


def _size(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected an integer from 1, got {text!r}")
    return int(text)


def _natural(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**32 - 1, got {text!r}")
    return number


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return rate


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share in [0, 1), got {text}")
    return share
