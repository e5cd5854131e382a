"""Tables of numbers, texts and dates, from a file to a trained model, on pandas and scikit-learn.

    table = tables.examine(tables.read("wine.csv"), target="cultivar")
    model = tables.pipeline(table).fit(table.X, table.y)
    tables.save(model, "wine.skops")

Rows are examples here, as in pandas and scikit-learn. The package needs its extra `tables`.
"""

from accelnn.install import install_command

try:
    from .columns import Columns, Table, examine
    from .nets import NetClassifier, NetRegressor
    from .pipelines import append, dataset, load, pipeline, preparation, save
    from .reading import Form, csv_form, is_parquet, read, read_csv
except ModuleNotFoundError as error:
    remedy = install_command("tables")
    raise ModuleNotFoundError(f"tables need {error.name}, not installed: {remedy}") from None

__all__ = [
    "Columns",
    "Form",
    "NetClassifier",
    "NetRegressor",
    "Table",
    "append",
    "csv_form",
    "dataset",
    "examine",
    "is_parquet",
    "load",
    "pipeline",
    "preparation",
    "read",
    "read_csv",
    "save",
]
