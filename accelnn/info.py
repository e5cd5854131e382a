"""`python -m accelnn.info`: what is on this machine, which backend would be used, and why."""

import os
import platform
import sys
import warnings
from importlib import metadata

from rich import box
from rich.console import Console
from rich.table import Table

import accelnn
from accelnn import backend, datasets

PACKAGES = ("numpy", "numba", "scipy", "h5py", "matplotlib", "torch", "jax", "scikit-learn")


def main() -> int:
    """Print the findings; returns the exit status, 1 where ACCELNN_BACKEND names no backend."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    asked = os.environ.get("ACCELNN_BACKEND")
    table.add_row("accelnn", f"{accelnn.__version__}, Python {platform.python_version()}")
    table.add_row("ACCELNN_BACKEND", "not set: numpy" if asked is None else asked)
    status = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reason of a fallback has a row of its own
            chosen = backend.current()
        table.add_row("backend used", f"{chosen.name} on {chosen.device_name()}")
        free, total = chosen.memory()
        table.add_row("memory", f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB")
    except backend.BackendError as error:
        table.add_row("backend used", f"none: {error}", style="red")
        status = 1
    reason = backend.cupy_unusable()
    if reason is None:
        gpu = backend.CupyBackend()
        table.add_row("CuPy", f"{gpu.xp.__version__} works on {gpu.device_name()}")
    else:
        table.add_row("CuPy", f"cannot be used: {reason}")
    for package in PACKAGES:
        table.add_row(package, _version(package))
    try:
        table.add_row("cat pictures", datasets.load_cats().source)
    except (OSError, ValueError) as error:
        table.add_row("cat pictures", str(error), style="red")
        status = 1
    console = Console(markup=False, highlight=False)
    console.print(table)
    return status


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
