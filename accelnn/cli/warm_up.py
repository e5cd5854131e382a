"""`accelnn warm-up`: compile the CPU's solvers once, so that later trainings only load them."""

import sys
from collections.abc import Sequence

import accelnn
from accelnn.cli.console import Parser, console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    Parser(
        prog="accelnn warm-up",
        description="Compile the CPU's solvers, about half a minute for each dtype the first time; "
        "later trainings load them from Numba's cache in a second.",
    ).parse_args(arguments)
    out, err = console(sys.stdout), console(sys.stderr)
    for dtype in ("float64", "float32"):
        with err.status(f"compiling {dtype} solvers, about half a minute"):
            seconds = accelnn.warm_up(dtype)
        out.print(f"{dtype} solvers are ready: {seconds:.1f} s")
    return 0
