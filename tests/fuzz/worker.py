"""The process that reads hostile files: `python -m fuzz.worker FOLDER MEGABYTES`.

It takes a case a line on standard input, a reader's name and a seed or the path of a file, and
writes a line of JSON before each case and after it. Its parent sees what happens to the process.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path

from accelnn.datasets.download import DownloadError

from . import readers

LONGEST = 2000  # characters of an error's message
ROOM = 4 << 30  # bytes of address space beside what the process has when it starts
REFUSED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")
REFUSED += ("pickle.find_class", "ctypes.dlopen", "cpython.run_file")


class Watch:
    """Sees a file of a folder being opened, by this process or any other; Linux only."""

    def __init__(self, folder):
        libc = ctypes.CDLL(None)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        in_open = 0x20
        libc.inotify_add_watch(self.fd, os.fsencode(folder), in_open)

    def opened(self):
        """The names of the files that were opened since the last call."""
        try:
            events = os.read(self.fd, 65536)
        except BlockingIOError:
            return []
        names = []
        while events:
            (size,) = struct.unpack_from("I", events, 12)
            names.append(events[16 : 16 + size].rstrip(b"\0").decode())
            events = events[16 + size :]
        return [name for name in names if name]


def memory(field):
    """VmRSS or VmHWM (the highest VmRSS) in MB."""
    with open("/proc/self/status") as status:
        lines = [line for line in status if line.startswith(field)]
    return int(lines[0].split()[1]) / 1024


def reset_highest():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def last_frame(error):
    """The place in accelnn where an error was raised, and its innermost place."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "fuzz" not in f.filename and "site-packages" not in f.filename]
    places = [*(ours[-1:]), frames[-1]]
    return " > ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in places))


class Case:
    """Reads files and finds out what is wrong with how they are read.

    memory : MB that reading a file below 10 MB may take
    """

    def __init__(self, watch, events, memory):
        self.watch, self.events, self.memory = watch, events, memory

    def run(self, reader, path, words, whole):
        """The outcome as a dict; `words` say what the file is. If `whole` is given, what is
        accepted must be in it."""
        self.events.clear()
        self.watch.opened()
        descriptors = len(os.listdir("/proc/self/fd"))
        small = not path.is_file() or path.stat().st_size < 10**7
        reset_highest()
        before, began = memory("VmRSS"), time.monotonic()
        failure, where, text, accepted = None, "", "", None
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                accepted = reader.read(path)
            except AssertionError as error:
                failure, where, text = "wrong", str(error)[:80], traceback.format_exc()
            except (ValueError, OSError, reader.raises) as error:
                text = f"{type(error).__name__}: {error}"
                if len(text) > LONGEST:
                    failure, where = "long message", last_frame(error)
            except Exception as error:
                failure = f"error {type(error).__name__}"
                where, text = last_frame(error), traceback.format_exc()
        seconds, peak = time.monotonic() - began, memory("VmHWM") - before
        left = len(os.listdir("/proc/self/fd")) - descriptors
        opened = self.watch.opened()
        numeric = [w for w in warned if issubclass(w.category, RuntimeWarning)]
        if failure is None:
            if self.events:
                failure, where = "program", self.events[0][:80]
            elif opened:
                failure, where = "outside", f"{sorted(set(opened))} opened"
            elif small and peak > self.memory:
                failure, where, text = "memory", words, f"{peak:.0f} MB: {text}"
            elif left > 0 and not reader.keeps_open:
                failure, where = "left open", words
            elif accepted and numeric:
                failure, text = "warning", str(numeric[0].message)
                where = f"{Path(numeric[0].filename).name}:{numeric[0].lineno}"
            elif accepted and whole and accepted not in whole:
                failure, where = "wrong", "accepted altered contents"
            elif accepted and _again(reader, path) != accepted:
                failure, where = "wrong", "another result when read again"
        outcome = "accepted" if accepted else "refused"
        times = {"seconds": round(seconds, 3), "peak": round(peak, 1)}
        return {"outcome": outcome, "failure": failure, "where": where, "text": text, **times}


def _again(reader, path):
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(ValueError, OSError):
        return reader.read(path)


def prepare(reader, place):
    """Write the files that the reader needs into the folder, and read the good files, which also
    imports what it needs; returns the digests of the good files."""
    for name, data in reader.beside.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    path, accepted = place / reader.name, set()
    path.parent.mkdir(parents=True, exist_ok=True)
    for data in reader.good:
        path.write_bytes(data)
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(DownloadError):
            accepted.add(reader.read(path))
    return accepted


def clear(path):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)


def main(folder, megabytes):
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    faulthandler.enable()  # a crash's traceback goes to stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outside = Path(folder) / "outside"
    outside.mkdir()
    table, accepted, events = readers.readers(outside), {}, []
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    sys.addaudithook(
        lambda event, args: events.append(f"{event} {args[:2]}") if event in REFUSED else None
    )
    case = Case(Watch(outside), events, float(megabytes))
    for line in sys.stdin:
        name, key = json.loads(line)
        reader, place = table[name], Path(folder) / name
        if name not in accepted:
            accepted[name] = prepare(reader, place)
        path = place / reader.name
        clear(path)
        if isinstance(key, int):
            words = readers.make(name, reader, key, path)
        else:
            shutil.copyfile(key, path)
            words = Path(key).name
        print(json.dumps({"words": words, "path": str(path)}), file=lines)
        result = case.run(reader, path, words, reader.unchanged(words) and accepted[name])
        print(json.dumps(result), file=lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
