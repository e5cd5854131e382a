"""`accelnn bench [all | ops | train | growth | gpu]`: time the notes' operations and trainings;
`accelnn bench report FILE ...`: show stored results.

The exit status is 0 if every result was right, 1 if one was wrong or failed, 130 after Ctrl-C.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from accelnn import backend, warm_up
from accelnn.bench import cases, machine, pages, peers, report, trainings
from accelnn.bench.cases import ON_GPU, OPERATIONS, OperationCase
from accelnn.bench.growth import GROWTHS
from accelnn.bench.peers import PEERS
from accelnn.bench.records import Report
from accelnn.bench.runner import Case, run_case
from accelnn.bench.trainings import TRAININGS, TrainingCase
from accelnn.cli.console import Parser, console, printable, show_error
from accelnn.files import check_writable, write_whole

# Repeats; seconds for an implementation of an operation, a training, a training that grows
SHORT, QUICK = (5, 0.12, 1.5, 0.5), (3, 0.04, 0.3, 0.05)
FULL, OF_GPU = (5, 0.7, 30.0, 0.5), (5, 0.3, 5.0, 0.5)

# A short run's trainings: in one dtype, so that the compiled solvers are compiled for one only
SHORT_TRAININGS = ("cat-logistic", "cat-2layer", "planar", "digits")

# The group "gpu" compares operations with the fastest on the CPU, and trainings with these
# packages; starting one and compiling its step takes long, so not all of them do everything.
RIVALS = ("torch-cuda", "torch-cuda-graph")
ALL_RIVALS = (*RIVALS, "torch-cuda-compile", "jax-cuda")
GPU_OPERATIONS = ("numba-parallel", "numpy", "cupy")
GPU_TRAININGS = {
    "cat-2layer": ("numpy", *ON_GPU, *ALL_RIVALS),
    "minibatch-128-sgd": ("numpy", *ON_GPU, *RIVALS),
    "minibatch-128-adam": ("numpy", *ON_GPU, *ALL_RIVALS),
    "minibatch-4096-8192": (*ON_GPU, "torch-cuda"),
    "minibatch-4096-8192-tf32": (*ON_GPU, *RIVALS),
    "minibatch-4096-8192-bfloat16": (*ON_GPU, *RIVALS),
}

# By group, the tables of its cases
GROUPS: dict[str, tuple[Mapping[str, object], ...]] = {
    "all": (OPERATIONS, TRAININGS),
    "ops": (OPERATIONS,),
    "train": (TRAININGS,),
    "growth": (GROWTHS,),
    "gpu": (OPERATIONS, GPU_TRAININGS),
}

Plan = list[tuple[Case, list[str]]]
Limits = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or show stored results; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.group == "report":
        return _show_stored(options)
    parser = _parser()
    until = math.inf if options.within is None else time.monotonic() + options.within
    if options.group == "gpu" and backend.why_not() is not None:
        parser.error(f"gpu: no GPU can be used here: {backend.why_not()}")
    options.dtype = options.dtype or ("float32" if options.group == "gpu" else "float64")
    limits: Limits = {}
    try:
        backend.current()  # with several GPUs, measure the chosen one
        plan = _plan(parser, options, limits)
        if options.json and options.json != "-":
            check_writable(Path(options.json))
    except backend.BackendError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--json {error}")

    names = [name for _, implementations in plan for name in implementations]
    versions = machine.versions() | peers.versions(names)
    result = Report(machine=machine.describe(), versions=versions, limits=limits)
    interrupted = not _measure(plan, options, until, result)

    failed: OSError | None = None
    if options.json == "-":
        sys.stdout.write(result.to_json())
    elif options.json:
        try:
            write_whole(result.to_json(), Path(options.json))
        except OSError as error:
            failed = error
    to = console(sys.stderr if options.json == "-" else sys.stdout)
    report.show(result, to)
    if _is_short(options):
        more = "measures more sizes, trainings and loops, and each row for longer (10 minutes)."
        to.print(f"\n--full {more}", soft_wrap=True)
    if failed:
        show_error(f"--json {options.json}: {failed}")
    if interrupted:
        print("Interrupted: these are the rows measured so far.", file=sys.stderr)
        return 130
    return int(bool(failed) or any(r.status in ("wrong", "failed") for r in result.records))


def _show_stored(options: argparse.Namespace) -> int:
    for name in options.files:
        try:
            stored = Report.read(Path(name))
            if options.chart:
                from accelnn.bench import chart

                chart.draw(stored, Path(options.chart), options.case)
            elif options.markdown:
                for line in pages.to_markdown(stored).split("\n"):
                    print(printable(line))
            else:
                report.show(stored, console(sys.stdout))
        except (OSError, ValueError) as error:
            show_error(error if name in str(error) else f"{name}: {error}")
            return 2
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            show_error(f"{name}: a result with wrong values ({type(error).__name__}: {error})")
            return 2
    return 0


def _measure(plan: Plan, options: argparse.Namespace, until: float, result: Report) -> bool:
    """Enter limits and records into `result`; False if Ctrl-C ended it early."""
    times = OF_GPU if options.group == "gpu" else FULL
    if options.quick or _is_short(options):
        times = QUICK if options.quick else SHORT
    repeat, operation_seconds, training_seconds, growth_seconds = times
    repeat = options.repeat or repeat
    used = {name for _, names in plan for name in names}
    trained = [(case, names) for case, names in plan if isinstance(case, TrainingCase)]
    dtypes = {c.dtype_of("accelnn") for c, n in trained if "accelnn" in n or c.training.along}
    used_places = {"cupy" if name in ON_GPU else "numpy" for name in used}
    precisions = sorted({case.recipe.precision or "" for case, _ in trained} - {""})
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    to = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=to, transient=True, disable=not to.is_terminal
    ) as progress:
        bar = progress.add_task("", total=sum(len(names) for _, names in plan))

        def say(description: str) -> None:
            progress.update(bar, description=description)

        try:
            for dtype in sorted(dtypes):
                say(f"compiling accelnn for {dtype} (once, about seven seconds)")
                result.warm_up_seconds[dtype] = warm_up(dtype, progress=False)
            say("measuring the machine's limits")
            for place in cases.places():
                if place.name in used_places:
                    found = machine.limits(place, options.dtype, repeat, precisions)
                    result.limits[place.name] = found
            for case, names in plan:
                seconds = operation_seconds
                if isinstance(case, TrainingCase):
                    seconds = growth_seconds if case.training.along else training_seconds
                run_case(case, names, repeat, seconds, result.records, say, until)
                progress.advance(bar, len(names))
        except KeyboardInterrupt:
            return False
    return True


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    if list(arguments[:1]) != ["report"]:
        return _parser().parse_args(arguments)
    parser = Parser(
        prog="accelnn bench report", description="Show what --json stored, as the benchmark does."
    )
    parser.set_defaults(group="report")
    parser.add_argument("files", nargs="+", metavar="FILE", help="written by accelnn bench --json")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    form.add_argument("--chart", metavar="OUT", help="write a bar chart of a training: .svg, .png")
    parser.add_argument("--case", metavar="NAME", help="the training of --chart: cat-2layer")
    return parser.parse_args(arguments[1:])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="accelnn bench",
        description="Time the notes' operations and trainings as Python loops, compiled loops, "
        "NumPy, CuPy and accelnn. Every result is checked against a float64 reference first. "
        "Without options this takes about a minute and a half; naming --case, --size, "
        "--implementation or --peers measures all there is of what was named, as --full does.",
        epilog="accelnn bench report FILE ... shows stored results: --help lists its options.",
    )
    add = parser.add_argument
    add(
        "group",
        nargs="?",
        choices=GROUPS,
        default="all",
        help="ops: single operations; train: whole trainings; all: both (default); growth: how "
        "each solver's time grows with the size of the training; gpu: the GPU against the CPU and "
        "against other packages on it, in float32, about ten minutes",
    )
    add("--full", action="store_true", help="every size, implementation and training: 10 minutes")
    add("--quick", action="store_true", help="measure each row only briefly: rough figures")
    known = ", ".join((*OPERATIONS, *TRAININGS, *GROWTHS))
    add("--case", nargs="+", metavar="NAME", help=f"only these of {known}")
    known = ", ".join({**cases.IMPLEMENTATIONS, **trainings.IMPLEMENTATIONS, **PEERS})
    only = f"only these of {known}; naming another package's turns --peers on"
    add("--implementation", nargs="+", metavar="NAME", help=only)
    add("--size", nargs="+", type=_positive, metavar="N", help="sizes of the operations")
    others = "time PyTorch, JAX and scikit-learn on the trainings too, each in its own process"
    add("--peers", action="store_true", help=others)
    add("--dtype", choices=("float64", "float32"), help="default: float64; for gpu float32")
    add("--repeat", type=_positive, metavar="R", help="measurements of each row")
    add("--within", type=_positive, metavar="SECONDS", help="start no new row after SECONDS")
    add("--json", metavar="FILE", help="write all measurements; - is standard output")
    return parser


def _is_short(options: argparse.Namespace) -> bool:
    """Whether to measure a selection: nothing was named, and not everything asked for."""
    named = options.case or options.size or options.implementation or options.peers
    return options.group in ("all", "ops", "train") and not (options.full or named)


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace, limits: Limits) -> Plan:
    """The cases to run, and the implementations of each; ends the program on a wrong name."""
    known = _names(options.group)
    for name in options.case or ():
        if name not in known:
            parser.error(f"--case {name}: expected one of {', '.join(known)}")
    found = _cases(options, limits)
    if options.size and not any(isinstance(case, OperationCase) for case in found):
        parser.error("--size is for operations, and only trainings were asked for")
    asked = options.implementation or ()
    available = list(dict.fromkeys(name for case in found for name in case.implementations))
    for name in asked:
        if name not in available:
            parser.error(f"--implementation {name}: expected one of {', '.join(available)}")
    chosen: Sequence[str] = asked or available
    if _is_short(options):
        chosen = [name for name in available if name != "python-lists"]
    plan = []
    for case in found:
        if options.group == "gpu" and not asked:
            chosen = GPU_TRAININGS.get(str(case), GPU_OPERATIONS)
        if names := [name for name in case.implementations if name in chosen]:
            plan.append((case, names))
    return plan


def _names(group: str) -> list[str]:
    return [name for table in GROUPS[group] for name in table]


def _cases(options: argparse.Namespace, limits: Limits) -> list[Case]:
    """The cases of the group."""
    short = _is_short(options)
    asked = options.implementation or ()
    of_gpu = options.group == "gpu"
    others = of_gpu or options.peers or any(name.startswith(tuple(PEERS)) for name in asked)
    on_gpus = of_gpu or any(map(peers.on_gpu, asked)) or backend.why_not() is None
    found: list[Case] = []
    for name in _names(options.group):
        if options.case and name not in options.case:
            continue
        if name in OPERATIONS:
            operation = OPERATIONS[name]
            known = cases.short_sizes(operation) if short else cases.sizes(operation, options.dtype)
            chosen = options.size or known
            found += [OperationCase(name, n, options.dtype, limits) for n in chosen]
        elif not short or name in SHORT_TRAININGS:
            for training in GROWTHS.get(name) or [TRAININGS[name]]:
                found.append(TrainingCase(name, training, options.dtype, limits, others, on_gpus))
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
