"""`python -m accelnn.predict`: the same as `accelnn predict`."""

import sys
from importlib import import_module
from typing import Any

from accelnn.__main__ import program


def __getattr__(name: str) -> Any:  # `main` too, imported when it is first used
    return getattr(import_module("accelnn.cli.predict"), name)


if __name__ == "__main__":
    sys.exit(program("predict"))
