"""What the columns of a table are: numbers, texts or dates, and the target."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from accelnn.backend import Array

MOST_CLASSES = 20  # of a target of integers; with more different ones it is a measurement


@dataclass(frozen=True, eq=False)
class Table:
    """A table that has been examined: what is learned from what.

    X : the rows with a target, all columns but the target's, as they were read
    y : the target of the same rows: numbers for a regression, else numbers or texts
    target, task : the target's name; "classification" | "regression"
    kinds : "number" | "text" | "date" of each column to learn from
    notes : sentences on rows and columns that are left out
    """

    X: pd.DataFrame
    y: Array
    target: str
    task: str
    kinds: dict[str, str]
    notes: tuple[str, ...] = ()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes' names in the order of `np.unique(y)`; none for a regression."""
        return () if self.task == "regression" else tuple(map(str, np.unique(self.y).tolist()))

    def __str__(self) -> str:
        """What was decided, in a line."""
        kinds = list(self.kinds.values())
        counts = ", ".join(_counted(kinds.count(kind), kind) for kind in KINDS if kind in kinds)
        what = f"has {len(self.classes)} classes" if self.classes else "is a number"
        rows = _counted(len(self.y), "row")
        return f"{self.task}: {self.target!r} {what}; {rows} of {counts}"


def examine(frame: pd.DataFrame, target: str, task: str | None = None) -> Table:
    """Decide what the columns of a table are, and whether its target is a class or a number.

    frame : with names as columns, as `read` returns it
    target : the column to predict
    task : "classification" | "regression"; by default texts, truth values and at most 20 different
        integers, three rows for each or more, are classes, other numbers are values

    Columns of ISO dates (2024-05-31) become days since 1970. Columns that cannot carry anything are
    left out, with a note: empty, constant, counting the rows, or with a different text in nearly
    every row; and so are rows without a target. Raises ValueError if the target is missing or does
    not suit the task, nothing is left to learn from, or a column is to be written in another way.
    """
    if target not in frame.columns:
        columns = ", ".join(map(repr, frame.columns))[:500]
        raise ValueError(f"expected the target {target!r} among the columns, got {columns}")
    frame = frame.reset_index(drop=True)
    known = frame[target].notna()
    notes = []
    if not known.any():
        raise ValueError(f"expected rows with a target {target!r}, got none")
    if not known.all():
        notes.append(f"{_counted((~known).sum(), 'row')} without {target!r} left out")
        frame = frame[known]
    y, task = _target(frame[target], task)
    kinds: dict[str, str] = {}
    said: dict[str, list[str]] = {}  # names of columns by what is said of them
    for name in frame.columns.drop(target):
        kind, reason = _kind(frame[name])
        if reason:
            said.setdefault(f"left out, {reason}", []).append(repr(name))
            continue
        kinds[name] = kind
        if kind == "text" and (cell := _no_number(frame[name].dropna())):
            as_texts = said.setdefault("taken as texts, though most cells are numbers", [])
            as_texts.append(f"{name!r} (not {cell[:50]!r})")
    for what, names in said.items():
        more = f" and {len(names) - 5} more" if len(names) > 6 else ""
        notes.append(f"{what}: {', '.join(names[: 5 if more else None])}{more}")
    if not kinds:
        got = "; ".join(notes)[:500] or f"only {target!r}"
        raise ValueError(f"expected a column to learn from, got {got}")
    return Table(frame.drop(columns=target), y, target, task, kinds, tuple(notes))


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _target(cells: pd.Series, task: str | None) -> tuple[Array, str]:
    """The target's values and the task."""
    name, different = cells.name, cells.nunique()
    numeric = pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells)
    if _kind(cells)[0] == "date":
        raise ValueError(f"the target {name!r} is a date: expected numbers or classes")
    y = _number(cells) if numeric else _text(cells).to_numpy(object)
    integers = numeric and bool((y == np.floor(y)).all())
    few = different == 2 or (different <= MOST_CLASSES and 3 * different <= len(y))
    if task is None:
        task = "classification" if not numeric or (integers and few) else "regression"
    if task == "regression":
        if not numeric:
            raise ValueError(f"a regression needs numbers, and {name!r} has texts: {y[0]!r:.50}")
        if different == 1:
            raise ValueError(f"a regression needs different values, and {name!r} has only {y[0]:g}")
        return y, task
    if different > max(10, len(y) // 2):
        found = f"{name!r} has {different:,} different values in {_counted(len(y), 'row')}"
        raise ValueError(f"classes need several rows each, and {found}")
    return (y.astype(np.int64) if integers else y), task


# What is read in two ways, and how to write it so that there is only one
_DATE = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?"
_AMBIGUOUS = {
    r"\d{1,2}([./-])\d{1,2}\1(\d{4}|\d\d)( .*)?": "dates: write them as 2024-05-31",
    r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?|[+-]?\d{1,3}(\.\d{3})+,\d*": "numbers with thousands "
    "separators: write them without",
}


def _kind(cells: pd.Series) -> tuple[str, str]:
    """The kind of a column, and why it cannot carry anything, as a noun; "" if it can."""
    known = cells.dropna()
    if not len(known):
        return "", "empty"
    if pd.api.types.is_bool_dtype(cells):
        kind = "text"
    elif pd.api.types.is_numeric_dtype(cells):
        kind = "number"
    elif pd.api.types.is_datetime64_any_dtype(cells) or pd.api.types.is_timedelta64_dtype(cells):
        kind = "date"
    else:
        kind = _kind_of_objects(known)
    whole = len(known) == len(cells)  # else there is something in what is missing
    texts = known.astype(str) if kind == "text" else known
    if whole and texts.nunique() == 1:
        return kind, "constant"
    if kind == "number" and whole and len(cells) >= 10:
        shift = np.unique(cells.to_numpy(float) - cells.index)
        if len(shift) == 1 and shift[0] in (0, 1):
            return kind, "a count of the rows"
    if kind == "text" and len(known) >= 10:
        once = int((texts.value_counts() == 1).sum())
        if once > 0.9 * len(known):
            return kind, "another text in nearly every row"
    return kind, ""


def _no_number(known: pd.Series) -> str:
    """The first text that is no number in a column where most are; else ""."""
    wrong = pd.to_numeric(known.astype(str), errors="coerce").isna()
    return str(known[wrong].iloc[0]) if 0 < wrong.mean() < 0.5 else ""


def _kind_of_objects(known: pd.Series) -> str:
    scalars = known.map(lambda cell: isinstance(cell, str | bool | np.bool_))
    if not scalars.all():
        numbers = pd.to_numeric(known, errors="coerce")  # such as decimal.Decimal
        if not (~scalars).all() or numbers.isna().any():
            cell = known[~scalars].iloc[0]
            found = f"{type(cell).__name__} such as {str(cell)[:50]}"
            raise ValueError(f"column {known.name!r} has {found}: expected numbers or texts")
        return "number"
    texts = known.astype(str)
    if texts.str.fullmatch(_DATE).all():
        return "date"
    for pattern, remedy in _AMBIGUOUS.items():
        if texts.str.fullmatch(pattern).all():
            raise ValueError(f"column {known.name!r} has {texts.iloc[0]!r}: {remedy}")
    return "text"


def _number(cells: pd.Series) -> Array:
    try:
        numbers = pd.to_numeric(cells).to_numpy(float, na_value=np.nan)
    except (ValueError, TypeError):
        wrong = cells[pd.to_numeric(cells, errors="coerce").isna() & cells.notna()].iloc[0]
        raise _unexpected(cells, "numbers", wrong) from None
    large = np.abs(numbers) >= 1e100  # their squares overflow
    if large.any():
        raise _unexpected(cells, "finite numbers", numbers[large][0])
    return numbers


def _date(cells: pd.Series) -> pd.Series:
    """Days since 1970."""
    if pd.api.types.is_timedelta64_dtype(cells):
        return cells / pd.Timedelta(days=1)
    times = pd.to_datetime(cells, utc=True, format="ISO8601", errors="coerce")
    wrong = cells[times.isna() & cells.notna()]
    if len(wrong):
        raise _unexpected(cells, "dates such as 2024-05-31", wrong.iloc[0])
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)


def _text(cells: pd.Series) -> pd.Series:
    """Texts and NaN as objects."""
    texts = cells.astype(object)
    return texts.map(str, na_action="ignore").astype(object).where(cells.notna(), np.nan)


def _unexpected(cells: pd.Series, expected: str, found: object) -> ValueError:
    return ValueError(f"column {cells.name!r}: expected {expected}, got {str(found)[:50]!r}")


KINDS = {"number": _number, "text": _text, "date": _date}


class Columns(TransformerMixin, BaseEstimator):
    """Takes the columns that a model knows out of a table: numbers and dates as float, texts as
    objects, NaN for what is missing. It learns nothing from the rows.

    kinds : of the columns, as `Table.kinds`
    ignored : other columns of the training data, the target first
    source : where the training data came from

    Raises ValueError if columns are missing, or have other contents than expected.
    """

    def __init__(
        self, kinds: dict[str, str], ignored: Collection[str] = (), source: str = ""
    ) -> None:
        self.kinds, self.ignored, self.source = kinds, ignored, source

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: pd.DataFrame, y: Array = None) -> Self:  # noqa: ARG002 - scikit-learn's form
        self._check(X)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        self._check(X)
        found = {name: KINDS[kind](X[name]) for name, kind in self.kinds.items()}
        return pd.DataFrame(found, index=X.index)

    def _check(self, X: pd.DataFrame) -> None:
        if missing := [repr(name) for name in self.kinds if name not in X]:
            known = ", ".join(map(repr, X.columns))[:500]
            raise ValueError(f"missing columns {', '.join(missing)[:500]}: the table has {known}")

    def get_feature_names_out(self, names: Any = None) -> Array:  # noqa: ARG002
        return np.array([*self.kinds], object)
