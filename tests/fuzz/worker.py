"""The process that reads hostile files: `python -m fuzz.worker READER FOLDER`.

It takes a case a line on standard input, a seed or the path of a file, and writes a line of JSON
before each case and after it. What goes wrong with the process itself, its parent sees.
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

MEMORY = 500  # MB that reading a file below 10 MB may take
LONGEST = 2000  # characters of an error's message
ROOM = 4 << 30  # bytes of address space beside what the process has when it starts
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")
CODE = ("pickle.find_class", "marshal.loads", "ctypes.dlopen", "cpython.run_file")


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
    """Reads one file and finds out what is wrong with how it was read."""

    def __init__(self, reader, watch, events):
        self.reader, self.watch, self.events = reader, watch, events

    def run(self, path, whole):
        """The outcome as a dict; `whole` are the digests that an unchanged reader may give."""
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
                accepted = self.reader.read(path)
            except AssertionError as error:
                failure, where, text = "wrong", str(error)[:80], traceback.format_exc()
            except (ValueError, OSError, self.reader.raises) as error:
                text = f"{type(error).__name__}: {error}"
                if len(text) > LONGEST:
                    failure, where = "long message", last_frame(error)
            except Exception as error:
                failure = f"error {type(error).__name__}"
                where, text = last_frame(error), traceback.format_exc()
        seconds, peak = time.monotonic() - began, memory("VmHWM") - before
        left = len(os.listdir("/proc/self/fd")) - descriptors
        found = self.watch.opened()
        odd = [w for w in warned if issubclass(w.category, RuntimeWarning)]
        if failure is None:
            if self.events:
                failure, where = "program", self.events[0]
            elif found:
                failure, where = "outside", f"{sorted(set(found))} opened"
            elif small and peak > MEMORY:
                failure, where = "memory", text[:60]
                text = f"{peak:.0f} MB: {text}"
            elif left > 0 and seconds < 1:
                failure, where = "left open", text[:60]
            elif odd:
                failure, text = "warning", str(odd[0].message)
                where = f"{Path(odd[0].filename).name}:{odd[0].lineno}"
            elif accepted is not None and whole is not None and accepted not in whole:
                failure, where = "wrong", "accepted altered contents"
            elif accepted is not None and self.again(path) != accepted:
                failure, where = "wrong", "another result when read again"
        outcome = "accepted" if accepted is not None else "refused"
        times = {"seconds": round(seconds, 3), "peak": round(peak, 1)}
        return {"outcome": outcome, "failure": failure, "where": where, "text": text, **times}

    def again(self, path):
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(ValueError, OSError):
            return self.reader.read(path)


def main(name, folder):
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    faulthandler.enable()  # a crash's traceback goes to stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from accelnn.datasets.download import DownloadError

    from . import readers

    folder = Path(folder)
    outside, place = folder / "outside", folder / "case"
    outside.mkdir(parents=True, exist_ok=True)
    reader = readers.readers(outside)[name]
    path = place / reader.name
    for file, data in reader.beside.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(data)
    accepted = set()
    for data in reader.good:  # which also imports everything
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(DownloadError):
            accepted.add(reader.read(path))
    events = []
    sys.addaudithook(
        lambda event, args: events.append(f"{event} {args[:2]}") if event in PROGRAMS + CODE else 0
    )
    case = Case(reader, Watch(outside), events)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    print(json.dumps({"ready": True}), file=lines)
    for line in sys.stdin:
        key = json.loads(line)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(key, int):
            words = readers.make(name, reader, key, path)
        else:
            shutil.copyfile(key, path)
            words = Path(key).name
        print(json.dumps({"case": key, "words": words, "path": str(path)}), file=lines)
        must_equal = reader.unchanged and not words.startswith(("attribute", "signed"))
        result = case.run(path, accepted if must_equal else None)
        print(json.dumps(result), file=lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
