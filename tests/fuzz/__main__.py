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
READERS += ("train-csv", "picture", "images", "json", "download")
TURN = 20  # seconds of a reader before the next one's turn


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
            for name, keys, until in _turns(options, first):
                campaign.run(name, keys, kept, Path(scratch), until, tallies[name])
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
    print("\n".join(campaign.table(tallies.values())))
    return int(any(tally.failures for tally in tallies.values()))


def _turns(options, first):
    """The readers in turn: name, cases, and when the turn ends."""
    endless = float("inf")
    if options.file or options.cases:
        keys = [str(file.resolve()) for file in options.file]
        for name in options.reader:
            yield name, keys or range(first, first + options.cases), endless
        return
    seeds = {name: itertools.count(first) for name in options.reader}
    end, n = time.monotonic() + options.seconds, len(options.reader)
    for name in itertools.cycle(options.reader):
        now = time.monotonic()
        if now >= end:
            return
        turn = max(min(TURN, options.seconds / n), 0.5)
        yield name, seeds[name], min(now + turn, end)


if __name__ == "__main__":
    sys.exit(main())
