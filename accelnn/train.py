"""`python -m accelnn.train`: the same as `accelnn train`."""

import sys
from importlib import import_module
from typing import Any

from accelnn.__main__ import program


def __getattr__(name: str) -> Any:  # `main` too, imported when it is first used
    return getattr(import_module("accelnn.cli.train"), name)


if __name__ == "__main__":
    sys.exit(program("train"))
