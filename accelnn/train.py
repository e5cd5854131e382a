"""`python -m accelnn.train`: the same as `accelnn train`."""

import sys

from accelnn.__main__ import run
from accelnn.cli.train import main as main

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:]))
