"""The tours print right values, on either backend, and stop at a wrong one."""

import importlib
import inspect
from collections import Counter

import numpy as np
import pytest
import scipy.io

from accelnn import plots
from accelnn.tours import FIGURES, TOURS, arrays, layers, loops

# functions of the package hide these modules
ex4_weights, losses, checking = (
    importlib.import_module(f"accelnn.tours.{name}")
    for name in ("ex4_weights", "squared_error", "gradient_checking")
)


def ex4_fields():
    """Files of the form of exercise 4's, with 50 digits of noise."""
    random = np.random.RandomState(0)
    data = {"X": random.rand(50, 400), "y": np.repeat([10, *range(1, 10)], 5)[:, None]}
    return data, {"Theta1": random.randn(25, 401) / 20, "Theta2": random.randn(10, 26) / 5}


@pytest.fixture(scope="module")
def ex4_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ex4")
    for name, fields in zip(("ex4data1.mat", "ex4weights.mat"), ex4_fields(), strict=True):
        scipy.io.savemat(folder / name, fields)
    return folder


@pytest.fixture
def ex4(ex4_files, monkeypatch):
    """The folder of these files, named in ACCELNN_DATA."""
    monkeypatch.setenv("ACCELNN_DATA", str(ex4_files))
    return ex4_files


def run(name, **options):
    """The texts that a tour says, and the values that it returns."""
    said = []
    return said, TOURS[name](said.append, **options)


def values_of(name, **options):
    return run(name, **options)[1]


@pytest.mark.usefixtures("there")
def test_every_tour_says_narrow_texts_and_returns_host_values(ex4):
    for name in TOURS:
        said, values = run(name)
        lines = "\n".join(said).replace(str(ex4), "").splitlines()
        assert len(lines) > 4, name
        assert max(map(len, lines)) <= 79, (name, max(lines, key=len))
        for key, value in values.items():
            assert isinstance(value, float | str | list | np.ndarray), (name, key)


@pytest.mark.usefixtures("ex4")
def test_every_tour_prints_by_default(capsys):
    for name, tour in TOURS.items():
        tour()
        assert capsys.readouterr().out.count("\n") > 4, name
        assert (tour.__doc__ or "").strip(), name


def test_a_tour_that_draws_draws_what_it_returned(tmp_path):
    pytest.importorskip("matplotlib")
    for name, draw in FIGURES.items():
        figure = draw(values_of(name))
        plots.save(figure, tmp_path / "a.png")
        assert len(figure.axes) == 4, name


# --------------------------------------------------------------------------------------------
# loops


def test_the_loop_and_the_vectorised_dot_product_agree():
    said, values = run("vectorization", n=10_000)
    assert values["vectorised"] == pytest.approx(values["loop"], rel=1e-12)
    assert values["ratio"] == pytest.approx(values["loop_seconds"] / values["vectorised_seconds"])
    assert f"{values['loop']:.6f}" in said[1]


def test_calories_are_in_percent_of_each_column():
    values = values_of("vectorization", n=10)
    np.testing.assert_allclose(values["calories"], [59, 239, 155.4, 76.9])
    np.testing.assert_allclose(values["percentage"].sum(axis=0), 100)
    assert values["percentage"][0, 0] == pytest.approx(100 * 56 / 59)
    assert values["percentage"][2, 1] == pytest.approx(100 * 135 / 239)


def test_the_levels_of_loops_are_timed_by_name():
    values = values_of("loop-levels", n=20, m=10)
    assert list(values) == [*loops.LEVELS, "ratio"]
    first, _, last = (values[name] for name in loops.LEVELS)
    assert values["ratio"] == pytest.approx(first / last)


def test_levels_that_differ_are_noticed(monkeypatch):
    real = loops.vectorised
    monkeypatch.setattr(loops, "vectorised", lambda w, b, X, Y: real(w, b, 2 * X, Y))
    with pytest.raises(ArithmeticError, match="loops over examples and features: cost and db"):
        values_of("loop-levels", n=20, m=10)


# --------------------------------------------------------------------------------------------
# arrays


def test_the_text_of_an_example_is_the_code_that_ran():
    texts = Counter()
    for topic in (*arrays.TOPICS, arrays._math_and_numpy):
        names = inspect.signature(topic).parameters
        given = {name: np if name == "np" else np.array(arrays.INPUTS[name]) for name in names}
        if topic is arrays._math_and_numpy:
            given["x"] = [1, 2, 3]
        for text, value, _, _ in arrays.examples(topic, *given.values()):
            texts[text] += 1
            if callable(value):
                with pytest.raises(TypeError):
                    eval(text, vars(arrays) | given)
            else:
                np.testing.assert_array_equal(eval(text, vars(arrays) | given), value, text)
    assert len(texts) == 60
    assert set(texts.values()) == {1}


def test_basics_give_the_published_values():
    said, values = run("numpy-basics")
    np.testing.assert_allclose(values["sigmoid(a)"], [0.73105858, 0.88079708, 0.95257413], 1e-7)
    assert values["L1(yhat, y)"] == pytest.approx(1.1)
    assert values["L2(yhat, y)"] == pytest.approx(0.43)
    assert values["image2vector(image)"].shape == (8, 1)
    shapes = [text.split("   # ")[0].split(None, 1) for text in said if ".shape" in text]
    assert shapes == [["a.shape", "(3,)"], ["A.shape", "(2, 3)"]]


def a_wrong_value(x):
    yield x * x, 2


def a_wrong_shape(x):
    yield x * x, [1]


def no_error(_np, x):
    yield lambda: x * 1, TypeError


def another_list(_np, x):
    yield x * 1, [1, 2]


def test_an_unexpected_value_shape_or_error_is_noticed(monkeypatch):
    monkeypatch.setattr(arrays, "INPUTS", {"x": 1})
    for topic in (a_wrong_value, a_wrong_shape):
        monkeypatch.setattr(arrays, "TOPICS", (topic,))
        with pytest.raises(ArithmeticError, match=r"x \* x gave 1, expected"):
            values_of("numpy-basics")
    for topic in (no_error, another_list):
        monkeypatch.setattr(arrays, "_math_and_numpy", topic)
        with pytest.raises(ArithmeticError, match=r"x \* 1 gave \[1, 2, 3\], expected"):
            values_of("math-and-numpy")


def test_math_takes_no_list_and_numpy_does():
    said, values = run("math-and-numpy", n=100)
    assert values["math.exp(3)"] == values["np.exp(3)"]
    assert values["math.exp(x)"].startswith("TypeError: must be real number")
    assert sum(text.endswith(" TypeError") for text in said) == 3
    np.testing.assert_allclose(values["np.exp(x)"], np.exp([1, 2, 3]))


# --------------------------------------------------------------------------------------------
# squared error, and the computation graph


def test_only_the_squared_error_bends_down():
    values = values_of("squared-error", n=41)
    assert values["squared error: smallest curvature"] < -0.1
    assert values["cross-entropy: smallest curvature"] > 0
    np.testing.assert_allclose(values["cross-entropy: descent"], [[1.282, 0.641, 0.3129]] * 3, 1e-3)
    assert np.ptp(values["squared error: descent"][:, 2]) > 0.3
    # at w = b = 0 every probability is 1/2
    assert values["cross-entropy"][20, 20] == pytest.approx(np.log(2))
    assert values["squared error"][20, 20] == pytest.approx(1 / 8)


def test_the_losses_derivatives_are_those_of_their_values():
    z, h, y = np.linspace(-5, 5, 21), 1e-4, np.arange(21) % 2

    def a(z):
        return 1 / (1 + np.exp(-z))

    for name, loss in losses.LOSSES.items():
        below, at, above = (loss.value(z + d, a(z + d), y) for d in (-h, 0, h))
        slope, curvature = (above - below) / (2 * h), (above - 2 * at + below) / h**2
        np.testing.assert_allclose(loss.slope(a(z), y), slope, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(loss.curvature(a(z), y), curvature, atol=1e-6, err_msg=name)


def test_a_convex_squared_error_is_refused(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "squared error", losses.LOSSES["cross-entropy"])
    with pytest.raises(ArithmeticError, match="only the squared error to bend down"):
        values_of("squared-error", n=11)


def test_derivatives_on_the_graph_are_the_notes():
    values = values_of("computation-graph")
    notes = {"u": 6, "v": 11, "J": 33, "dJ/dv": 3, "dJ/du": 3, "dJ/da": 3, "dJ/db": 6, "dJ/dc": 9}
    assert {name: values[name] for name in notes} == notes
    assert values["dL/dz"] == values["dL/db"] == pytest.approx(values["a"] - 1)
    assert values["dL/dw2"] == 2 * values["dL/dw1"]


# --------------------------------------------------------------------------------------------
# caches, L2 and dropout


def test_caches_end_in_the_published_output():
    values = values_of("forward-caches")
    published = [[0.03921668, 0.70498921, 0.19734387, 0.04728177]]
    np.testing.assert_allclose(values["A3"], published, atol=1e-8)
    for l in (1, 2):
        np.testing.assert_array_equal(values[f"A{l}"], np.maximum(values[f"Z{l}"], 0))
        assert values[f"dW{l}"].shape[0] == len(values[f"Z{l}"])


def test_l2_and_dropout_give_the_published_figures():
    values = values_of("regularisation")
    assert values["cost"] == pytest.approx(1.78648594516, abs=1e-11)
    np.testing.assert_allclose(values["dW3"], [[-1.77691347, -0.11832879, -0.09397446]], 1e-7)
    published = [[0.36974721, 0.00305176, 0.04565099, 0.49683389, 0.36974721]]
    np.testing.assert_allclose(values["A3"], published, atol=1e-8)
    assert values["dA1"][0, 0] == pytest.approx(0.36544439)


def test_other_figures_than_the_published_are_noticed(monkeypatch):
    for name, wrong, message in (
        ("L2_COST", 1.79, "the cost with L2"),
        ("L2_GRADIENTS", {f"dW{l}": [[0]] for l in (1, 2, 3)}, "dW1"),
        ("DROPOUT_OUTPUT", [[0.4] * 5], "A3"),
        ("DROPOUT_GRADIENTS", {"dA2": np.ones((3, 5))}, "dA2"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(layers, name, wrong)
            with pytest.raises(ArithmeticError, match=f"^{message} gave"):
                values_of("regularisation")
    (name, seed, g, _), *others = layers.ONE_LAYER
    monkeypatch.setattr(layers, "ONE_LAYER", [(name, seed, g, [[3.26, -1.23]]), *others])
    with pytest.raises(ArithmeticError, match="^Z gave"):
        values_of("forward-caches")


# --------------------------------------------------------------------------------------------
# gradient checking


def test_gradient_checks_distinguish_right_from_wrong_by_the_course_figures():
    said, values = run("gradient-check")
    for (what, _, _), difference in values.items():
        assert difference < 1e-8 if what.endswith("right") else difference > 0.1, what
    assert sum(text.endswith("   right") for text in said) == 4
    assert sum(text.endswith("there is a mistake") for text in said) == 8
    first = (1e-7, "|a|+|b|")
    assert values["1-D: right", *first] == pytest.approx(2.919335883291695e-10, rel=1e-6)
    both = values["n-D: dW2 doubled and db1 times 4", *first]
    assert both == pytest.approx(0.285093156781, abs=1e-7)


def test_a_mistake_that_is_not_found_stops_the_tour(monkeypatch):
    monkeypatch.setitem(checking.MISTAKES, "none at all", {})
    with pytest.raises(ArithmeticError, match="n-D, none at all"):
        values_of("gradient-check")


# --------------------------------------------------------------------------------------------
# exercise 4's weights


def course_cost(lambd):
    """J of the course's own formulas, on the files as they are, and the accuracy."""
    data, theta = ex4_fields()
    ones = np.ones((50, 1))

    def g(Z):
        return 1 / (1 + np.exp(-Z))

    H = g(np.c_[ones, g(np.c_[ones, data["X"]] @ theta["Theta1"].T)] @ theta["Theta2"].T)
    Y = np.eye(10)[data["y"][:, 0] - 1]
    J = -(Y * np.log(H) + (1 - Y) * np.log(1 - H)).sum() / 50
    accuracy = (H.argmax(axis=1) == data["y"][:, 0] - 1).mean()
    squares = sum((Theta[:, 1:] ** 2).sum() for Theta in theta.values())
    return J + lambd / (2 * 50) * squares, accuracy


def test_given_weights_cost_what_the_course_computes(ex4, monkeypatch):
    said, values = run("ex4-weights", folder=ex4)
    for lambd in (0, 1):
        assert values[f"cost, λ = {lambd}"] == pytest.approx(course_cost(lambd)[0], rel=1e-10)
    assert values["accuracy"] == pytest.approx(course_cost(0)[1])
    text = "\n".join(said)
    assert "0.287629" in text
    assert "0.383770" in text
    assert text.count("not the course's files?") == 2
    published = {float(lambd): round(course_cost(lambd)[0], 6) for lambd in (0, 1)}
    monkeypatch.setattr(ex4_weights, "PUBLISHED", published)
    said, _ = run("ex4-weights")
    assert sum(text.endswith("the same") for text in said) == 2


def test_without_the_files_the_error_says_where_to_put_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ex4data1.mat: no such file: put .* ACCELNN_DATA"):
        values_of("ex4-weights", folder=tmp_path)
