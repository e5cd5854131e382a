"""Tables from CSV and Parquet files."""

import csv
import os
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pandas.errors import ParserError, ParserWarning

from accelnn.datasets.reading import DataFile

MAX_COLUMNS = 10_000


class Form(NamedTuple):
    """How a CSV file is written."""

    separator: str = ","
    decimal: str = "."
    header: tuple[str, ...] = ()


def read(path: str | os.PathLike[str], texts: Collection[str] = ()) -> pd.DataFrame:
    """The table in a Parquet file, or in a CSV file with a header line.

    texts : columns whose cells stay as they are written, such as "007"

    The separator of a CSV file (comma, semicolon, tab or |) and a decimal comma are recognised from
    its first lines. Empty cells, ? and what pandas takes for missing (NA, NaN, null, ...) become
    NaN. Raises FileNotFoundError; ValueError if the file is no table in UTF-8, has a column twice
    or more than 10,000.
    """
    path = Path(path)
    DataFile(path, "name a table saved as CSV or Parquet").require()
    if is_parquet(path):
        try:
            frame = pd.read_parquet(path)
        except (ValueError, TypeError, OSError) as error:  # pyarrow's are among them
            raise ValueError(f"{path}: not a whole Parquet file ({first_line(error)})") from error
        return frame.rename(columns=str)
    form = csv_form(path)
    options: dict[str, Any] = {"dtype": {name: str for name in texts if name in form.header}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)
            frame = read_csv(path, form, decimal=form.decimal, na_values=["?"], **options)
    except ParserWarning:
        raise ValueError(f"{path}: line 2 has more cells than the header") from None
    return frame


def read_csv(path: Path, form: Form, **options: Any) -> pd.DataFrame:
    """The cells of a CSV file by `pandas.read_csv`, with errors that name the file."""
    try:
        frame = pd.read_csv(
            path,
            sep=form.separator,
            encoding="utf-8-sig",
            skipinitialspace=True,
            index_col=False,
            low_memory=False,
            **options,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason})") from error
    except (ParserError, csv.Error, OverflowError) as error:
        reason = first_line(error).removeprefix("Error tokenizing data. C error: ")
        raise ValueError(f"{path}: not CSV ({reason})") from error
    return frame.rename(columns=dict(zip(frame.columns, form.header, strict=True)))


def csv_form(path: Path) -> Form:
    """The separator, the decimal mark and the columns of a CSV file; raises as `read`."""
    with path.open("rb") as file:
        start = file.read(1 << 18)
        whole = not file.read(1)
    try:
        sample = (start if whole else start[: start.rfind(b"\n") + 1]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason})") from error
    try:
        parsed = {mark: _rows(sample, mark) for mark in ",;\t|"}
    except csv.Error as error:
        raise ValueError(f"{path}: not CSV ({error})") from error
    separator = max(parsed, key=lambda mark: _regularity(parsed[mark]))
    rows = parsed[separator]
    header = tuple(name.strip() for name in rows[0]) if rows else ()
    if not any(header):
        raise ValueError(f"{path}: expected a header line, got {'an empty' if rows else 'no'} one")
    if len(header) > MAX_COLUMNS:
        raise ValueError(f"{path}: {len(header):,} columns, expected at most {MAX_COLUMNS:,}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"{path}: the column {twice[0]!r} is there twice: rename one")
    cells = [cell.strip() for row in rows[1:] for cell in row]
    commas, points = (
        any(re.fullmatch(rf"[+-]?\d+{mark}\d+", cell) for cell in cells) for mark in (",", r"\.")
    )
    return Form(separator, "," if commas and not points and separator != "," else ".", header)


def _rows(sample: str, separator: str) -> list[list[str]]:
    lines = csv.reader(sample.splitlines(keepends=True), delimiter=separator, skipinitialspace=True)
    return [row for row in lines if row][:200]


def _regularity(rows: list[list[str]]) -> tuple[float, int]:
    """How well a separator fits: the share of the rows as wide as the header, and its width."""
    width = len(rows[0]) if rows else 1
    alike = sum(len(row) == width for row in rows)
    return (alike / len(rows), width) if width > 1 else (0.0, 1)


def is_parquet(path: Path) -> bool:
    """Whether a file begins as all of this format do."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
