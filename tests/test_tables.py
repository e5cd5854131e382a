"""Tables: how they are read and understood, `accelnn train` and `accelnn predict` on them."""

import io
import json
import re
import sys
import zipfile

import numpy as np
import pytest
from helpers.files import damage, refusal
from hypothesis import given
from hypothesis import strategies as st

import accelnn.cli
from accelnn import predict, train

pd = pytest.importorskip("pandas")

from sklearn import datasets as bundled  # noqa: E402 - with pandas alone
from sklearn.base import clone  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from accelnn import tables  # noqa: E402
from accelnn.recipes import own_recipe  # noqa: E402


def passengers(m=120, seed=0):
    """A table with numbers, texts, a date, gaps, and columns that carry nothing."""
    random = np.random.default_rng(seed)
    sex, age = random.choice(["m", "f"], m), random.uniform(1, 80, m).round(1)
    survived = random.random(m) < np.where(sex == "f", 0.9, 0.1)
    return pd.DataFrame(
        {
            "number": np.arange(1, m + 1),
            "name": [f"Müller, {i}" for i in range(m)],
            "sex": sex,
            "age": np.where(random.random(m) < 0.2, np.nan, age),
            "port": random.choice(["S", "C", None], m),
            "boarded": np.where(random.random(m) < 0.5, "1912-04-10", "1912-04-12"),
            "ship": "Titanic",
            "paid": random.random(m) < 0.5,
            "survived": np.where(survived, "yes", "no"),
        }
    )


def short(data):
    return own_recipe(data, (4,)).changed(epochs=20)


@pytest.fixture
def ship(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    passengers().to_csv("ship.csv", index=False)
    return ("--csv", "ship.csv", "--target", "survived", "--epochs", "20", "--hidden", "4")


def run(*arguments):
    """The results of a command that must succeed."""
    assert train.main([*map(str, arguments), "--json", "results.json"]) == 0
    with open("results.json") as file:
        return json.load(file)


# --------------------------------------------------------------------------------------------
# reading

CSV = {  # by what is special about them, texts of one and the same table
    "commas": "größe,art\n1.5,a\n-2.25,b c\n,a\n",
    "spaces after commas": "größe, art\n1.5, a\n-2.25, b c\n, a\n",
    "semicolons and decimal commas": "größe;art\n1,5;a\n-2,25;b c\n;a\n",
    "semicolons and decimal points": "größe;art\n1.5;a\n-2.25;b c\n;a\n",
    "tabs": "größe\tart\n1.5\ta\n-2.25\tb c\n\ta\n",
    "bars": "größe|art\n1,5|a\n-2,25|b c\nNA|a\n",
    "quotes": '"größe","art"\n"1.5","a"\n-2.25,"b c"\n"",a\n',
    "a byte-order mark": "\ufeffgröße,art\n1.5,a\n-2.25,b c\n?,a\n",
    "Windows's line ends and blank lines": "größe,art\r\n\r\n1.5,a\r\n-2.25,b c\r\n,a\r\n\r\n",
    "no last line end": "größe,art\n1.5,a\n-2.25,b c\nnull,a",
}


@pytest.mark.parametrize("form", CSV)
def test_every_form_of_csv_is_the_same_table(tmp_path, form):
    (tmp_path / "a.csv").write_text(CSV[form], encoding="utf-8", newline="")
    frame = tables.read(tmp_path / "a.csv")
    assert list(frame) == ["größe", "art"]
    np.testing.assert_array_equal(frame["größe"], [1.5, -2.25, np.nan])
    assert list(frame["art"]) == ["a", "b c", "a"]


def test_cells_in_quotes_keep_separators_and_line_ends(tmp_path):
    (tmp_path / "a.csv").write_text('x,y\n"a, b;\n""c""",1\nd;e;f,2\n')
    frame = tables.read(tmp_path / "a.csv")
    assert list(frame["x"]) == ['a, b;\n"c"', "d;e;f"]


def test_texts_stay_as_they_are_written_if_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text("code,other\n007,007\n12,\n")
    frame = tables.read(tmp_path / "a.csv", texts=["code", "absent"])
    assert list(frame["code"]) == ["007", "12"]
    np.testing.assert_array_equal(frame["other"], [7, np.nan])


@given(
    st.lists(
        st.tuples(st.floats(-1e9, 1e9), st.text(st.sampled_from('abä;,.\t|" \n1'), max_size=6)),
        min_size=3,
        max_size=20,
    ),
    st.sampled_from([(",", "."), (";", ","), (";", "."), ("\t", ","), ("|", ".")]),
)
def test_what_pandas_writes_is_read_back(tmp_path_factory, rows, form):
    path = tmp_path_factory.getbasetemp() / "property.csv"
    # a mark of the form in each row, so that no other separator fits the texts as well
    frame = pd.DataFrame([(x, f"t{text}t", 1.5, "end") for x, text in rows], columns=[*"abcd"])
    separator, decimal = form
    frame.to_csv(path, sep=separator, decimal=decimal, index=False, quoting=2)
    read = tables.read(path)
    np.testing.assert_allclose(read["a"].astype(float), frame["a"], rtol=1e-14)
    assert list(read["b"]) == list(frame["b"])


WRONG_FILES = {
    b"": "expected a header line, got no one",
    b"\n\n": "expected a header line",
    b",,\n1,2,3\n": "expected a header line, got an empty one",
    b"x,y\n1,2\n1,2,3\n": "not CSV (Expected 2 fields in line 3, saw 3",
    b"x,y\n1,2,3\n": "line 2 has more cells than the header",
    b"x,x,y\n1,2,3\n": "the column 'x' is there twice: rename one",
    b"x,y\n1,\xe9\n": "not text in UTF-8",
    b"\xff\xfex\0,\0y\0": "not text in UTF-8",
    b'x,y\n1,"2\n': "not CSV",
    b",".join(b"%d" % i for i in range(10_001)) + b"\n": "10,001 columns, expected at most 10,000",
    b"PAR1 and more": "not a whole Parquet file",
}


def test_files_that_are_no_tables_are_errors_that_name_them(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(FileNotFoundError, match="a.csv: no such file: name a table"):
        tables.read(path)
    for content, says in WRONG_FILES.items():
        path.write_bytes(content)
        message = refusal(tables.read, path)
        assert says in message, content[:50]
        assert message.startswith(f"{path}: ")


def test_parquet_keeps_its_types_and_is_understood_as_the_same_csv(tmp_path):
    frame = passengers()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame["sex"] = frame["sex"].astype("category")
    frame["boarded"] = pd.to_datetime(frame["boarded"])
    frame["age"] = frame["age"].astype("Float32")
    frame["paid"] = frame["paid"].astype("boolean")
    frame.to_parquet(tmp_path / "a.parquet")
    csv, parquet = (
        tables.examine(tables.read(tmp_path / name), "survived") for name in ("a.csv", "a.parquet")
    )
    assert str(csv) == str(parquet)
    assert csv.notes == parquet.notes
    X = [tables.preparation(table).fit_transform(table.X) for table in (csv, parquet)]
    np.testing.assert_allclose(*X, atol=1e-6)  # the rounding of float32


# --------------------------------------------------------------------------------------------
# what the columns are


def test_columns_are_understood_and_what_carries_nothing_is_left_out():
    frame = passengers().assign(empty=np.nan)
    frame.loc[[3, 7], "survived"] = np.nan
    table = tables.examine(frame, "survived")
    assert table.kinds == {
        "sex": "text",
        "age": "number",
        "port": "text",
        "boarded": "date",
        "paid": "text",
    }
    assert table.notes == (
        "2 rows without 'survived' left out",
        "left out, a count of the rows: 'number'",
        "left out, another text in nearly every row: 'name'",
        "left out, constant: 'ship'",
        "left out, empty: 'empty'",
    )
    assert table.classes == ("no", "yes")
    assert len(table.X) == len(table.y) == 118
    decided = "classification: 'survived' has 2 classes; 118 rows of 1 number, 3 texts, 1 date"
    assert str(table) == decided


def kinds(**columns):
    frame = pd.DataFrame(columns)
    return tables.examine(frame.assign(y=["a", "b"] * (len(frame) // 2)), "y")


def test_what_may_carry_something_is_kept():
    year = np.arange(1950, 1970)  # counts the rows, and yet is a year
    mark = ["x", None] * 10  # constant, and yet it may be missing
    assert [*kinds(year=year, mark=mark).kinds] == ["year", "mark"]
    table = kinds(mixed=["1", "2", "three", "4"] * 5)
    assert table.kinds == {"mixed": "text"}
    said = "taken as texts, though most cells are numbers: 'mixed' (not 'three')"
    assert table.notes == (said,)
    many = kinds(x=[1, 2] * 5, **{f"c{i}": [3] * 10 for i in range(8)})
    assert many.notes == ("left out, constant: 'c0', 'c1', 'c2', 'c3', 'c4' and 3 more",)


def test_dates_are_days():
    table = kinds(when=["1970-01-02", "1970-01-03T12:00:00", None, "1969-12-31 00:00"])
    days = tables.Columns(table.kinds).fit_transform(table.X)["when"]
    np.testing.assert_array_equal(days, [1, 2.5, np.nan, -1])
    spans = kinds(span=pd.to_timedelta([1, 2, 3, 4], unit="h"))
    hours = tables.Columns(spans.kinds).fit_transform(spans.X)["span"] * 24
    np.testing.assert_allclose(hours, [1, 2, 3, 4])


AMBIGUOUS = {
    "31.05.2024": "dates: write them as 2024-05-31",
    "5/31/24": "dates: write them as 2024-05-31",
    "1,234.5": "numbers with thousands separators: write them without",
    "1.234.567,8": "numbers with thousands separators: write them without",
}


def test_what_can_be_read_in_two_ways_is_refused_with_a_remedy():
    for cell, remedy in AMBIGUOUS.items():
        message = refusal(lambda cell=cell: kinds(x=[cell, None] * 4))
        assert message == f"column 'x' has {cell!r}: {remedy}"
    assert "expected numbers or texts" in refusal(lambda: kinds(x=[[1], [2]]))


@given(st.integers(2, 20), st.integers(3, 9), st.booleans())
def test_few_integers_and_all_texts_are_classes(n, each, as_text):
    y = np.repeat(np.arange(n) * 7 - 3, each)
    frame = pd.DataFrame({"x": np.arange(len(y)) % 5, "y": y.astype(str) if as_text else y})
    table = tables.examine(frame, "y")
    assert table.task == "classification"
    assert set(table.classes) == {str(value) for value in y}
    assert as_text or table.classes == tuple(map(str, np.unique(y)))


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=50, unique=True))
def test_many_different_numbers_are_values(y):
    frame = pd.DataFrame({"x": np.arange(len(y)) % 2, "y": y})
    assert tables.examine(frame, "y").task == "regression"
    assert tables.examine(frame, "y").classes == ()


def test_the_task_can_be_said():
    frame = pd.DataFrame({"x": range(9, 29), "y": [3, 4, 5, 6] * 5})
    assert tables.examine(frame, "y").task == "classification"
    assert tables.examine(frame, "y", "regression").task == "regression"
    halves = frame.assign(y=frame["y"] / 2)
    assert tables.examine(halves, "y").task == "regression"
    table = tables.examine(halves, "y", "classification")
    assert table.classes == ("1.5", "2.0", "2.5", "3.0")
    truth = tables.examine(frame.assign(y=[True, False] * 10), "y")
    assert truth.classes == ("False", "True")


def test_a_target_that_cannot_be_predicted_is_an_error():
    frame = pd.DataFrame({"x": range(9, 39), "y": np.arange(30) / 7, "t": ["a"] * 30})
    for target, task, says in (
        ("z", None, "expected the target 'z' among the columns, got 'x', 'y', 't'"),
        ("t", "regression", "a regression needs numbers, and 't' has texts: 'a'"),
        ("y", "classification", "'y' has 30 different values in 30 rows"),
    ):
        assert says in refusal(tables.examine, frame, target, task)
    assert "got only 'y'" in refusal(tables.examine, frame[["y"]], "y")
    assert "left out, constant: 't'" in refusal(tables.examine, frame[["y", "t"]], "y")
    assert "got none" in refusal(tables.examine, frame.assign(y=np.nan), "y")
    assert "is a date" in refusal(tables.examine, frame.assign(y="2024-05-31"), "y")
    infinite = frame.assign(y=[np.inf, *range(29)])
    assert "'y': expected finite numbers, got 'inf'" in refusal(tables.examine, infinite, "y")
    one = frame.assign(y=3.5)
    assert "has only 3.5" in refusal(tables.examine, one, "y", "regression")


# --------------------------------------------------------------------------------------------
# the pipeline


def test_numbers_are_standardised_gaps_filled_and_said_and_texts_one_feature_each():
    frame = pd.DataFrame({"n": [1.0, 3, np.nan, 8], "t": ["b", None, "a", "b"], "y": [*"pqpq"]})
    table = tables.examine(frame, "y")
    X = tables.preparation(table).fit_transform(table.X)
    filled = np.array([1, 3, 3, 8.0])
    np.testing.assert_allclose(X[:, 0], (filled - filled.mean()) / filled.std())
    np.testing.assert_allclose(X[:, 1], [-1 / 3**0.5, -1 / 3**0.5, 3**0.5, -1 / 3**0.5])
    np.testing.assert_array_equal(X[:, 2:], [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_a_text_or_gap_that_is_new_counts_with_the_rare_ones_and_a_column_has_100_features():
    often = [f"often {i}" for i in range(99)]
    frame = pd.DataFrame({"t": [*often, *often, *(f"once {i}" for i in range(60))]})
    table = tables.examine(frame.assign(y=["p", "q"] * 129), "y")
    prepare = tables.preparation(table).fit(table.X)
    X = prepare.transform(pd.DataFrame({"t": ["often 3", "once 4", "new", None]}))
    assert X.shape == (4, 100)
    np.testing.assert_array_equal(X[1], X[2])
    np.testing.assert_array_equal(X[1], X[3])
    np.testing.assert_array_equal(X.sum(axis=1), 1)


def test_any_estimator_may_be_the_last_step_and_a_regressions_target_is_standardised_for_it():
    table = tables.examine(bundled.load_wine(as_frame=True).frame, "target")
    model = tables.pipeline(table, LogisticRegression()).fit(table.X, table.y)
    assert model.score(table.X, table.y) > 0.98
    table = tables.examine(bundled.load_diabetes(as_frame=True).frame, "target")
    model = tables.pipeline(table, LinearRegression()).fit(table.X, table.y)
    plain = LinearRegression().fit(table.X, table.y)
    np.testing.assert_allclose(model.predict(table.X), plain.predict(table.X))
    assert abs(model[-1].regressor_.intercept_) < 1e-12


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.slow
@parametrize_with_checks([tables.NetClassifier(), tables.NetRegressor()])
def test_the_estimators_keep_scikit_learns_protocol(estimator, check):
    check(estimator)


def test_the_net_learns_what_it_is_known_to_learn():
    wine = tables.examine(bundled.load_wine(as_frame=True).frame, "target")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    assert cross_val_score(tables.pipeline(wine), wine.X, wine.y, cv=folds).mean() > 0.95
    diabetes = tables.examine(bundled.load_diabetes(as_frame=True).frame, "target")
    folds = KFold(5, shuffle=True, random_state=0)
    found = cross_val_score(tables.pipeline(diabetes), diabetes.X, diabetes.y, cv=folds)
    assert found.mean() > 0.4  # linear regression: 0.48


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_parameters_come_with_accelnns_mlp(tmp_path):
    from accelnn.sklearn import MLPClassifier, MLPRegressor

    for target, kind in (("survived", MLPClassifier), ("age", MLPRegressor)):
        table = tables.examine(passengers(), target)
        net = kind(max_iter=5, dropout=0.2, callbacks=[lambda _: False], random_state=0)
        model = tables.pipeline(table, net).fit(table.X, table.y)
        tables.save(model, tmp_path / "m.skops")
        again = tables.load(tmp_path / "m.skops")
        found = tables.append(again, passengers())
        pd.testing.assert_frame_equal(found, tables.append(model, passengers()))


@pytest.mark.parametrize("target", ["survived", "age"])
def test_a_saved_model_predicts_what_it_did_and_holds_no_pickle(tmp_path, target):
    table = tables.examine(passengers(), target)
    net = (tables.NetClassifier if table.classes else tables.NetRegressor)(short)
    model = tables.pipeline(table, net, "made up").fit(table.X, table.y)
    tables.save(model, tmp_path / "m.skops")
    again = tables.load(tmp_path / "m.skops")
    new = passengers(seed=1).drop(columns=["name", target]).assign(sex=["x", None] * 60)
    pd.testing.assert_frame_equal(tables.append(model, new), tables.append(again, new))
    assert again[0].source == "made up"
    with zipfile.ZipFile(tmp_path / "m.skops") as file:
        assert {name.rsplit(".")[-1] for name in file.namelist()} == {"json", "npy"}
    assert model[-1].history_.costs  # saving leaves the model as it was
    assert model[-1].recipe is short
    assert clone(again)[-1].get_params() == clone(model)[-1].set_params(recipe=None).get_params()


def test_files_that_are_no_saved_models_are_errors(tmp_path):
    path = tmp_path / "m.skops"
    with pytest.raises(FileNotFoundError, match="m.skops: no such file"):
        tables.load(path)
    table = tables.examine(passengers(), "survived")
    model = tables.pipeline(table, tables.NetClassifier(short)).fit(table.X, table.y)
    tables.save(model, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    with zipfile.ZipFile(bomb := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("schema.json", bytes(2**24))
    damaged = whole[: len(whole) // 2], bytes(flipped), bomb.getvalue(), b"PK", b""
    for content in damaged:
        path.write_bytes(content)
        assert f"{path} is not a model of a table saved by accelnn" in refusal(tables.load, path)


@pytest.mark.slow
def test_a_damaged_model_is_refused_or_predicts(tmp_path):
    path = tmp_path / "m.skops"
    table = tables.examine(passengers(), "survived")
    model = tables.pipeline(table, tables.NetClassifier(short)).fit(table.X, table.y)
    tables.save(model, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    random = np.random.default_rng(0)
    for _ in range(300):  # in a part, with a checksum that fits
        name, place = random.choice([*parts]), random.integers(2**30)
        content = bytearray(parts[name])
        content[place % len(content)] = random.integers(256)
        with zipfile.ZipFile(path, "w") as file:
            for other, whole in parts.items():
                file.writestr(other, bytes(content) if other == name else whole)
        message = refusal(lambda: tables.append(tables.load(path), table.X))
        assert len(message) < 1000
    tables.save(model, path)
    damage(path, lambda: tables.load(path), range(path.stat().st_size), 100)


def test_a_type_that_is_not_trusted_is_neither_saved_nor_loaded(tmp_path):
    import skops.io

    table = tables.examine(passengers(), "survived")
    model = tables.pipeline(table, tables.NetClassifier(short)).fit(table.X, table.y)
    model.steps.insert(0, ("more", Foreign()))
    assert "untrusted types: " in refusal(tables.save, model, tmp_path / "m.skops")
    skops.io.dump(model, tmp_path / "m.skops")
    message = refusal(tables.load, tmp_path / "m.skops")
    assert re.search(r"m.skops is not a model .* untrusted types: .*Foreign", message)
    skops.io.dump(LogisticRegression(), tmp_path / "m.skops")
    assert "no pipeline for tables" in refusal(tables.load, tmp_path / "m.skops")


class Foreign:
    """A step of somebody else's."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def test_weights_that_are_not_numbers_are_not_saved(tmp_path):
    table = tables.examine(passengers(), "survived")
    model = tables.pipeline(table, tables.NetClassifier(short)).fit(table.X, table.y)
    model[-1].weights_[3] = np.nan
    assert "lower learning rate" in refusal(tables.save, model, tmp_path / "m.skops")
    assert not (tmp_path / "m.skops").exists()


# --------------------------------------------------------------------------------------------
# accelnn train


def test_a_table_is_trained_saved_and_predicted_as_in_memory(ship, capsys):
    results = run(*ship, "--save", "m.skops", "--seed", 3, "--epochs", 300)
    output = capsys.readouterr().out
    assert output.startswith("classification: 'survived' has 2 classes; 120 rows of 1 number, 3 t")
    assert "left out, constant: 'ship'\n" in output
    assert "sets: 10 features, 2 classes, 84 training, 18 validation, 18 test examples" in output
    assert "on the test set" in output
    assert results["data"] == "ship.csv, split by seed 3"
    model = tables.load("m.skops")
    assert model.score(passengers(), passengers()["survived"]) > 0.7
    assert predict.main(["m.skops", "ship.csv"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    written = pd.read_csv(io.StringIO(out))
    expected = tables.append(model, passengers())
    assert list(written) == [*passengers(), "label", "probability of no", "probability of yes"]
    assert list(written["label"]) == list(expected["label"])
    np.testing.assert_allclose(written["probability of no"], expected["probability of no"], 1e-6)


def test_a_regression_is_reported_by_r2_and_errors_in_the_targets_unit(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(200, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "price": 1000 + 50 * x[:, 0] + 20 * x[:, 1]})
    frame.to_parquet("houses.parquet")
    arguments = ("--parquet", "houses.parquet", "--target", "price", "--save", "m.skops")
    [result] = run(*arguments, "--plot", "costs.png")["trainings"]
    assert result["net"]["output"] == "linear"
    assert result["test_r2"] > 0.99
    output = capsys.readouterr().out
    assert "regression: 'price' is a number; 200 rows of 2 numbers" in output
    assert re.search(r"train R² \W+ validation R² \W+ test R²", output)
    rmse = float(re.search(r"root mean squared error \W+ ([\d.]+)", output)[1])
    deviation = float(re.search(r"standard deviation of the target \W+ ([\d.]+)", output)[1])
    assert 1 - (rmse / deviation) ** 2 == pytest.approx(result["test_r2"], abs=2e-3)
    assert predict.main(["m.skops", "houses.parquet", "--output", "out.csv"]) == 0
    assert capsys.readouterr().out == "200 rows with predictions: out.csv\n"
    written = pd.read_csv("out.csv")
    np.testing.assert_allclose(written["prediction"], tables.load("m.skops").predict(frame))
    assert abs(written["prediction"] - written["price"]).mean() < 10


def test_folds_are_scored_each_and_are_those_of_scikit_learn(ship, capsys):
    [one] = run(*ship, "--folds", 3)["trainings"]
    output = capsys.readouterr().out
    accuracy = one["scores"]["accuracy"]
    table = tables.examine(tables.read("ship.csv"), "survived")
    net = tables.NetClassifier(lambda d: own_recipe(d, (4,)).changed(epochs=20, threads=1))
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    found = cross_val_score(tables.pipeline(table, net), table.X, table.y, cv=folds)
    np.testing.assert_allclose(accuracy["folds"], found)
    assert accuracy["mean"] == pytest.approx(found.mean())
    row = [f"{n:.1%}" for n in (found.mean(), found.std(), *found)]
    assert re.search(r"accuracy \W+ " + r"\W+".join(map(re.escape, row)), output)
    compared = run(*ship[:4], "--epochs", 3, "--folds", 3, "--compare-hidden", 2, 3)
    assert [each["label"] for each in compared["trainings"]] == ["2 hidden units", "3 hidden units"]
    output = capsys.readouterr().out
    assert re.search(r"accuracy\n.*\n\W+training \W+mean", output)
    assert "2 hidden units: adam at 0.001, net [10, 2, 1]" in output
    assert train.main([*ship[:2], "--target", "age", "--folds", "2", "--epochs", "2"]) == 0
    assert "root mean squared error" in capsys.readouterr().out


def test_class_weights_l2_and_dropout_reach_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rare = np.arange(600) % 12 == 0
    frame = pd.DataFrame({"x": random.normal(size=600) + rare, "z": random.normal(size=600)})
    frame.assign(y=np.where(rare, "rare", "common")).to_csv("a.csv", index=False)
    arguments = ("--csv", "a.csv", "--target", "y", "--save", "m.skops", "--epochs", 60)
    [plain] = run(*arguments)["trainings"]
    few = (tables.load("m.skops").predict(frame) == "rare").sum()
    [weighed] = run(*arguments, "--class-weight", "balanced", "--l2", 0.5)["trainings"]
    many = (tables.load("m.skops").predict(frame) == "rare").sum()
    assert few < 20
    assert many > 100
    assert (plain["net"]["l2"], weighed["net"]["l2"]) == (0, 0.5)
    [dropped] = run(*arguments, "--keep-prob", 0.8)["trainings"]
    assert dropped["net"]["keep_prob"] == [0.8]


def test_l2_dropout_and_class_weights_are_for_recipes_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--l2", 0.3, "--keep-prob", 0.9, "--class-weight", "balanced")
    [result] = run("planar", "--epochs", 3, *options)["trainings"]
    assert (result["net"]["l2"], result["net"]["keep_prob"]) == (0.3, [0.9])
    compared = run("planar", "--epochs", 3, *options, "--learning-rate", 0.5, 0.1)["trainings"]
    assert compared[0]["costs"] == pytest.approx(result["costs"])
    assert compared[1]["costs"] != pytest.approx(result["costs"])


WRONG_TABLES = {  # what the error says, by a table's contents
    "": "expected a header line, got no one",
    "x,y\n": "expected rows with a target 'y', got none",
    "x,z\n1,a\n": "expected the target 'y' among the columns, got 'x', 'z'",
    "y\na\nb\n": "expected a column to learn from, got only 'y'",
    "x,y\n1,a\n": "expected a column to learn from, got left out, constant: 'x'",
    "x,y\n1,a\n2,a\n": "expected two classes or more, got only a",
    "x,y\n1,a\n2,a\n3,b\n": "the class 'b' has 1 of the examples, expected 3 or more",
    "x,y\n1,a\n2,a\n3,\x1b[2J\n": "the class '\\x1b[2J' has a control character: rename it",
    "x,y\n1,1.5\n": "has only 1.5",
    "x,y\n" + "inf,a\n2,b\n" * 3: "column 'x': expected finite numbers, got 'inf'",
}


def test_tables_that_cannot_be_trained_on_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for content, says in WRONG_TABLES.items():
        (tmp_path / "a.csv").write_text(content)
        assert train.main(["--csv", "a.csv", "--target", "y"]) == 1, content
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: a.csv: "), error
        assert says in error, (content, error)


def test_without_the_extra_the_command_that_installs_it_is_named(ship, monkeypatch, capsys):
    for package in (accelnn, accelnn.cli):
        monkeypatch.delattr(package, "tables", raising=False)
        for name in [*sys.modules]:
            if name.startswith(f"{package.__name__}.tables"):
                monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skops", None)
    assert train.main([*ship]) == 1
    assert re.search(r"error: .*skops.*pip install .*\[tables\]", capsys.readouterr().err)


# --------------------------------------------------------------------------------------------
# accelnn predict


@pytest.fixture
def model(ship):
    table = tables.examine(tables.read(ship[1]), "survived")
    net = tables.NetClassifier(short)
    tables.save(tables.pipeline(table, net).fit(table.X, table.y), "m.skops")
    return "m.skops"


def test_the_table_is_written_as_it_was_with_columns_appended(model, capsys):
    with open("new.csv", "w", encoding="utf-8-sig") as file:
        file.write("id;sex;age;port;boarded;paid\n007;f;33,50;;1912-04-10;True\n")
        file.write('008;x;;"S";1912-04-11;False\n')
    assert predict.main([model, "new.csv"]) == 0
    out, err = capsys.readouterr()
    assert err == "warning: new.csv: columns that the model does not know: 'id'\n"
    header, first, second = out.splitlines()
    assert header == "id;sex;age;port;boarded;paid;label;probability of no;probability of yes"
    assert re.fullmatch(r"007;f;33,50;;1912-04-10;True;(yes|no);0,\d{5,9};0,\d{5,9}", first), first
    assert second.startswith("008;x;;S;1912-04-11;False;")


WRONG_PREDICTIONS = {  # what the error says, by a table's contents
    "sex,age\nf,3\n": "missing columns 'port', 'boarded', 'paid': the table has 'sex', 'age'",
    "sex,age,port,boarded,paid\nf,old,S,,True\n": "column 'age': expected numbers, got 'old'",
    "sex,age,port,boarded,paid\nf,inf,S,,True\n": "column 'age': expected finite numbers, got 'inf",
    "sex,age,port,boarded,paid\nf,3,S,May,True\n": "'boarded': expected dates such as 2024-05-31",
    "sex,age,port,boarded,paid,label\nf,3,S,,True,1\n": "a column 'label' already: rename or remo",
    "": "expected a header line",
}


def test_tables_that_do_not_suit_the_model_are_one_line(model, tmp_path, capsys):
    for content, says in WRONG_PREDICTIONS.items():
        (tmp_path / "new.csv").write_text(content)
        assert predict.main([model, "new.csv"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: new.csv: ")
        assert says in err.splitlines()[0], content


def test_arguments_that_do_not_suit_the_kind_of_model_end_with_2(model, capsys):
    for arguments, says in (
        ([model, "ship.csv", "ship.csv"], "expected one table, got 2"),
        ([model, "ship.csv", "--json", "-"], "--json is for pictures: use --output"),
        ([model, "ship.csv", "--output", model], "would overwrite m.skops"),
        ([model, "ship.csv", "--output", "ship.csv"], "would overwrite ship.csv"),
        (["other.h5", "a.png", "--output", "a.csv"], "--output is for tables: use --json"),
    ):
        with pytest.raises(SystemExit) as end:
            predict.main(arguments)
        assert end.value.code == 2
        assert says in capsys.readouterr().err
    assert predict.main([model, "ship.csv", "--output", "nowhere/a.csv"]) == 1
    assert "there is no folder nowhere" in capsys.readouterr().err
