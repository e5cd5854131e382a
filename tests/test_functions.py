"""The functions against closed forms, numerical derivatives, SciPy and their own invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special

import accelnn
from accelnn import functions as f
from accelnn.backend import to_device, to_host

EXTREMES = [-1e4, -745.0, -88.0, -1.0, -1e-300, 0.0, 1e-300, 1.0, 88.0, 745.0, 1e4]
CLOSED_FORMS = {
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: x * np.where(x > 0, 1, 0.01),
}
DERIVATIVES = {
    "sigmoid": lambda x: special.expit(x) * special.expit(-x),
    "tanh": lambda x: 1 / np.cosh(np.clip(x, -350, 350)) ** 2,
    "relu": lambda x: (x > 0) * 1.0,
    "leaky_relu": lambda x: np.where(x > 0, 1, 0.01),
}
SHAPES = [(), (3,), (4, 1), (2, 5), (0,), (2, 3, 4)]
floats = st.floats(-1e4, 1e4)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
activations = pytest.mark.parametrize("name", f.ACTIVATIONS)


def close(got, expected, dtype="float64"):
    tolerance = {"float64": 1e-14, "float32": 2e-6}[dtype]
    np.testing.assert_allclose(to_host(got), expected, rtol=tolerance, atol=tolerance)


@activations
@dtypes
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_and_derivatives_are_the_closed_forms(there, random, name, dtype, shape):
    x = random.normal(0, 3, shape).astype(dtype)
    moved = to_device(x)
    value = getattr(f, name)(moved)
    slope = getattr(f, f"{name}_derivative")(moved)
    assert value.shape == slope.shape == shape
    assert value.dtype == slope.dtype == dtype
    close(value, CLOSED_FORMS[name](x.astype("f8")), dtype)
    close(slope, DERIVATIVES[name](x.astype("f8")), dtype)
    np.testing.assert_array_equal(to_host(moved), x)
    assert there.name == accelnn.backend.backend_of(moved).name


@activations
@dtypes
@pytest.mark.usefixtures("there")
def test_activations_are_right_at_extremes_without_a_warning(name, dtype):
    x = np.array(EXTREMES, dtype)
    close(getattr(f, name)(to_device(x)), CLOSED_FORMS[name](x.astype("f8")), dtype)
    close(getattr(f, f"{name}_derivative")(to_device(x)), DERIVATIVES[name](x.astype("f8")), dtype)


@activations
def test_numbers_and_lists_are_converted(name):
    assert getattr(f, name)(1) == pytest.approx(CLOSED_FORMS[name](1.0), rel=1e-15)
    assert np.ndim(getattr(f, name)(1)) == 0
    got = getattr(f, name)([[1, -2], [0, 3]])
    close(got, CLOSED_FORMS[name](np.array([[1.0, -2], [0, 3]])))
    assert got.dtype == np.float64


@activations
@pytest.mark.usefixtures("there")
def test_out_receives_the_result_and_may_be_the_input(name, random):
    x = random.normal(size=(3, 4))
    expected = CLOSED_FORMS[name](x)
    work = to_device(x.copy())
    getattr(f, name)(work, out=work)
    close(work, expected)
    slope = f.ACTIVATIONS[name].slope
    expected = DERIVATIVES[name](x)
    slope(work, out=work)
    close(work, expected)


@activations
def test_nan_goes_through(name):
    assert np.isnan(getattr(f, name)(np.array([np.nan, 1.0]))).tolist() == [True, False]


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


@dtypes
@pytest.mark.usefixtures("there")
def test_softmax_of_vectors_scalars_and_in_place(dtype):
    x = np.array([1.0, 2, 3], dtype)
    close(f.softmax(to_device(x)), special.softmax(x.astype("f8")), dtype)
    assert f.softmax(to_device(x)).dtype == dtype
    assert f.softmax(5.0) == 1.0
    work = to_device(np.array([[1e4, 0], [-1e4, 0]], dtype))
    f.softmax(work, out=work)
    close(work, [[1, 0.5], [0, 0.5]], dtype)


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
    with pytest.raises(ValueError, match=r"\(n,\).*\(2, 2\)"):
        f.softmax_derivative(np.ones((2, 2)))


LOSSES = {
    # name: (closed form, what the first argument is)
    "L1": (lambda a, y: np.abs(a - y).sum(), "any"),
    "L2": (lambda a, y: ((a - y) ** 2).sum(), "any"),
    "binary_cross_entropy": (
        lambda a, y: -np.log(np.where(y == 1, a, 1 - a)).sum() / a.shape[-1],
        "probability",
    ),
    "binary_cross_entropy_from_logits": (
        lambda z, y: -special.log_expit(np.where(y == 1, z, -z)).sum() / z.shape[-1],
        "any",
    ),
    "categorical_cross_entropy": (
        lambda a, y: -np.log(a)[y == 1].sum() / a.shape[-1],
        "probability",
    ),
    "categorical_cross_entropy_from_logits": (
        lambda z, y: -special.log_softmax(z, axis=0)[y == 1].sum() / z.shape[-1],
        "any",
    ),
    "half_mean_squared_error": (lambda a, y: ((a - y) ** 2).sum() / 2 / a.shape[-1], "any"),
}
losses = pytest.mark.parametrize("name", LOSSES)


def example(name, random, m=7, outputs=3):
    kind = LOSSES[name][1]
    a = (
        random.uniform(0.05, 0.95, (outputs, m))
        if kind == "probability"
        else random.normal(size=(outputs, m))
    )
    return a, np.eye(outputs)[:, random.integers(outputs, size=m)]


@losses
@dtypes
@pytest.mark.usefixtures("there")
def test_losses_are_the_closed_forms(name, dtype, random):
    a, y = (array.astype(dtype) for array in example(name, random))
    loss = getattr(f, name)(to_device(a), to_device(y))
    assert loss.dtype == dtype
    assert loss.shape == ()
    close(loss, LOSSES[name][0](a.astype("f8"), y), dtype)


@losses
@pytest.mark.usefixtures("there")
def test_derivatives_of_losses_are_the_numerical_ones(name, random):
    a, y = example(name, random)
    derivative = to_host(getattr(f, f"{name}_derivative")(to_device(a), to_device(y)))
    numerical = numerical_jacobian(lambda a: getattr(f, name)(a, y), a).reshape(a.shape)
    np.testing.assert_allclose(derivative, numerical, atol=1e-8)


@losses
def test_losses_take_numbers_lists_and_vectors(name):
    a, y = [0.25, 0.75], [0, 1]
    expected = LOSSES[name][0](np.array(a), np.array(y))
    assert getattr(f, name)(a, y) == pytest.approx(expected, rel=1e-14)
    if "softmax" not in name and "categorical" not in name:
        one = LOSSES[name][0](np.array([0.25]), np.array([1.0]))
        assert getattr(f, name)(0.25, 1) == pytest.approx(one, rel=1e-14)


@pytest.mark.parametrize("name", ["binary", "categorical"])
@dtypes
@pytest.mark.usefixtures("there")
def test_cross_entropies_from_logits_are_finite_and_right_at_1e4(name, dtype):
    z = np.array([[1e4, -1e4, 1e4, 0], [-1e4, 1e4, 1e4, 0]], dtype)
    y = np.array([[1, 1, 0, 1], [0, 0, 1, 0]], dtype)
    loss = getattr(f, f"{name}_cross_entropy_from_logits")(to_device(z), to_device(y))
    # a right certainty costs 0, a wrong one its logit, indifference log 2
    expected = {
        "binary": (0 + 2e4 + 1e4 + 2 * math.log(2)) / 4,
        "categorical": (0 + 2e4 + math.log(2) + math.log(2)) / 4,
    }[name]
    assert float(to_host(loss)) == pytest.approx(expected, rel=1e-6)
    slope = getattr(f, f"{name}_cross_entropy_from_logits_derivative")(to_device(z), to_device(y))
    assert np.isfinite(to_host(slope)).all()


@pytest.mark.usefixtures("there")
def test_cross_entropies_of_certain_probabilities_are_zero_or_infinite_never_nan():
    a, y = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])
    for name in ("binary_cross_entropy", "categorical_cross_entropy"):
        assert to_host(getattr(f, name)(to_device(a), to_device(y))) == 0
        assert to_host(getattr(f, name)(to_device(1 - a), to_device(y))) == math.inf
    np.testing.assert_array_equal(
        to_host(f.binary_cross_entropy_derivative(to_device(a), to_device(y))), [[0, 0]]
    )
    assert to_host(f.categorical_cross_entropy_derivative(to_device(1 - a), to_device(y)))[
        0, 0
    ] == (-math.inf)


@given(st.lists(st.tuples(floats, st.booleans()), min_size=1, max_size=8))
def test_binary_cross_entropy_from_logits_agrees_with_scipy(pairs):
    z, y = (np.array(values, float) for values in zip(*pairs, strict=True))
    expected = -special.log_expit(np.where(y == 1, z, -z)).mean()
    assert f.binary_cross_entropy_from_logits(z, y) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@dtypes
@pytest.mark.usefixtures("there")
def test_normalize_rows(dtype):
    x = np.array([[0, 3, 4], [0, 0, 0], [1e-30, 0, 0]], dtype)
    got = f.normalize_rows(to_device(x))
    assert got.dtype == dtype
    close(got, [[0, 0.6, 0.8], [0, 0, 0], [1, 0, 0]], dtype)


@given(arrays.arrays(np.float64, (3, 4), elements=st.floats(-1e300, 1e300)))
def test_rows_have_length_one_or_are_zero(x):
    length = np.linalg.norm(f.normalize_rows(x), axis=1)
    np.testing.assert_allclose(length, np.any(x != 0, axis=1), rtol=1e-12)


@pytest.mark.usefixtures("there")
def test_image2vector_reads_a_picture_row_by_row():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    got = to_host(f.image2vector(to_device(image)))
    assert got.shape == (24, 1)
    assert got.dtype == np.uint8
    assert got.ravel().tolist() == list(range(24))


@pytest.mark.usefixtures("there")
def test_one_hot_columns():
    got = to_host(accelnn.one_hot(to_device(np.array([2, 0, 1])), 3))
    np.testing.assert_array_equal(got, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert got.dtype == np.float64
    assert accelnn.one_hot([], 3).shape == (3, 0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"0\.\.2, got 0\.\.3"),
        ([-1, 0], r"0\.\.2, got -1\.\.0"),
        ([0.5], "integer.*float64"),
        ([[0, 1]], r"\(m,\).*\(1, 2\)"),
    ],
)
def test_one_hot_refuses_what_is_no_label(labels, message):
    with pytest.raises(ValueError, match=message):
        accelnn.one_hot(labels, 3)


@pytest.mark.parametrize(
    "function",
    [
        f.L1,
        f.L2,
        f.binary_cross_entropy,
        f.binary_cross_entropy_from_logits,
        f.categorical_cross_entropy_derivative,
        f.half_mean_squared_error,
    ],
)
def test_predictions_and_labels_of_two_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"one shape, got \(3, 1\) and \(3,\)"):
        function(np.full((3, 1), 0.5), np.ones(3))
