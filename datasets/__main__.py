"""`python -m accelnn.datasets`: the command `accelnn data`."""

import sys

from accelnn.__main__ import program

if __name__ == "__main__":
    sys.exit(program("data"))
