"""Models of tables: preparation and net in scikit-learn's Pipeline, saved without pickle."""

import copy
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from accelnn.backend import Array
from accelnn.datasets.dataset import Dataset, DType, on_backend
from accelnn.datasets.own import check_split, split
from accelnn.datasets.reading import EXPANSION, DataFile
from accelnn.files import check_writable, write_whole

from .columns import Columns, Table
from .nets import Net, NetClassifier, NetRegressor
from .reading import first_line

MAX_CATEGORIES = 100  # of one column of texts; the rarest are taken together


def preparation(table: Table, source: str = "") -> Pipeline:
    """The unfitted transformer from the columns of a table to numbers (m, n_features).

    Numbers and dates are standardised; what is missing becomes the median, with a feature that says
    so. Texts become a feature for each that occurs, missing ones too, at most 100 a column; a text
    that is new at prediction counts with the rare ones.
    """
    texts = [name for name, kind in table.kinds.items() if kind == "text"]
    numbers = [name for name in table.kinds if name not in texts]
    fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False
    )
    steps = ("numbers", make_pipeline(fill, StandardScaler()), numbers), ("texts", one_hot, texts)
    features = ColumnTransformer([step for step in steps if step[2]])
    ignored = [table.target, *(name for name in table.X if name not in table.kinds)]
    columns = Columns(table.kinds, ignored, source)
    return Pipeline([("columns", columns), ("features", features)])


def pipeline(table: Table, net: Any = None, source: str = "") -> Pipeline:
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


def dataset(
    table: Table,
    prepare: Pipeline,
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


# The types that a saved model may have beyond those that skops trusts. None runs code of the file.
TRUSTED = {
    "accelnn.tables.columns.Columns",
    "accelnn.tables.nets.NetClassifier",
    "accelnn.tables.nets.NetRegressor",
    "accelnn.sklearn.MLPClassifier",
    "accelnn.sklearn.MLPRegressor",
    "numpy.dtype",
    "sklearn.compose._column_transformer._RemainderColsList",  # of scikit-learn 1.6
}


def save(model: Pipeline, path: str | os.PathLike[str]) -> None:
    """Write a fitted pipeline to a file that `load` reads, by skops, without pickle; whole or not
    at all. What only training needs is not kept: history, optimizer, `recipe` and callbacks.

    Raises ValueError if the model has types that `load` would refuse, OSError if the file cannot
    be written.
    """
    check_writable(Path(path))
    name, net = model.steps[-1]
    if isinstance(net, Net) and not np.isfinite(net.weights_).all():
        raise ValueError("weights are NaN or infinite: train again with a lower learning rate")
    contents = skops.io.dumps(Pipeline([*model.steps[:-1], (name, _trained(net))]))
    _check_types(contents)
    write_whole(contents, Path(path))


def _trained(net: Any) -> Any:
    """A copy of an estimator without what only training needs."""
    net = copy.copy(net)
    state = vars(net)
    for name in ("history_", "_optimizer"):
        state.pop(name, None)
    state |= {name: None for name in ("recipe", "callbacks") if name in state}
    for name in ("regressor", "regressor_"):  # of TransformedTargetRegressor
        if name in state:
            state[name] = _trained(state[name])
    return net


def load(path: str | os.PathLike[str]) -> Pipeline:
    """The pipeline in a file that `save` wrote.

    Raises FileNotFoundError; ValueError if the file is damaged, no such model, or has a type that
    is not trusted: no code of the file runs.
    """
    path = Path(path)
    DataFile(path, "train and save the model again").require()
    try:
        contents = path.read_bytes()
        with zipfile.ZipFile(path) as file:
            if sum(part.file_size for part in file.infolist()) > EXPANSION * len(contents):
                raise ValueError("its parts are larger than the file by far")
        _check_types(contents)
        model = skops.io.loads(contents, trusted=sorted(TRUSTED))
        if not isinstance(model, Pipeline) or not isinstance(model[0], Columns):
            raise ValueError("no pipeline for tables")
        # a row without values, so that what cannot predict is refused here
        model.predict(pd.DataFrame({name: [np.nan] for name in model[0].kinds}))
    except Exception as error:  # of a damaged file anything may come
        reason = f"is not a model of a table saved by accelnn: {first_line(error)}"
        raise ValueError(f"{path} {reason}") from error
    return model


def _check_types(contents: bytes) -> None:
    if unknown := set(skops.io.get_untrusted_types(data=contents)) - TRUSTED:
        raise ValueError(f"untrusted types: {', '.join(sorted(unknown))}")


def append(model: Pipeline, frame: pd.DataFrame) -> pd.DataFrame:
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
