"""The supervisor: gives cases to a worker, ends one that hangs, and keeps the files that failed."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import faults

SECONDS, MEMORY = 20, 500  # that reading a file may take; MB, of a file below 10 MB
STARTING = 120  # seconds to start a worker, and to make a file
TESTS = Path(__file__).parents[1]
KEPT = 3  # files of the same failure


@dataclass
class Tally:
    """What came of one reader's cases."""

    name: str
    outcomes: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)  # by (kind, place)
    examples: dict = field(default_factory=dict)  # the first case of each failure
    slowest: float = 0.0
    peak: float = 0.0
    seconds: float = 0.0

    @property
    def cases(self):
        return self.outcomes.total()

    def enter(self, key, result):
        self.outcomes["failed" if result["failure"] else result["outcome"]] += 1
        self.slowest = max(self.slowest, result["seconds"])
        self.peak = max(self.peak, result["peak"])
        if result["failure"]:
            failure = result["failure"], result["where"]
            self.failures[failure] += 1
            self.examples.setdefault(failure, key)


class Worker:
    """A process that reads files, of at most `memory` MB."""

    def __init__(self, folder, memory):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.said_in, self.unread = folder / "stderr", b""
        command = [sys.executable, "-m", "fuzz.worker", str(folder), str(memory)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.said_in.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=TESTS, stderr=errors, **pipes)

    def line(self, seconds):
        """The next line, None at the end of the process; raises TimeoutError."""
        end = time.monotonic() + seconds
        while b"\n" not in self.unread:
            left = max(end - time.monotonic(), 0)
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError
            if not (more := os.read(self.process.stdout.fileno(), 65536)):
                return None
            self.unread += more
        text, _, self.unread = self.unread.partition(b"\n")
        return json.loads(text)

    def said(self):
        """The end of what the process wrote to stderr."""
        return self.said_in.read_text(errors="replace")[-6000:]

    def run(self, name, key):
        """The case as it was announced, and its result."""
        case, result = {"words": "not made", "path": ""}, None
        failure = {"outcome": "failed", "seconds": 0.0, "peak": 0.0}
        began = time.monotonic()
        try:
            self.process.stdin.write(json.dumps([name, key]).encode() + b"\n")
            self.process.stdin.flush()
            if announced := self.line(STARTING):
                case, began = announced, time.monotonic()
                result = self.line(SECONDS)
        except TimeoutError:
            self.process.send_signal(signal.SIGABRT)  # faulthandler writes where it was
            failure |= {"failure": "hang", "seconds": time.monotonic() - began}
        except BrokenPipeError:
            pass  # it died before
        if result is None:
            self.end()
            code, text = self.process.returncode, self.said()
            failure.setdefault("failure", f"crash {code}")
            shown = text.rpartition("Current thread")[2] or text  # others may be shown before it
            places = [line.strip() for line in shown.splitlines() if line.startswith("  File")]
            place = places[0 if code < 0 else -1] if places else text[-80:].strip()
            result = failure | {"where": place.replace(str(TESTS.parent), ""), "text": text}
        return case, result

    def end(self):
        """End the process, by force if it has not ended after its last case."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def run(cases, kept, scratch, tallies, memory=MEMORY):
    """Read the cases, pairs of a reader's name and a seed or path, and enter them into `tallies`.

    kept : the folder for files that fail
    scratch : a folder to work in
    """
    worker = None
    try:
        for name, key in cases:
            tally, began = tallies[name], time.monotonic()
            if name == "commands":
                case, result = faults.run(key, scratch)
            else:
                if worker is None or worker.process.poll() is not None:
                    worker = Worker(scratch / "worker", memory)
                case, result = worker.run(name, key)
            tally.enter(key, result)
            tally.seconds += time.monotonic() - began
            if result["failure"] and tally.failures[result["failure"], result["where"]] <= KEPT:
                keep(name, key, case, result, kept)
    finally:
        if worker is not None:
            worker.end()


def keep(name, key, case, result, kept):
    """Copy a case's file, and write what happened beside it."""
    words = "-".join(result["failure"].split())
    key = key if isinstance(key, int) else Path(key).name
    folder = kept / f"{name}-{key}-{words}"
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(case["path"])
    if path.is_file():
        shutil.copyfile(path, folder / path.name)
    about = f"{name} {key}: {case['words']}\n{result['failure']} at {result['where']}\n"
    (folder / "what.txt").write_text(f"{about}{result['text']}\n", errors="replace")


def table(tallies):
    """The lines to print: a row for each reader, then each failure with its first case."""
    heads = ("reader", "cases", "a second", "accepted", "refused", "failed", "slowest", "peak")
    lines = ["{:<14}{:>9}{:>9}{:>9}{:>9}{:>8}{:>9}{:>9}".format(*heads)]
    for one in tallies:
        counts = (one.outcomes[kind] for kind in ("accepted", "refused", "failed"))
        rate = one.cases / one.seconds if one.seconds else 0
        lines.append(
            "{:<14}{:>9,}{:>9.0f}{:>9,}{:>9,}{:>8,}{:>7.2f} s{:>6.0f} MB".format(
                one.name, one.cases, rate, *counts, one.slowest, one.peak
            )
        )
    for one in tallies:
        for (kind, place), count in one.failures.most_common():
            first = one.examples[kind, place]
            lines.append(f"FAILED {one.name}: {kind}: {place} ({count} times, first {first})")
    return lines
