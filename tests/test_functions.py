"""The functions against closed forms, numerical derivatives, SciPy and their own invariants."""

import itertools
import math

import numpy as np
import pytest
from helpers.core import refused
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special

import accelnn
from accelnn import functions as f
from accelnn.backend import backend_of, to_device, to_host

# name: closed form, and that of the derivative
ACTIVATIONS = {
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(np.clip(x, -350, 350)) ** 2),
    "relu": (lambda x: x * (x > 0), lambda x: (x > 0) * 1.0),
    "leaky_relu": (lambda x: x * np.where(x > 0, 1, 0.01), lambda x: np.where(x > 0, 1, 0.01)),
}
EXTREMES = [-1e4, -745.0, -88.0, -1.0, -1e-300, 0.0, 1e-300, 1.0, 88.0, 745.0, 1e4]
SHAPES = [(), (3,), (4, 1), (2, 5), (0,), (2, 3, 4)]
DTYPES = ["float32", "float64"]
floats = st.floats(-1e4, 1e4)


def close(got, expected, case, dtype="float64"):
    tolerance = {"float64": 1e-14, "float32": 2e-6}[dtype]
    np.testing.assert_allclose(to_host(got), expected, tolerance, tolerance, err_msg=str(case))


def test_activations_and_derivatives_are_the_closed_forms(there, random):
    assert ACTIVATIONS.keys() == f.ACTIVATIONS.keys()
    for (name, forms), dtype in itertools.product(ACTIVATIONS.items(), DTYPES):
        inputs = [np.array(EXTREMES, dtype)]
        inputs += [np.asarray(random.normal(0, 3, shape), dtype) for shape in SHAPES]
        for x in inputs:
            case = name, dtype, x.shape
            moved = to_device(x)
            expected, slope = (form(x.astype("f8")) for form in forms)
            got = getattr(f, name)(moved), getattr(f, f"{name}_derivative")(moved)
            for value, closed_form in zip(got, (expected, slope), strict=True):
                assert (value.shape, value.dtype) == (x.shape, dtype), case
                assert backend_of(value).name == there.name, case
                close(value, closed_form, case, dtype)
            np.testing.assert_array_equal(to_host(moved), x, err_msg=f"{case} changed its input")
            if x.ndim:
                assert getattr(f, name)(moved, out=moved) is moved, case
                close(moved, expected, (*case, "out"), dtype)
                assert f.ACTIVATIONS[name].slope(moved, out=moved) is moved, case
                close(moved, slope, (*case, "slope out"), dtype)


def test_activations_take_numbers_and_lists_and_pass_nan_on():
    for name, (form, _) in ACTIVATIONS.items():
        function = getattr(f, name)
        assert function(1) == pytest.approx(form(1.0), rel=1e-15), name
        assert np.ndim(function(1)) == 0, name
        got = function([[1, -2], [0, 3]])
        close(got, form(np.array([[1.0, -2], [0, 3]])), name)
        assert got.dtype == np.float64, name
        assert np.isnan(function(np.array([np.nan, 1.0]))).tolist() == [True, False], name


@given(floats)
def test_sigmoid_is_between_0_and_1_and_point_symmetric(x):
    assert 0 <= f.sigmoid(x) <= 1
    assert f.sigmoid(x) + f.sigmoid(-x) == pytest.approx(1, abs=1e-15)
    assert f.sigmoid(x) == pytest.approx(special.expit(x), rel=1e-14, abs=1e-300)


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=floats))
def test_softmax_is_a_distribution_that_ignores_a_common_shift(x):
    p = f.softmax(x)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(p, special.softmax(x, axis=0), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(f.softmax(x + 100), p, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(f.softmax(x.T, axis=1), p.T, rtol=1e-13)


@pytest.mark.usefixtures("there")
def test_softmax_of_vectors_scalars_and_in_place():
    assert f.softmax(5.0) == 1.0
    for dtype in DTYPES:
        x = np.array([1.0, 2, 3], dtype)
        got = f.softmax(to_device(x))
        close(got, special.softmax(x.astype("f8")), dtype, dtype)
        assert got.dtype == dtype
        work = to_device(np.array([[1e4, 0], [-1e4, 0]], dtype))
        f.softmax(work, out=work)
        close(work, [[1, 0.5], [0, 0.5]], dtype, dtype)


def numerical_jacobian(function, x, step=1e-6):
    columns = []
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        columns.append((function(above) - function(below)) / (2 * step))
    return np.stack(columns, axis=-1)


def test_softmax_derivative_is_the_jacobian(random):
    x = random.normal(size=6)
    np.testing.assert_allclose(f.softmax_derivative(x), numerical_jacobian(f.softmax, x), atol=1e-9)
    with refused(r"\(n,\).*\(2, 2\)"):
        f.softmax_derivative(np.ones((2, 2)))


def mean_over_examples(loss):
    return lambda a, y: loss(a, y).sum() / a.shape[-1]


LOSSES = {
    "L1": lambda a, y: np.abs(a - y).sum(),
    "L2": lambda a, y: ((a - y) ** 2).sum(),
    "half_mean_squared_error": mean_over_examples(lambda a, y: (a - y) ** 2 / 2),
    "binary_cross_entropy": mean_over_examples(lambda a, y: -np.log(np.where(y == 1, a, 1 - a))),
    "binary_cross_entropy_from_logits": mean_over_examples(
        lambda z, y: -special.log_expit(np.where(y == 1, z, -z))
    ),
    "categorical_cross_entropy": mean_over_examples(lambda a, y: -np.log(a) * y),
    "categorical_cross_entropy_from_logits": mean_over_examples(
        lambda z, y: -special.log_softmax(z, axis=0) * y
    ),
}


@pytest.mark.usefixtures("there")
def test_losses_are_the_closed_forms_and_their_derivatives_the_numerical_ones(random):
    y = np.eye(3)[:, random.integers(3, size=7)]
    for (name, form), dtype in itertools.product(LOSSES.items(), DTYPES):
        function, derivative = getattr(f, name), getattr(f, f"{name}_derivative")
        # all losses are defined for probabilities, and those of logits for other numbers too
        a = random.uniform(0.05, 0.95, y.shape)
        if name.endswith("logits"):
            a = special.logit(a)
        given = to_device(a, dtype), to_device(y, dtype)
        loss = function(*given)
        assert (loss.dtype, loss.shape) == (dtype, ()), name
        close(loss, form(a.astype(dtype).astype("f8"), y), name, dtype)
        if dtype == "float64":
            numerical = numerical_jacobian(lambda a, f=function: f(a, y), a).reshape(a.shape)
            np.testing.assert_allclose(to_host(derivative(*given)), numerical, 1e-6, 1e-8, name)


def test_losses_take_numbers_lists_and_vectors_of_one_shape():
    for name, form in LOSSES.items():
        function, derivative = getattr(f, name), getattr(f, f"{name}_derivative")
        a, y = [0.25, 0.75], [0, 1]
        expected = form(np.array(a), np.array(y))
        assert function(a, y) == pytest.approx(expected, rel=1e-14), name
        if "categorical" not in name:
            one = form(np.array([0.25]), np.array([1.0]))
            assert function(0.25, 1) == pytest.approx(one, rel=1e-14), name
        for refusing in (function, derivative):
            with refused(r"one shape, got \(3, 1\) and \(3,\)"):
                refusing(np.full((3, 1), 0.5), np.ones(3))


@pytest.mark.usefixtures("there")
def test_cross_entropies_from_logits_are_finite_and_right_at_1e4():
    # a right certainty costs 0, a wrong one its logit, indifference log 2
    costs = {
        "binary": (0 + 2e4 + 1e4 + 2 * math.log(2)) / 4,
        "categorical": (0 + 2e4 + math.log(2) + math.log(2)) / 4,
    }
    for (name, expected), dtype in itertools.product(costs.items(), DTYPES):
        z = to_device(np.array([[1e4, -1e4, 1e4, 0], [-1e4, 1e4, 1e4, 0]], dtype))
        y = to_device(np.array([[1, 1, 0, 1], [0, 0, 1, 0]], dtype))
        loss = getattr(f, f"{name}_cross_entropy_from_logits")(z, y)
        assert float(to_host(loss)) == pytest.approx(expected, rel=1e-6), (name, dtype)
        slope = getattr(f, f"{name}_cross_entropy_from_logits_derivative")(z, y)
        assert np.isfinite(to_host(slope)).all(), (name, dtype)


@pytest.mark.usefixtures("there")
def test_cross_entropies_of_certain_probabilities_are_zero_or_infinite_never_nan():
    a, y = to_device(np.array([[1.0, 0.0]])), to_device(np.array([[1.0, 0.0]]))
    for name in ("binary_cross_entropy", "categorical_cross_entropy"):
        assert to_host(getattr(f, name)(a, y)) == 0
        assert to_host(getattr(f, name)(1 - a, y)) == math.inf
    assert to_host(f.binary_cross_entropy_derivative(a, y)).tolist() == [[-0.5, 0.5]]
    assert to_host(f.categorical_cross_entropy_derivative(1 - a, y))[0, 0] == -math.inf


@given(st.lists(st.tuples(floats, st.booleans()), min_size=1, max_size=8))
def test_binary_cross_entropy_from_logits_agrees_with_scipy(pairs):
    z, y = (np.array(values, float) for values in zip(*pairs, strict=True))
    expected = -special.log_expit(np.where(y == 1, z, -z)).mean()
    assert f.binary_cross_entropy_from_logits(z, y) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.usefixtures("there")
def test_small_array_functions():
    for dtype in DTYPES:
        x = np.array([[0, 3, 4], [0, 0, 0], [1e-30, 0, 0]], dtype)
        got = f.normalize_rows(to_device(x))
        assert got.dtype == dtype
        close(got, [[0, 0.6, 0.8], [0, 0, 0], [1, 0, 0]], dtype, dtype)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    got = to_host(f.image2vector(to_device(image)))
    assert (got.shape, got.dtype) == ((24, 1), np.uint8)
    assert got.ravel().tolist() == list(range(24))  # row by row
    got = to_host(accelnn.one_hot(to_device(np.array([2, 0, 1])), 3))
    np.testing.assert_array_equal(got, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert got.dtype == np.float64
    assert accelnn.one_hot([], 3).shape == (3, 0)


@given(arrays.arrays(np.float64, (3, 4), elements=st.floats(-1e300, 1e300)))
def test_rows_have_length_one_or_are_zero(x):
    length = np.linalg.norm(f.normalize_rows(x), axis=1)
    np.testing.assert_allclose(length, np.any(x != 0, axis=1), rtol=1e-12)


def test_one_hot_refuses_other_labels():
    for labels, message in (
        ([0, 3], r"0\.\.2, got 0\.\.3$"),
        ([-1, 0], r"0\.\.2, got -1\.\.0$"),
        ([1, 3], r"0\.\.2, got 1\.\.3: pass labels - 1$"),
        ([0.5], r"integer.*float64.*astype\(int\)"),
        ([[0, 1]], r"\(m,\).*\(1, 2\)"),
    ):
        with refused(message):
            accelnn.one_hot(labels, 3)


# --------------------------------------------------------------------------------------------
# an activation from outside


def softplus(x, out=None):
    """log(1 + e^x)"""
    return np.log1p(np.exp(x), out=out)


def softplus_slope(a, out=None):
    """1 - e^-a"""
    return np.subtract(1, np.exp(-a), out=out)


def test_an_activation_added_from_outside_trains(monkeypatch, random):
    monkeypatch.setitem(f.ACTIVATIONS, "softplus", f.Activation(softplus, softplus_slope))
    X = random.normal(size=(3, 40))
    net = accelnn.Network([3, 5, 1], hidden="softplus", keep_prob=0.9)
    params = net.init()
    assert accelnn.gradient_check(net, params, X, X[0] > 0) < 1e-7
    _, history = accelnn.fit(net, params, X, X[0] > 0, epochs=300, learning_rate=0.5)
    assert history.final_cost < 0.5 * history.costs[0]
