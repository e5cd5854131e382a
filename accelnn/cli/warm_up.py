"""`accelnn warm-up`: compile the CPU's solvers once, so that later trainings only load them."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import accelnn
from accelnn.cli.console import console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="accelnn warm-up",
        description="Compile the CPU's solvers, about half a minute for each dtype the first time; "
        "later trainings load them from Numba's cache in a second.",
    )
    parser.parse_args(arguments)
    out, err = console(sys.stdout), Console(stderr=True)
    for dtype in ("float64", "float32"):
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            bar.add_task(f"compiling {dtype} solvers")
            seconds = accelnn.warm_up(dtype)
        out.print(f"{dtype} solvers are ready: {seconds:.1f} s")
    return 0
