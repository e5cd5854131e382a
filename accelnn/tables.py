"""Tables of numbers, texts and dates, from a file to a trained model, on pandas and scikit-learn.

    table = tables.examine(tables.read("wine.csv"), target="cultivar")
    model = tables.pipeline(table).fit(table.X, table.y)
    tables.save(model, "wine.skops")

Rows are examples here, as in pandas and scikit-learn. The package needs its extra `tables`.
"""

import copy
import csv
import os
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from accelnn.backend import Array, to_device, to_host
from accelnn.datasets.dataset import Dataset, DType, on_backend
from accelnn.datasets.own import check_split, split
from accelnn.datasets.reading import DataFile
from accelnn.files import check_writable, write_whole
from accelnn.install import install_command
from accelnn.models import Model
from accelnn.network import Network, Parameters
from accelnn.recipes import Recipe, own_recipe

try:
    import pandas as pd
    import skops.io
    from pandas.errors import ParserError, ParserWarning
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
    from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    remedy = install_command("tables")
    raise ModuleNotFoundError(f"tables need {error.name}, not installed: {remedy}") from None

MAX_COLUMNS = 10_000
MAX_CATEGORIES = 100  # of one column of texts; the rarest are taken together
MOST_CLASSES = 20  # of a target of integers; with more different ones it is a measurement

# --------------------------------------------------------------------------------------------
# files


class Form(NamedTuple):
    """How a CSV file is written."""

    separator: str = ","
    decimal: str = "."
    header: tuple[str, ...] = ()


def read(path: str | os.PathLike[str], texts: Collection[str] = ()) -> "pd.DataFrame":
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
            raise ValueError(f"{path}: not a whole Parquet file ({_first_line(error)})") from error
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


def read_csv(path: Path, form: Form, **options: Any) -> "pd.DataFrame":
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
        reason = _first_line(error).removeprefix("Error tokenizing data. C error: ")
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# --------------------------------------------------------------------------------------------
# what the columns are


@dataclass(frozen=True, eq=False)
class Table:
    """A table that has been examined: what is learned from what.

    X : the rows with a target, all columns but the target's, as they were read
    y : the target of the same rows: numbers for a regression, else numbers or texts
    target, task : the target's name; "classification" | "regression"
    kinds : "number" | "text" | "date" of each column to learn from
    notes : sentences on rows and columns that are left out
    """

    X: "pd.DataFrame"
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
        what = f"{len(self.classes)} classes" if self.classes else "a number"
        rows = _counted(len(self.y), "row")
        return f"{self.task}: {self.target!r} is {what}; {rows} of {counts}"


def examine(frame: "pd.DataFrame", target: str, task: str | None = None) -> Table:
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
    kinds, useless = {}, {}
    for name in frame.columns.drop(target):
        kind, reason = _kind(frame[name])
        if kind == "text" and (cell := _no_number(frame[name].dropna())):
            notes.append(f"column {name!r} is of texts: most are numbers, but not {cell[:50]!r}")
        if reason:
            useless[name] = reason
        else:
            kinds[name] = kind
    notes += [f"column {name!r} left out: it {reason}" for name, reason in useless.items()]
    if not kinds:
        got = "; ".join(notes) or f"only {target!r}"
        raise ValueError(f"expected a column to learn from, got {got}")
    return Table(frame.drop(columns=target), y, target, task, kinds, tuple(notes))


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _target(cells: "pd.Series", task: str | None) -> tuple[Array, str]:
    """The target's values and the task."""
    name, different = cells.name, cells.nunique()
    numeric = pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells)
    if _kind(cells)[0] == "date":
        raise ValueError(f"the target {name!r} is a date: expected numbers or classes")
    y = _number(cells).to_numpy() if numeric else _text(cells).to_numpy(object)
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


def _kind(cells: "pd.Series") -> tuple[str, str]:
    """The kind of a column, and why it cannot carry anything, or "" if it can."""
    known = cells.dropna()
    if not len(known):
        return "", "is empty"
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
        return kind, f"is always {str(known.iloc[0])[:50]}"
    if kind == "number" and whole and len(cells) >= 10:
        shift = np.unique(cells.to_numpy(float) - cells.index)
        if len(shift) == 1 and shift[0] in (0, 1):
            return kind, "counts the rows"
    if kind == "text" and len(known) >= 10:
        once = int((texts.value_counts() == 1).sum())
        if once > 0.9 * len(known):
            return kind, "has a different text in nearly every row"
    return kind, ""


def _no_number(known: "pd.Series") -> str:
    """The first text that is no number in a column where most are; else ""."""
    wrong = pd.to_numeric(known.astype(str), errors="coerce").isna()
    return str(known[wrong].iloc[0]) if 0 < wrong.mean() < 0.5 else ""


def _kind_of_objects(known: "pd.Series") -> str:
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


def _number(cells: "pd.Series") -> "pd.Series":
    try:
        numbers = pd.to_numeric(cells).astype("Float64").astype(float)
    except (ValueError, TypeError):
        wrong = cells[pd.to_numeric(cells, errors="coerce").isna() & cells.notna()].iloc[0]
        raise _unexpected(cells, "numbers", wrong) from None
    large = numbers[numbers.abs() >= 1e100]  # their squares overflow
    if len(large):
        raise _unexpected(cells, "finite numbers", large.iloc[0])
    return numbers


def _date(cells: "pd.Series") -> "pd.Series":
    """Days since 1970."""
    if pd.api.types.is_timedelta64_dtype(cells):
        return cells / pd.Timedelta(days=1)
    times = pd.to_datetime(cells, utc=True, format="ISO8601", errors="coerce")
    wrong = cells[times.isna() & cells.notna()]
    if len(wrong):
        raise _unexpected(cells, "dates such as 2024-05-31", wrong.iloc[0])
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)


def _text(cells: "pd.Series") -> "pd.Series":
    """Texts and NaN as objects."""
    texts = cells.astype(object)
    return texts.map(str, na_action="ignore").astype(object).where(cells.notna(), np.nan)


def _unexpected(cells: "pd.Series", expected: str, found: object) -> ValueError:
    return ValueError(f"column {cells.name!r}: expected {expected}, got {str(found)[:50]!r}")


KINDS = {"number": _number, "text": _text, "date": _date}


# --------------------------------------------------------------------------------------------
# from columns to a trained net


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

    def fit(self, X: "pd.DataFrame", y: Array = None) -> Self:  # noqa: ARG002 - scikit-learn's form
        self.transform(X)
        return self

    def transform(self, X: "pd.DataFrame") -> "pd.DataFrame":
        if missing := [repr(name) for name in self.kinds if name not in X]:
            known = ", ".join(map(repr, X.columns))[:500]
            raise ValueError(f"missing columns {', '.join(missing)}: the table has {known}")
        return pd.DataFrame({name: KINDS[kind](X[name]) for name, kind in self.kinds.items()})

    def get_feature_names_out(self, names: Any = None) -> Array:  # noqa: ARG002
        return np.array([*self.kinds], object)


def preparation(table: Table, source: str = "") -> "Pipeline":
    """The unfitted transformer from the columns of a table to numbers (m, n_features).

    Numbers and dates are standardised; what is missing becomes the median, with a feature that says
    so. Texts become a feature for each that occurs, missing ones too, at most 100 a column; a text
    that is new at prediction counts with the rare ones.
    """
    of = {kind: [n for n, k in table.kinds.items() if (k == "text") == kind] for kind in (0, 1)}
    fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False
    )
    steps = ("numbers", make_pipeline(fill, StandardScaler()), of[0]), ("texts", one_hot, of[1])
    features = ColumnTransformer([step for step in steps if step[2]])
    ignored = [table.target, *(name for name in table.X if name not in table.kinds)]
    columns = Columns(table.kinds, ignored, source)
    return Pipeline([("columns", columns), ("features", features)])


def pipeline(table: Table, net: Any = None, source: str = "") -> "Pipeline":
    """An unfitted model of a table, a Pipeline of scikit-learn for `fit(table.X, table.y)`.

    net : the estimator, such as accelnn.sklearn.MLPClassifier(alpha=1); by default that of
        `accelnn train`, NetClassifier() or NetRegressor(). The target of a regression is
        standardised for it
    source : where the data comes from, in a line, to keep with the model
    """
    regression = table.task == "regression"
    if net is None:
        net = NetRegressor() if regression else NetClassifier()
    elif regression and not isinstance(net, NetRegressor):
        net = TransformedTargetRegressor(net, transformer=StandardScaler())
    return Pipeline([*preparation(table, source).steps, ("net", net)])


class _Net(BaseEstimator):
    """A net that `own_recipe` chooses and trains, stopped by the cost of a validation set."""

    def __init__(
        self,
        recipe: Callable[[Dataset], Recipe] | None = None,
        validation: float = 0.15,
        dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        self.recipe, self.validation, self.dtype, self.seed = recipe, validation, dtype, seed

    def _train(self, X: Array, targets: Array, labels: Array, classes: tuple[str, ...]) -> None:
        train, watched, _ = split(labels, self.validation, 0, self.seed)
        watch = (X[watched], targets[watched]) if len(watched) else ()
        data = on_backend(
            (X[train], targets[train]), (X[:0], targets[:0]), classes, "", self.dtype,
            validation=watch,
        )  # fmt: skip
        recipe = (self.recipe or own_recipe)(data)
        params, history = recipe.train(data, self.dtype)
        self.keep(recipe.net, params)
        self.history_ = history

    def keep(self, net: Network, params: Parameters) -> Self:
        """Take over a trained net."""
        self.layers_, self.hidden_, self.output_ = net.layers, net.hidden, net.output
        self.weights_ = to_host(params.flat)
        self.n_features_in_ = net.layers[0]
        return self

    def _model(self) -> Model:
        check_is_fitted(self, "weights_")
        net = Network(self.layers_, hidden=self.hidden_, output=self.output_)
        return Model(net, Parameters(to_device(self.weights_), net.layers))

    def _rows(self, X: Array) -> Array:
        check_is_fitted(self, "weights_")
        return validate_data(self, X, reset=False)


class NetClassifier(ClassifierMixin, _Net):
    """The classifier of `accelnn train` for tables, as an estimator of scikit-learn.

    recipe : a function from the Dataset to the Recipe that trains it; by default
        `accelnn.recipes.own_recipe`, as in `lambda data: own_recipe(data, (50,)).changed(l2=1)`
    validation : share of each class to watch and not to learn from, in [0, 1)
    dtype : of the parameters; by default the backend's
    seed : of the validation set; that of the weights is the recipe's

    Fitted, it has classes_ and history_, the training's `accelnn.History`.
    """

    def fit(self, X: Array, y: Array) -> Self:
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected more than one class, got only {self.classes_[0]}")
        self._train(X, labels, labels, tuple(map(str, self.classes_)))
        return self

    def predict_proba(self, X: Array) -> Array:
        """The probability of each class, (m, n_classes) on the host."""
        return self._model().probabilities(self._rows(X))

    def predict(self, X: Array) -> Array:
        """The class of each row, (m,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]


class NetRegressor(RegressorMixin, _Net):
    """The same for a regression: a net with a linear output, trained on the standardised target.

    Fitted, it has history_, whose costs are of the standardised target, target_mean_ and
    target_scale_.
    """

    def fit(self, X: Array, y: Array) -> Self:
        X, y = validate_data(self, X, y, y_numeric=True)
        self.target_mean_, self.target_scale_ = y.mean(), y.std() or 1.0
        values = (y - self.target_mean_) / self.target_scale_
        self._train(X, values, np.zeros(len(y), int), ())
        return self

    def predict(self, X: Array) -> Array:
        """The value of each row, (m,)."""
        outputs = self._model().predict(self._rows(X))[:, 0]
        return outputs * self.target_scale_ + self.target_mean_


# --------------------------------------------------------------------------------------------
# the same, split into three sets, for `accelnn train`


def dataset(
    table: Table,
    prepare: "Pipeline",
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DType = None,
) -> tuple[Dataset, Any]:
    """The Dataset of a table, split as the other loaders do; `prepare` (see `preparation`) is
    fitted to its training set.

    Returns the Dataset, without classes and with the target standardised for a regression, and the
    estimator that holds that standardisation or the classes, without weights. Raises ValueError if
    a class has too few rows, or a share is out of range.
    """
    source = prepare[0].source
    if table.classes:
        estimator: Any = NetClassifier()
        estimator.classes_, targets = np.unique(table.y, return_inverse=True)
        labels = targets
        check_split(source, labels, table.classes, validation, test)
    else:
        estimator, labels = NetRegressor(), np.zeros(len(table.y), int)
    train, watched, tested = split(labels, validation, test, seed)
    if not table.classes:
        known = table.y[train]
        estimator.target_mean_, estimator.target_scale_ = known.mean(), known.std() or 1.0
        targets = (table.y - estimator.target_mean_) / estimator.target_scale_
    prepare.fit(table.X.iloc[train])

    def part(rows: Array) -> tuple[Array, Array]:
        X = prepare.transform(table.X.iloc[rows]) if len(rows) else np.empty((0, n))
        return X, targets[rows]

    known = prepare.transform(table.X.iloc[train])
    n = known.shape[1]
    watch = part(watched) if len(watched) else ()
    about = table.classes, f"{source}, split by seed {seed}", dtype
    return on_backend((known, targets[train]), part(tested), *about, validation=watch), estimator


# --------------------------------------------------------------------------------------------
# saved models

# The types that a saved model may have beyond those that skops trusts. None runs code of the file.
TRUSTED = {
    "accelnn.tables.Columns",
    "accelnn.tables.NetClassifier",
    "accelnn.tables.NetRegressor",
    "accelnn.sklearn.MLPClassifier",
    "accelnn.sklearn.MLPRegressor",
    "numpy.dtype",
}


def save(model: "Pipeline", path: str | os.PathLike[str]) -> None:
    """Write a fitted pipeline to a file that `load` reads, by skops, without pickle; whole or not
    at all. Its training's history and its `recipe` are not kept.

    Raises ValueError if the model has types that `load` would refuse, OSError if the file cannot
    be written.
    """
    check_writable(Path(path))
    net = model[-1]
    if isinstance(net, _Net):
        if not np.isfinite(net.weights_).all():
            raise ValueError("weights are NaN or infinite: train again with a lower learning rate")
        net = copy.copy(net).set_params(recipe=None)
        vars(net).pop("history_", None)
    contents = skops.io.dumps(Pipeline([*model.steps[:-1], (model.steps[-1][0], net)]))
    _check_types(contents)
    write_whole(contents, Path(path))


def load(path: str | os.PathLike[str]) -> "Pipeline":
    """The pipeline in a file that `save` wrote.

    Raises FileNotFoundError; ValueError if the file is damaged, no such model, or has a type that
    is not trusted: no code of the file runs.
    """
    path = Path(path)
    DataFile(path, "train and save the model again").require()
    try:
        contents = path.read_bytes()
        _check_types(contents)
        model = skops.io.loads(contents, trusted=sorted(TRUSTED))
        if not isinstance(model, Pipeline) or not isinstance(model[0], Columns):
            raise ValueError("no pipeline for tables")
        # a row without values, so that what cannot predict is refused here
        model.predict(pd.DataFrame({name: [np.nan] for name in model[0].kinds}))
    except Exception as error:  # of a damaged file anything may come
        reason = f"is not a model of a table saved by accelnn: {_first_line(error)}"
        raise ValueError(f"{path} {reason}") from error
    return model


def _check_types(contents: bytes) -> None:
    if unknown := set(skops.io.get_untrusted_types(data=contents)) - TRUSTED:
        raise ValueError(f"untrusted types: {', '.join(sorted(unknown))}")


def append(model: "Pipeline", frame: "pd.DataFrame") -> "pd.DataFrame":
    """What `model` predicts for the rows of a table, (m, ...) with the same index: the columns
    "label" and "probability of CLASS" for each class, or "prediction".

    Raises ValueError as `Columns` does, or if the table has columns of these names already.
    """
    if hasattr(model, "predict_proba"):
        classes = model.classes_
        p = model.predict_proba(frame)
        found = {"label": classes[p.argmax(axis=1)]}
        found |= {f"probability of {name}": p[:, i] for i, name in enumerate(classes)}
    else:
        found = {"prediction": model.predict(frame)}
    if taken := [name for name in found if name in frame]:
        raise ValueError(f"the table has a column {taken[0]!r} already: rename or remove it")
    return pd.DataFrame(found, index=frame.index)
