"""`python -m accelnn.datasets`: the command `accelnn data`."""

import sys

from accelnn.__main__ import run

if __name__ == "__main__":
    sys.exit(run("data", sys.argv[1:]))
