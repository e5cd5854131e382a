"""`python -m accelnn.bench [all | ops | train | growth | gpu]`: measure, show, and say by the exit
status whether every result was right (0), one was wrong or failed (1), or Ctrl-C came first (130).
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from accelnn import backend
from accelnn.bench import machine, peers, report
from accelnn.bench.cases import ON_GPU, OPERATIONS, Case, OperationCase, place_of, sizes
from accelnn.bench.crossover import crossovers
from accelnn.bench.growth import GROWTHS, GrowthCase
from accelnn.bench.peers import PEERS, on_gpu
from accelnn.bench.records import Report, write_whole
from accelnn.bench.runner import run_case
from accelnn.bench.trainings import TRAININGS, TrainingCase
from accelnn.files import check_writable

# (repeat, seconds for an implementation of an operation, seconds for one of a training)
DEFAULT, QUICK = (5, 0.7, 30.0), (3, 0.04, 0.3)
OF_GPU = (5, 0.3, 5.0)

# What the group "gpu" measures: operations against the fastest on the CPU, and trainings against
# these packages. To start one and to compile its step takes long, so not all do everything.
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

# Seconds for one solver at one size, where it is told how the time grows
GROWTH_SECONDS, QUICK_GROWTH_SECONDS = 0.5, 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    until = math.inf if options.within is None else time.monotonic() + options.within
    whole = OF_GPU if options.group == "gpu" else DEFAULT
    repeat, operation_seconds, training_seconds = QUICK if options.quick else whole
    repeat = options.repeat or repeat
    if options.group == "gpu" and backend.cupy_unusable() is not None:
        parser.error(f"gpu: no GPU can be used here: {backend.cupy_unusable()}")
    options.dtype = options.dtype or ("float32" if options.group == "gpu" else "float64")
    try:
        backend.current()  # of several GPUs the chosen one is measured
    except backend.BackendError as error:
        parser.error(str(error))
    limits: dict[str, dict[str, float]] = {}
    plan = _plan(parser, options, limits)
    if options.json and options.json != "-":
        try:
            check_writable(Path(options.json))
        except OSError as error:
            parser.error(f"--json {error}")

    names = [name for _, implementations in plan for name in implementations]
    versions = machine.versions() | peers.versions(names)
    result = Report(machine=machine.describe(), versions=versions, limits=limits)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    interrupted = False
    to = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=to, transient=True, disable=not to.is_terminal
    ) as progress:
        bar = progress.add_task("measuring the machine's limits", total=len(names))
        try:
            for place in _places(plan):
                limits[place.name] = machine.limits(place, options.dtype, repeat, _precisions(plan))
            for case, implementations in plan:
                seconds = operation_seconds
                if isinstance(case, TrainingCase):
                    seconds = training_seconds
                elif isinstance(case, GrowthCase):
                    seconds = QUICK_GROWTH_SECONDS if options.quick else GROWTH_SECONDS
                run_case(
                    case,
                    implementations,
                    repeat,
                    seconds,
                    result.records,
                    functools.partial(_announce, progress, bar, case),
                    until,
                )
                progress.advance(bar, len(implementations))
        except KeyboardInterrupt:
            interrupted = True
    result.crossovers = crossovers(result.records)

    if options.json == "-":
        sys.stdout.write(result.to_json())
    elif options.json:
        write_whole(result.to_json(), Path(options.json))
    report.show(result, report.console(sys.stderr if options.json == "-" else sys.stdout))
    if interrupted:
        print("Interrupted: these are the rows measured so far.", file=sys.stderr)
        return 130
    return int(any(record.status in ("wrong", "failed") for record in result.records))


def _announce(progress: Progress, bar: TaskID, case: Case, implementation: str) -> None:
    progress.update(bar, description=f"{case} {implementation}")


_IMPLEMENTATIONS = dict.fromkeys(
    (
        *OperationCase.implementations,
        *(name for training in TRAININGS.values() for name in training.implementations),
    )
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelnn.bench",
        description="Time the notes' operations and trainings as Python loops, jitted loops, "
        "NumPy, CuPy and accelnn's fastest, each checked against a float64 reference.",
    )
    parser.add_argument(
        "group",
        nargs="?",
        choices=("all", "ops", "train", "growth", "gpu"),
        default="all",
        help="all is ops and train; growth tells how trainings grow with the size, by solver; gpu "
        "sets a GPU against the CPU and against other packages on it, in float32, in minutes",
    )
    parser.add_argument(
        "--case",
        nargs="+",
        metavar="NAME",
        help=f"only these of {', '.join((*OPERATIONS, *TRAININGS, *GROWTHS))}",
    )
    parser.add_argument(
        "--implementation",
        nargs="+",
        metavar="NAME",
        help="only these of "
        + ", ".join((*_IMPLEMENTATIONS, *PEERS))
        + "; to name one of another package is to ask for --peers",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="let PyTorch, JAX and scikit-learn do the trainings too, each in a process of its "
        "own, and where there is a GPU on that as well",
    )
    parser.add_argument(
        "--size", nargs="+", type=_positive, metavar="N", help="sizes of the operations"
    )
    parser.add_argument(
        "--dtype", choices=("float64", "float32"), help="float64, of gpu float32, if none is given"
    )
    parser.add_argument("--repeat", type=_positive, metavar="R", help="measurements of each row")
    parser.add_argument("--quick", action="store_true", help="end within a minute; rough figures")
    parser.add_argument(
        "--within", type=_positive, metavar="SECONDS", help="begin no row any more after these"
    )
    parser.add_argument("--json", metavar="FILE", help="write the records; - is standard output")
    return parser


def _plan(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    limits: dict[str, dict[str, float]],
) -> list[tuple[Case, list[str]]]:
    """The cases to run, and the implementations of each; ends the program on a wrong name."""
    names: dict[str, tuple[str, ...]] = {
        "ops": tuple(OPERATIONS),
        "train": tuple(TRAININGS),
        "growth": tuple(GROWTHS),
        "gpu": (*OPERATIONS, *GPU_TRAININGS),
        "all": (*OPERATIONS, *TRAININGS),
    }
    known = names[options.group]
    for name in options.case or ():
        if name not in known:
            parser.error(f"--case {name}: expected one of {', '.join(known)}")
    asked = options.implementation or ()
    cases: list[Case] = []
    for name in known:
        if options.case and name not in options.case:
            continue
        if name in TRAININGS:
            others = options.peers or any(name.startswith(tuple(PEERS)) for name in asked)
            on_gpus = any(map(on_gpu, asked)) or backend.cupy_unusable() is None
            if options.group == "gpu":
                others = on_gpus = True
            cases.append(TrainingCase(name, options.dtype, limits, others, on_gpus))
        elif name in GROWTHS:
            cases += GROWTHS[name]
        else:
            chosen = options.size or sizes(OPERATIONS[name])
            cases += [OperationCase(name, n, options.dtype, limits) for n in chosen]
    if options.size and not any(isinstance(case, OperationCase) for case in cases):
        parser.error("--size is for operations, and only trainings were asked for")
    available = list(dict.fromkeys(name for case in cases for name in case.implementations))
    for name in asked:
        if name not in available:
            parser.error(f"--implementation {name}: expected one of {', '.join(available)}")
    plan = []
    for case in cases:
        wanted = asked or available
        if options.group == "gpu" and not asked:
            wanted = GPU_TRAININGS.get(str(case), GPU_OPERATIONS)
        plan.append((case, [name for name in case.implementations if name in wanted]))
    return [(case, implementations) for case, implementations in plan if implementations]


def _places(plan: list[tuple[Case, list[str]]]) -> list[backend.Backend]:
    """The backends whose limits the rows need: CuPy's only where it works."""
    names = {name for _, implementations in plan for name in implementations}
    usable = names - {*ON_GPU} if backend.cupy_unusable() else names
    places = {place_of(name).name: place_of(name) for name in sorted(usable)}
    return list(places.values())


def _precisions(plan: list[tuple[Case, list[str]]]) -> list[str]:
    """Those of the trainings that have one of their own."""
    found = {case.training.precision for case, _ in plan if isinstance(case, TrainingCase)}
    return sorted(precision for precision in found if precision)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
