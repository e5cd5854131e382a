"""The console of every command, rich in a terminal and plain in a pipe, and its JSON."""

import argparse
import json
import math
import os
import re
import sys
from typing import IO, Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 1000  # of output to a pipe or file, so that no line is broken

# Characters that a terminal obeys: controls, line and paragraph separators, and those that turn
# the direction of writing; and halves of surrogate pairs, which no encoding has
_OBEYED = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """`text` as one line, with a ? for each character that a terminal would obey."""
    return _OBEYED.sub("?", str(text))


class _Printable(Console):
    """A console that prints text as it is, except for control characters."""

    def __init__(self, file: IO[str], **options: Any) -> None:
        super().__init__(file=file, markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


class Parser(argparse.ArgumentParser):
    """The parser of a command's arguments."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


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
    width."""
    if file.isatty():
        return _Printable(file)
    columns = os.environ.get("COLUMNS", "")
    plain: Any = _WithoutTrailingBlanks(file)
    width = int(columns) if columns.isdecimal() else PIPE_WIDTH
    return _Printable(plain, no_color=True, width=width)


def names_and_texts() -> Table:
    """An empty table of names and a text for each."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Replaces `warnings.showwarning`: one line, without the source."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def show_error(error: object) -> None:
    """Print one line on standard error."""
    print(f"error: {printable(error)}", file=sys.stderr)


def as_json(content: Any) -> str:
    """`content` as indented JSON, with null for every number that is not finite."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
