"""`python -m fuzz`: run the campaign; `make fuzz` runs an hour of it."""

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

from . import campaign

READERS = ("model", "predict", "cats", "hdf5", "mat", "mat-weights", "mat-football", "csv")
READERS += ("train-csv", "picture", "images", "json", "download", "commands")
TURN = 20  # seconds of a reader before the next one


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="make fuzz", description="Read damaged and hostile files, in processes with limits."
    )
    add = parser.add_argument
    add("--reader", nargs="+", choices=READERS, default=READERS, metavar="NAME", help=f"{READERS}")
    add("--seconds", type=float, default=3600, help="for all of them together")
    add("--cases", type=int, help="of each reader, in place of --seconds")
    add("--first", type=int, help="seed of the first case; by default one from the clock")
    add("--file", nargs="+", type=Path, default=[], help="read these files, not made ones")
    add("--keep", type=Path, help="folder for the files that fail")
    options = parser.parse_args(arguments)
    first = int(time.time()) * 10**4 if options.first is None else options.first
    kept = options.keep or Path(tempfile.mkdtemp(prefix="accelnn-fuzz-"))
    print(f"first seed {first}; files that fail go to {kept}", flush=True)
    tallies = {name: campaign.Tally(name) for name in options.reader}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # no time for a disk
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        try:
            campaign.run(_cases(options, first), kept, Path(scratch), tallies)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
    print("\n".join(campaign.table(tallies.values())))
    return int(any(tally.failures for tally in tallies.values()))


def _cases(options, first):
    """The readers' names, in turns of a few seconds, and the cases."""
    if options.file or options.cases:
        keys = [str(file.resolve()) for file in options.file]
        keys = keys or range(first, first + options.cases)
        yield from itertools.product(options.reader, keys)
        return
    seeds = {name: itertools.count(first) for name in options.reader}
    end = time.monotonic() + options.seconds
    turn = min(TURN, options.seconds / len(options.reader))
    for name in itertools.cycle(options.reader):
        until = min(time.monotonic() + turn, end)
        while time.monotonic() < until:
            yield name, next(seeds[name])
        if until == end:
            return


if __name__ == "__main__":
    sys.exit(main())
