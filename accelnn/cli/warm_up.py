"""`accelnn warm-up`: compile the CPU's solvers once, so that later trainings only load them."""

import sys
from collections.abc import Sequence

import accelnn
from accelnn.cli.console import Parser, console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    Parser(
        prog="accelnn warm-up",
        description="Compile the CPU's solvers, which takes about seven seconds for each dtype the "
        "first time; later trainings load them from Numba's cache in half a second.",
    ).parse_args(arguments)
    out = console(sys.stdout)
    for dtype in ("float64", "float32"):
        seconds = accelnn.warm_up(dtype)
        out.print(f"{dtype} solvers are ready: {seconds:.1f} s")
    return 0
