"""The console of every command, rich in a terminal and plain in a pipe, and its JSON."""

import io
import json
import math
import os
import re
import sys
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 1000  # of output to a pipe or file, so that no line is broken


class _WithoutTrailingBlanks:
    """A file that writes lines without the blanks that pad rich's tables at their right."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(re.sub(" +\n", "\n", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def console(file: IO[str]) -> Console:
    """A console that prints text as it is. In a pipe it breaks no lines, unless COLUMNS gives a
    width, and a character that the encoding lacks becomes a question mark."""
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(errors="replace")
    if file.isatty():
        return Console(file=file, markup=False, highlight=False)
    columns = os.environ.get("COLUMNS", "")
    plain: Any = _WithoutTrailingBlanks(file)
    width = int(columns) if columns.isdecimal() else PIPE_WIDTH
    return Console(file=plain, markup=False, highlight=False, no_color=True, width=width)


def names_and_texts() -> Table:
    """An empty table of names and a text for each."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Replaces `warnings.showwarning`: one line, without the source."""
    print(f"warning: {message}", file=sys.stderr)


def as_json(content: Any) -> str:
    """`content` as indented JSON, with null for every number that is not finite."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
