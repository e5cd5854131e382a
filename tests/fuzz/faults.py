"""Faults while commands run: signals, full disks, limits, odd environments, closed outputs.

A case draws a command, a fault and a moment from its seed. An output file must be whole or the old
one afterwards, the status a documented one, and no traceback printed.
"""

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import accelnn

from . import hdf5_files, picture_files, text_files

OLD = b"an old file"
LIMIT = 120  # seconds for a command
ENDED = (0, 1, 2)
INTERRUPTED = (130, -signal.SIGINT)  # the second before Python and its handler are ready
TERMINATED = (143, -signal.SIGTERM)


def is_json(path):
    json.loads(path.read_text(encoding="utf-8"))


def is_picture(path):
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


def is_svg(path):
    assert path.read_bytes().rstrip().endswith(b"</svg>")


# Arguments, and checks of the files to write by name. The folder has model.h5, picture.png and
# report.json to read.
TRAIN = ["train", "planar", "--epochs", "300"]
COMMANDS = {
    "train": ([*TRAIN, "--save", "new.h5", "--json", "new.json"], ("new.h5", "new.json")),
    "train --plot": ([*TRAIN, "--plot", "new.png", "--save", "new.h5"], ("new.png", "new.h5")),
    "train --json -": ([*TRAIN, "--json", "-", "--save", "new.h5"], ("new.h5",)),
    "predict": (["predict", "model.h5", "picture.png", "--json", "new.json"], ("new.json",)),
    "bench": (
        ["bench", "ops", "--quick", "--case", "dot", "--size", "1000", "--json", "new.json"],
        ("new.json",),
    ),
    "bench report": (["bench", "report", "report.json", "--markdown"], ()),
    "bench chart": (
        ["bench", "report", "report.json", "--chart", "new.svg", "--case", "cat-2layer"],
        ("new.svg",),
    ),
    "info": (["info"], ()),
    "warm-up": (["warm-up"], ()),
    "help": (["--help"], ()),
    "data": (["data", "download", "football", "--folder", "."], ()),
}
CHECKS = {".h5": accelnn.load, ".json": is_json, ".png": is_picture, ".svg": is_svg}


@dataclass
class Fault:
    """What goes wrong.

    statuses : that the command may end with
    complete : whether the files must be written nevertheless
    kill : a signal for a moment that the seed draws
    before : called in the new process; the number is drawn by the seed, in [0, 1)
    """

    statuses: Sequence[int] = ENDED
    complete: bool = False
    kill: int | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    before: Callable[[float], None] = lambda drawn: None


def limit_files(drawn):
    size = int(10 ** (1 + 4 * drawn))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def closed_pipe(*streams):
    def before(drawn):
        reader, writer = os.pipe()
        os.close(reader)
        for stream in streams:
            os.dup2(writer, stream)

    return before


def closed(*streams):
    def before(drawn):
        for stream in streams:
            os.close(stream)

    return before


def full(drawn):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


PIPE = (*ENDED, 141, -signal.SIGPIPE)
FAULTS = {
    "none": Fault(complete=True),
    "SIGKILL": Fault((*ENDED, -signal.SIGKILL), kill=signal.SIGKILL),
    "SIGINT": Fault((*ENDED, *INTERRUPTED), kill=signal.SIGINT),
    "SIGTERM": Fault((*ENDED, *TERMINATED), kill=signal.SIGTERM),
    "SIGHUP": Fault((*ENDED, 129, -signal.SIGHUP), kill=signal.SIGHUP),
    "full disk": Fault(),
    "small files only": Fault(before=limit_files),
    "no HOME": Fault(complete=True, environment={"HOME": None}),
    "HOME is no folder": Fault(complete=True, environment={"HOME": "/nowhere/at/all"}),
    "HOME cannot be written": Fault(complete=True, environment={"HOME": "/proc"}),
    "C locale": Fault(complete=True, environment={"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "latin1": Fault(complete=True, environment={"PYTHONIOENCODING": "latin1"}),
    "40 columns": Fault(complete=True, environment={"COLUMNS": "40"}),
    "no columns": Fault(complete=True, environment={"COLUMNS": "0"}),
    "no TERM": Fault(complete=True, environment={"TERM": None}),
    "no terminal": Fault(complete=True, before=lambda drawn: os.setsid()),
    "closed stdin": Fault(complete=True, before=closed(0)),
    "closed stdout": Fault(PIPE, True, before=closed(1)),
    "closed stderr": Fault(complete=True, before=closed(2)),
    "all closed": Fault(PIPE, True, before=closed(0, 1, 2)),
    "broken pipe": Fault(PIPE, True, before=closed_pipe(1)),
    "broken pipes": Fault(PIPE, True, before=closed_pipe(1, 2)),
    "full stdout": Fault(complete=True, before=full),
    "narrow terminal": Fault(complete=True),
}
SIGNALS = [name for name, fault in FAULTS.items() if fault.kill]
LONGEST: dict[str, float] = {}  # seconds that a command took without a fault, this time


def run(seed, scratch):
    """What was done, in words, and the result."""
    rng = np.random.default_rng([1, seed])
    names = list(COMMANDS)
    name = names[rng.integers(len(names))]
    table = SIGNALS if rng.random() < 0.5 else list(FAULTS)
    fault = table[rng.integers(len(table))]
    drawn = rng.random()
    words = f"{name}: {fault}"
    if name not in LONGEST:
        LONGEST[name] = 10.0
        began = time.monotonic()
        _run(name, "none", 0.0, scratch)
        LONGEST[name] = time.monotonic() - began
    began = time.monotonic()
    failure, text = _run(name, fault, drawn, scratch)
    seconds = time.monotonic() - began
    if failure:
        text = f"{failure} at {drawn * LONGEST[name]:.3f} s\n{text}"
    result = {"outcome": "accepted", "failure": failure, "where": words, "text": text}
    return {"words": words, "path": ""}, result | {"seconds": seconds, "peak": 0.0}


def _run(name, fault, drawn, scratch):
    """What is wrong, or None, and what was printed."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    mounted = fault == "full disk" and _mount(folder)
    try:
        if fault == "full disk" and not mounted:
            return None, "a full disk needs the right to mount one"
        return _run_in(folder, name, fault, drawn)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(folder):
    if os.geteuid() or not shutil.which("mount"):
        return False
    size = "size=200k"
    command = ["mount", "-t", "tmpfs", "-o", size, "accelnn-fuzz", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _run_in(folder, name, fault, drawn):
    arguments, outputs = COMMANDS[name]
    inputs = _inputs(folder, outputs)
    before = FAULTS[fault]
    if fault == "full disk":
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
        (folder / "filler").write_bytes(bytes(int(free * drawn) if drawn < 0.7 else free))
        inputs.add("filler")
    changed = {"PYTHONPATH": None, "ACCELNN_DATA": None} | before.environment
    environment = {k: v for k, v in (os.environ | changed).items() if v is not None}
    printed = tempfile.TemporaryFile()  # noqa: SIM115
    own = {"stdin": subprocess.DEVNULL, "stdout": printed, "stderr": printed}
    if fault == "narrow terminal":
        return _in_terminal(folder, _command(arguments), environment, outputs, inputs)
    process = subprocess.Popen(
        _command(arguments),
        cwd=folder,
        env=environment,
        preexec_fn=lambda: before.before(drawn),
        **own,
    )
    try:
        if before.kill:
            try:
                process.wait(drawn * 1.1 * LONGEST[name])
            except subprocess.TimeoutExpired:
                process.send_signal(before.kill)
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "hang", ""
    printed.seek(0)
    with printed:
        text = printed.read().decode(errors="replace")
    stray = fault in ("SIGKILL", "SIGTERM", "SIGHUP")
    wrong = _wrong(folder, outputs, inputs, before, process.returncode, text, stray)
    return wrong, text


def _in_terminal(folder, command, environment, outputs, inputs):
    """Runs in a terminal of 40 columns."""
    import fcntl
    import struct
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    environment = environment | {"TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    text = b""
    try:
        while more := os.read(main, 65536):
            text += more
    except OSError:
        pass  # the end, on Linux
    os.close(main)
    fault = FAULTS["narrow terminal"]
    text = text.decode(errors="replace")
    return _wrong(folder, outputs, inputs, fault, process.wait(LIMIT), text, False), text


def _inputs(folder, outputs):
    """Write the files that commands read, and old outputs; returns the names."""
    shape = accelnn.datasets.Preprocessing((2, 2, 3), scale=255.0)
    model = hdf5_files.model(preprocessing=shape, classes=("größer", "cat"))
    accelnn.save(model, folder / "model.h5")
    (folder / "picture.png").write_bytes(picture_files.good()[0])
    (folder / "report.json").write_bytes(text_files.good_report())
    for name in outputs:
        (folder / name).write_bytes(OLD)
    return {file.name for file in folder.iterdir()}


def _command(arguments):
    if arguments[0] != "data":
        return [sys.executable, "-m", "accelnn", *arguments]
    from . import server

    code = "import sys; from accelnn.datasets import download; download.BASE = sys.argv[1]\n"
    code += "from accelnn.__main__ import main; sys.exit(main(sys.argv[2:]))"
    return [sys.executable, "-c", code, server.address(text_files.good_answers()[0]), *arguments]


def _wrong(folder, outputs, inputs, fault, status, text, may_stray):
    """What is wrong after the command, or None."""
    allowed = fault.statuses
    if status not in allowed:
        return f"status {status}"
    for sign in ("Traceback", "Exception ignored", "Fatal Python", "core dumped"):
        if sign in text:
            return f"printed {sign}"
    for name in outputs:
        path = folder / name
        if not path.exists():
            return f"{name} is gone"
        if path.read_bytes() == OLD:
            if fault.complete:
                return f"{name} was not written"
            continue
        try:
            CHECKS[path.suffix](path)
        except Exception as error:
            return f"{name} is not whole ({type(error).__name__})"
    left = {file.name for file in folder.iterdir()} - inputs
    if left and not may_stray:
        return "left files behind"
    return None
