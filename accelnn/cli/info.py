"""`accelnn info`: what is on this machine, which backend would be used, and why."""

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata

import accelnn
from accelnn import backend, datasets, gpus
from accelnn.cli.console import Parser, console, names_and_texts

PACKAGES = (
    *("numpy", "numba", "scipy", "h5py", "matplotlib", "torch", "jax", "scikit-learn"),
    "nvmath-python",
)


def main(arguments: Sequence[str] = ()) -> int:
    """Returns the exit status: 1 if ACCELNN_BACKEND names no backend, or cat files are damaged."""
    Parser(
        prog="accelnn info",
        description="Show this machine, the backend that would be used and why, and the versions "
        "of the packages.",
    ).parse_args(arguments)
    table = names_and_texts()
    table.add_row("accelnn", f"{accelnn.__version__}, Python {platform.python_version()}")
    table.add_row("ACCELNN_BACKEND", os.environ.get("ACCELNN_BACKEND", "not set: numpy"))
    status = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rows say what the warnings would
        try:
            chosen = backend.current()
            free, total = chosen.memory()
            table.add_row("backend used", f"{chosen} on {chosen.device_name()}")
            table.add_row("memory", f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB")
        except backend.BackendError as error:
            table.add_row("backend used", f"none: {error}", style="red")
            status = 1
        table.add_row("CuPy", _cupy())
        for index in range(gpus.count()):
            table.add_row(f"cupy:{index}", _gpu(index))
        for package in PACKAGES:
            table.add_row(package, _version(package))
        try:
            table.add_row("cat pictures", datasets.load_cats().source)
        except (OSError, ValueError) as error:
            table.add_row("cat pictures", str(error), style="red")
            status = 1
    console(sys.stdout).print(table)
    return status


def _cupy() -> str:
    reason = backend.why_not()
    if reason is not None:
        return f"cannot be used: {reason}"
    cupy = backend.CupyBackend().xp
    cuda = gpus.version(cupy.cuda.runtime.runtimeGetVersion())
    return f"{cupy.__version__} works, with CUDA {cuda}"


def _gpu(index: int) -> str:
    try:
        return str(gpus.describe(index))
    except Exception as error:  # CUDA's, of many kinds
        return f"does not answer ({type(error).__name__}: {error})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
