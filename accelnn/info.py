"""`python -m accelnn.info`: the same as `accelnn info`."""

import sys

from accelnn.__main__ import run
from accelnn.cli.info import main as main

if __name__ == "__main__":
    sys.exit(run("info", sys.argv[1:]))
