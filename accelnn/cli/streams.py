"""The standard streams of the commands: nothing that happens to them ends a command."""

import errno
import io
import os
import sys
from typing import Any


class Output(io.FileIO):
    """Standard output or error, which keeps its first error and then drops what is written: a full
    disk or a closed pipe ends no command before its work is done."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)


def prepare() -> Output:
    """Make the standard streams safe; returns standard output."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - no other file may get its number
    out, _ = _opened("stdout"), _opened("stderr")
    return out


def _opened(name: str) -> Output:
    """Put an Output in the place of sys.stdout or sys.stderr, in which a character that the
    encoding lacks becomes a question mark."""
    given = getattr(sys, name)
    options: dict[str, Any] = {"encoding": "utf-8"}
    if given is None:  # it is closed: the null device takes its number
        raw = Output(os.devnull, "w")
        raw.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
    else:
        raw = Output(given.fileno(), "w", closefd=False)
        names = ("encoding", "line_buffering", "write_through")
        options = {option: getattr(given, option) for option in names}
    buffer: Any = raw if options.get("write_through") else io.BufferedWriter(raw)  # as python -u
    setattr(sys, name, io.TextIOWrapper(buffer, errors="replace", **options))
    return raw
