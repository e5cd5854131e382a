"""`python -m accelnn.bench`: the same as `accelnn bench`."""

import sys
from importlib import import_module
from typing import Any

from accelnn.__main__ import program


def __getattr__(name: str) -> Any:  # `main` too, imported when it is first used
    return getattr(import_module("accelnn.cli.bench"), name)


if __name__ == "__main__":
    sys.exit(program("bench"))
