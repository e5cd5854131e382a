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
    "identity": (lambda x: x, np.ones_like),
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


# --------------------------------------------------------------------------------------------
# every float, against extended precision

LONG = np.longdouble
EXACT = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sigmoid_derivative": lambda x: 0.25 / np.cosh(x / 2) ** 2,
    "tanh": np.tanh,
    "tanh_derivative": lambda x: 1 / np.cosh(x) ** 2,
    "relu": lambda x: np.where(x < 0, 0, x),
    "relu_derivative": lambda x: np.where(np.isnan(x), x, x > 0),
    "leaky_relu": lambda x: np.where(x < 0, x * LONG(np.float64(0.01)), x),
    "leaky_relu_derivative": lambda x: np.where(np.isnan(x), x, np.where(x > 0, 1, 0.01)),
    "identity": lambda x: x,
}
TYPES = ["f4", "f8", ">f4", ">f8", "f2", "g", "i1", "u8", "?"]


def edges(dtype):
    """NaN, the infinities, zeros, and both ends of the subnormal and normal numbers."""
    info = np.finfo(dtype)
    some = [0, info.smallest_subnormal, info.tiny, info.eps, 1, 20, info.max, np.inf, np.nan]
    return np.array([some, np.negative(some)], dtype)


def assert_within(got, exact, ulps, case):
    """Equal, or apart by so many units in the last place, or by less than all normal numbers."""
    info, exact = np.finfo(got.dtype), np.asarray(exact, LONG)
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        off = np.abs(got.astype(LONG) - exact) - ulps * info.eps * np.abs(exact) <= info.tiny
        same = (got == rounded) | (np.isnan(got) & np.isnan(exact))
    assert got.shape == exact.shape, case
    assert np.all(same | off), (case, got, exact)


@given(st.data(), st.sampled_from(TYPES))
def test_activations_and_derivatives_are_within_10_ulps_of_every_number(data, dtype):
    dtype = np.dtype(dtype)
    shape = data.draw(st.sampled_from([(), (0,), (5,), (2, 3)]))
    numbers = arrays.from_dtype(np.dtype(np.float64) if dtype.char == "g" else dtype)
    inputs = [data.draw(arrays.arrays(dtype, shape, elements=numbers))]
    inputs += [edges("f8" if dtype.char == "g" else dtype)] if dtype.kind == "f" else []
    for x, (name, exact) in itertools.product(inputs, EXACT.items()):
        x = x.astype(dtype)
        with np.errstate(all="ignore"):
            expected = exact(x.astype(LONG))
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            got = np.asarray(getattr(f, name)(x))
        assert got.dtype.char == ("f" if dtype.char == "f" else "d"), (name, dtype)
        assert_within(got, expected, 10, (name, dtype, x))


def exact_losses(Z, Y):
    """The losses of logits (n, m) and one-hot labels, binary and categorical, sums over m."""
    Z = Z.astype(LONG)
    binary = np.logaddexp(0, np.where(Y == 1, -Z, Z)).sum()
    right, top = (Z * Y).sum(axis=0), Z.max(axis=0)
    rest = np.exp(np.where(Y == 1, -np.inf, Z) - top).sum(axis=0)
    wrong = top - right + np.log(rest + np.exp(right - top))
    return binary, np.where(right == top, np.log1p(rest), wrong).sum()


@given(st.data(), st.sampled_from(["f4", "f8"]), st.integers(2, 4), st.integers(1, 4))
def test_cross_entropies_from_logits_keep_their_digits(data, dtype, n, m):
    finite = arrays.from_dtype(np.dtype(dtype), min_value=-1e4, max_value=1e4, allow_nan=False)
    Z = data.draw(arrays.arrays(dtype, (n, m), elements=finite))
    Y = np.eye(n)[:, data.draw(st.lists(st.integers(0, n - 1), min_size=m, max_size=m))]
    with np.errstate(divide="ignore"):
        binary, categorical = exact_losses(Z, Y)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        got = [
            np.asarray(getattr(f, f"{name}_cross_entropy_from_logits")(Z, Y.astype(dtype)))
            for name in ("binary", "categorical")
        ]
    assert_within(got[0] * m, binary, 10 + n * m, ("binary", Z, Y))
    # z - max is rounded before e^z, which multiplies the error by it, up to the underflow
    reach = min(float(np.ptp(Z, axis=0).max()), 745.0)
    assert_within(got[1] * m, categorical, 10 + n * m + reach, ("categorical", Z, Y))


def test_tiny_costs_keep_their_digits():
    for dtype, z in (("f8", 40.0), ("f4", 30.0)):
        tiny = math.exp(-z)
        Z, Y = np.array([[z], [0], [-np.inf]], dtype), np.array([[1], [0], [0]], dtype)
        cost = f.categorical_cross_entropy_from_logits(Z, Y)
        assert cost == pytest.approx(tiny, rel=1e-6, abs=0), dtype
        cost = f.binary_cross_entropy_from_logits(Z[:1], Y[:1])
        assert cost == pytest.approx(tiny, rel=1e-6, abs=0)
        for A, y in ((tiny, 0.0), (1 - 2**-20, 1.0)):
            expected = -math.log1p(-A) if y == 0 else -math.log(A)
            assert f.binary_cross_entropy(A, y) == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.usefixtures("there")
def test_infinite_logits_cost_their_limits():
    inf, nan = math.inf, math.nan
    binary = [(inf, 1, 0), (-inf, 0, 0), (-inf, 1, inf), (inf, 0, inf), (inf, 0.5, inf)]
    binary += [(nan, 0, nan), (nan, 1, nan)]
    several = [([inf, 0], 0, 0), ([inf, 0], 1, inf), ([-inf, 0], 1, 0), ([-inf, 0], 0, inf)]
    several += [([inf, inf], 0, nan), ([-inf, -inf], 0, nan), ([nan, 0], 1, nan)]
    for dtype in DTYPES:
        for z, y, cost in binary:
            given = to_device(np.array([[z]], dtype)), to_device(np.array([[y]], dtype))
            got = to_host(f.binary_cross_entropy_from_logits(*given))
            np.testing.assert_equal(float(got), cost, f"{z} {y}")
        for z, label, cost in several:
            Y = np.eye(2, dtype=dtype)[:, [label]]
            given = to_device(np.array(z, dtype)[:, None]), to_device(Y)
            got = to_host(f.categorical_cross_entropy_from_logits(*given))
            np.testing.assert_equal(float(got), cost, f"{z} {label}")


def test_numbers_that_are_not_real_and_outputs_that_do_not_fit_are_refused():
    masked = np.ma.array([0.5, 0.5], mask=[False, True])
    dates, objects = np.array([1, 2], "M8[s]"), np.array([1, None])
    for x in (masked, np.array([1j, 2]), objects, ["1", "2"], dates):
        for name in [*EXACT, "softmax", "normalize_rows", "image2vector"]:
            with refused("real numbers|masked", TypeError):
                getattr(f, name)(x)
        with refused("real numbers|masked", TypeError):
            f.L2([0.5, 0.5], x)
    for out in (np.empty(3, "f4"), np.empty(3, int), np.empty((2, 3)), np.empty(1)):
        for name in [*EXACT, "softmax"]:
            with refused(r"out as float64 of shape \(3,\), got"):
                getattr(f, name)(np.zeros(3), out=out)
    x = np.arange(6.0)
    expected = f.sigmoid(x[:5])
    np.testing.assert_array_equal(f.sigmoid(x[:5], out=x[1:]), expected)  # which overlaps
    assert np.isnan(f.softmax(np.nan))


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
