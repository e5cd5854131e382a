"""The tours print right values, on either backend, and stop at a wrong one."""

import ast
import importlib
import inspect

import numpy as np
import pytest
import scipy.io

from accelnn import plots
from accelnn.tours import FIGURES, TOURS

# the tours' functions hide their modules
basics, math_and_numpy, levels, losses, graph, regularisation, checking, ex4_weights = (
    importlib.import_module(f"accelnn.tours.{name}")
    for name in (
        *("numpy_basics", "math_and_numpy", "loop_levels", "squared_error", "computation_graph"),
        *("regularisation", "gradient_checking", "ex4_weights"),
    )
)
Example = basics.Example


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


def quiet(_text):
    pass


@pytest.mark.usefixtures("there", "ex4")
@pytest.mark.parametrize("name", TOURS)
def test_a_tour_says_texts_and_returns_host_values(name):
    said = []
    values = TOURS[name](said.append)
    assert len(said) > 4
    assert all(isinstance(text, str) for text in said)
    assert all(isinstance(value, float | str | list | np.ndarray) for value in values.values())


@pytest.mark.parametrize("name", TOURS)
def test_no_line_of_a_tour_is_wider_than_79(name, ex4):
    said = []
    TOURS[name](said.append)
    lines = "\n".join(said).replace(str(ex4), "").splitlines()
    assert max(map(len, lines)) <= 79, max(lines, key=len)


@pytest.mark.usefixtures("ex4")
@pytest.mark.parametrize("name", TOURS)
def test_a_tour_prints_by_default(name, capsys):
    TOURS[name]()
    assert capsys.readouterr().out.count("\n") > 4
    assert (TOURS[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", FIGURES)
def test_a_tour_that_draws_draws_what_it_returned(name, tmp_path):
    pytest.importorskip("matplotlib")
    figure = FIGURES[name](TOURS[name](quiet))
    plots.save(figure, tmp_path / "a.png")
    assert len(figure.axes) == 4


@pytest.mark.usefixtures("there")
def test_the_loop_and_the_vectorised_dot_product_agree():
    said = []
    values = TOURS["vectorization"](said.append, n=10_000)
    assert values["vectorised"] == pytest.approx(values["loop"], rel=1e-12)
    assert values["ratio"] == pytest.approx(values["loop_seconds"] / values["vectorised_seconds"])
    assert f"{values['loop']:.6f}" in said[1]


def test_calories_are_in_percent_of_each_column():
    values = TOURS["vectorization"](quiet, n=10)
    np.testing.assert_allclose(values["calories"], [59, 239, 155.4, 76.9])
    np.testing.assert_allclose(values["percentage"].sum(axis=0), 100)
    assert values["percentage"][0, 0] == pytest.approx(100 * 56 / 59)
    assert values["percentage"][2, 1] == pytest.approx(100 * 135 / 239)


@pytest.mark.usefixtures("there")
def test_basics_give_the_published_values():
    values = TOURS["numpy-basics"](quiet)
    np.testing.assert_allclose(values["sigmoid(a)"], [0.73105858, 0.88079708, 0.95257413], 1e-7)
    assert values["L1(yhat, y)"] == pytest.approx(1.1)
    assert values["L2(yhat, y)"] == pytest.approx(0.43)
    assert values["image2vector(image)"].shape == (8, 1)


def test_a_shape_is_printed_as_a_tuple():
    said = []
    TOURS["numpy-basics"](said.append)
    shapes = [text.split("   # ")[0].split(None, 1) for text in said if ".shape" in text]
    assert shapes == [["a.shape", "(3,)"], ["A.shape", "(2, 3)"]]


@pytest.mark.parametrize("expected", [2, [1], [[1, 1]]])
def test_basics_notice_a_wrong_value_or_shape(monkeypatch, expected):
    monkeypatch.setattr(basics, "INPUTS", {"x": 1})
    monkeypatch.setattr(basics, "STEPS", {"broken": (Example("x * x", lambda x: x * x, expected),)})
    with pytest.raises(ArithmeticError, match=r"x \* x gave 1, expected"):
        TOURS["numpy-basics"](quiet)


STEPS = [*(step for steps in basics.STEPS.values() for step in steps), *math_and_numpy.STEPS]


@pytest.mark.parametrize("module", [basics, math_and_numpy], ids=lambda module: module.__name__)
def test_the_text_of_a_step_is_the_code_that_runs(module):
    calls = [
        node.args
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Example"
    ]
    assert len(calls) > 10
    for text, code, *_ in calls:
        assert ast.dump(ast.parse(text.value, mode="eval").body) == ast.dump(code.body), text.value


def test_no_two_steps_have_one_text():
    assert len({step.text for step in STEPS}) == len(STEPS)


# --------------------------------------------------------------------------------------------
# math, and loops


def test_math_takes_no_list_and_numpy_does():
    values = TOURS["math-and-numpy"](quiet, n=100)
    assert values["math.exp(3)"] == values["np.exp(3)"]
    assert values["math.exp(x)"].startswith("TypeError: must be real number")
    np.testing.assert_allclose(values["np.exp(x)"], np.exp([1, 2, 3]))


@pytest.mark.parametrize("expected", [TypeError, [1, 2]])
def test_math_notices_what_it_does_not_expect(monkeypatch, expected):
    monkeypatch.setattr(math_and_numpy, "STEPS", (Example("x * 1", lambda x: x * 1, expected),))
    with pytest.raises(ArithmeticError, match=r"x \* 1 gave \[1, 2, 3\], expected"):
        TOURS["math-and-numpy"](quiet)


def test_the_levels_of_loops_are_timed_by_name():
    values = TOURS["loop-levels"](quiet, n=20, m=10)
    assert list(values) == [*levels.LEVELS, "ratio"]
    first, _, last = (values[name] for name in levels.LEVELS)
    assert values["ratio"] == pytest.approx(first / last)


def test_levels_that_differ_are_noticed(monkeypatch):
    real = levels.vectorised
    monkeypatch.setattr(levels, "vectorised", lambda w, b, X, Y: real(w, b, 2 * X, Y))
    with pytest.raises(ArithmeticError, match="loops over examples and features: cost and db"):
        TOURS["loop-levels"](quiet, n=20, m=10)


# --------------------------------------------------------------------------------------------
# squared error, and the computation graph


def test_only_the_squared_error_bends_down():
    values = TOURS["squared-error"](quiet, n=41)
    assert values["squared error: smallest curvature"] < -0.1
    assert values["cross-entropy: smallest curvature"] > 0
    np.testing.assert_allclose(values["cross-entropy: descent"], [[1.282, 0.641, 0.3129]] * 3, 1e-3)
    assert np.ptp(values["squared error: descent"][:, 2]) > 0.3
    # at w = b = 0 every probability is 1/2
    assert values["cross-entropy"][20, 20] == pytest.approx(np.log(2))
    assert values["squared error"][20, 20] == pytest.approx(1 / 8)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_the_losses_derivatives_are_those_of_their_values(name):
    loss, z, h = losses.LOSSES[name], np.linspace(-5, 5, 21), 1e-4
    y = np.arange(21) % 2

    def a(z):
        return 1 / (1 + np.exp(-z))

    below, at, above = (loss.value(z + d, a(z + d), y) for d in (-h, 0, h))
    np.testing.assert_allclose(loss.slope(a(z), y), (above - below) / (2 * h), atol=1e-8)
    np.testing.assert_allclose(loss.curvature(a(z), y), (above - 2 * at + below) / h**2, atol=1e-6)


def test_a_convex_squared_error_is_refused(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "squared error", losses.LOSSES["cross-entropy"])
    with pytest.raises(ArithmeticError, match="only the cross-entropy"):
        TOURS["squared-error"](quiet, n=11)


def test_derivatives_on_the_graph_are_the_notes():
    values = TOURS["computation-graph"](quiet)
    notes = {"u": 6, "v": 11, "J": 33, "dJ/dv": 3, "dJ/du": 3, "dJ/da": 3, "dJ/db": 6, "dJ/dc": 9}
    assert {name: values[name] for name in notes} == notes
    assert values["dL/dz"] == values["dL/db"] == pytest.approx(values["a"] - 1)
    assert values["dL/dw2"] == 2 * values["dL/dw1"]


# --------------------------------------------------------------------------------------------
# caches, L2 and dropout


@pytest.mark.usefixtures("there")
def test_caches_end_in_the_published_output():
    values = TOURS["forward-caches"](quiet)
    published = [[0.03921668, 0.70498921, 0.19734387, 0.04728177]]
    np.testing.assert_allclose(values["A3"], published, atol=1e-8)
    for l in (1, 2):
        np.testing.assert_array_equal(values[f"A{l}"], np.maximum(values[f"Z{l}"], 0))
        assert values[f"dW{l}"].shape[0] == len(values[f"Z{l}"])


@pytest.mark.usefixtures("there")
def test_l2_and_dropout_give_the_published_figures():
    values = TOURS["regularisation"](quiet)
    assert values["cost"] == pytest.approx(1.78648594516, abs=1e-11)
    np.testing.assert_allclose(values["dW3"], [[-1.77691347, -0.11832879, -0.09397446]], 1e-7)
    published = [[0.36974721, 0.00305176, 0.04565099, 0.49683389, 0.36974721]]
    np.testing.assert_allclose(values["A3"], published, atol=1e-8)
    assert values["dA1"][0, 0] == pytest.approx(0.36544439)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("L2_COST", 1.79, "the cost with L2"),
        ("L2_GRADIENTS", {f"dW{l}": [[0]] for l in (1, 2, 3)}, "dW1"),
        ("DROPOUT_OUTPUT", [[0.4] * 5], "A3"),
        ("DROPOUT_GRADIENTS", {"dA2": np.ones((3, 5))}, "dA2"),
    ],
)
def test_other_figures_than_the_published_are_noticed(monkeypatch, name, wrong, message):
    monkeypatch.setattr(regularisation, name, wrong)
    with pytest.raises(ArithmeticError, match=f"^{message} gave"):
        TOURS["regularisation"](quiet)


# --------------------------------------------------------------------------------------------
# gradient checking


@pytest.mark.usefixtures("there")
def test_gradient_checks_tell_right_from_wrong():
    said = []
    values = TOURS["gradient-check"](said.append)
    for (what, _, _), difference in values.items():
        assert difference < 1e-8 if what.endswith("right") else difference > 0.1
    assert sum(text.endswith("   right") for text in said) == 4
    assert sum(text.endswith("there is a mistake") for text in said) == 8


def test_gradient_checks_give_the_course_figures():
    values = TOURS["gradient-check"](quiet)
    first = (1e-7, "|a|+|b|")
    assert values["1-D: right", *first] == pytest.approx(2.919335883291695e-10, rel=1e-6)
    both = values["n-D: dW2 doubled and db1 times 4", *first]
    assert both == pytest.approx(0.285093156781, abs=1e-7)


def test_a_mistake_that_is_not_found_stops_the_tour(monkeypatch):
    monkeypatch.setitem(checking.MISTAKES, "none at all", {})
    with pytest.raises(ArithmeticError, match="n-D, none at all"):
        TOURS["gradient-check"](quiet)


# --------------------------------------------------------------------------------------------
# exercise 4's weights


def course_cost(lambd):
    """J of the course's own formulas, on the files as they are."""
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


@pytest.mark.usefixtures("there")
def test_given_weights_cost_what_the_course_computes(ex4):
    said = []
    values = TOURS["ex4-weights"](said.append, folder=ex4)
    for lambd in (0, 1):
        assert values[f"cost, λ = {lambd}"] == pytest.approx(course_cost(lambd)[0], rel=1e-10)
    assert values["accuracy"] == pytest.approx(course_cost(0)[1])
    text = "\n".join(said)
    assert "0.287629" in text
    assert "0.383770" in text
    assert text.count("not the course's files?") == 2


@pytest.mark.usefixtures("ex4")
def test_given_weights_that_cost_the_published_say_so(monkeypatch):
    published = {float(lambd): round(course_cost(lambd)[0], 6) for lambd in (0, 1)}
    monkeypatch.setattr(ex4_weights, "PUBLISHED", published)
    said = []
    TOURS["ex4-weights"](said.append)
    assert sum(text.endswith("the same") for text in said) == 2


def test_without_the_files_the_error_says_where_to_put_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ex4data1.mat: no such file: put .* ACCELNN_DATA"):
        TOURS["ex4-weights"](quiet, folder=tmp_path)
