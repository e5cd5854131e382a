"""The check itself: against functions whose gradients are known."""

import numpy as np
import pytest
from helpers.core import refused

from accelnn import Network, gradient_check
from accelnn.numerical import numerical_gradient, relative_difference


def test_numerical_gradients_are_central_differences():
    theta = np.array([4.0, 2])
    theta.setflags(write=False)
    gradient = numerical_gradient(lambda theta: float(3 * theta[0] - theta[1]), theta)
    np.testing.assert_allclose(gradient, [3, -1], rtol=1e-7)
    # (x + h)^3 - (x - h)^3 = 6 x² h + 2 h³: the error of the slope is exactly h²
    gradient = numerical_gradient(lambda x: float(x[0] ** 3), np.array([2.0]), step=1e-2)
    assert gradient[0] - 12 == pytest.approx(1e-4, rel=1e-6)
    for dtype in ("i8", "f4"):  # which would round the step away
        gradient = numerical_gradient(lambda theta: (theta**2).sum(), np.array([1, 2], dtype))
        np.testing.assert_allclose(gradient, [2, 4], rtol=1e-7)


def test_relative_differences_of_both_norms():
    a, b = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    assert relative_difference(a, b) == pytest.approx(4 / (5 + 3))
    assert relative_difference(a, b, "|a+b|") == pytest.approx(4 / np.hypot(6, 4))
    assert relative_difference(a, a) == 0
    assert relative_difference(np.zeros(2), np.zeros(2)) == 0
    assert relative_difference(a, -a, "|a+b|") == np.inf
    for scale in (1e-300, 1e300):  # whose squares are 0 and infinite
        assert relative_difference(scale * a, scale * b) == pytest.approx(4 / (5 + 3))
    with refused("real numbers", TypeError):
        relative_difference(a + 1j, b)


def test_bad_arguments_are_refused():
    with refused("unknown norm 'max'"):
        relative_difference(np.ones(2), np.ones(2), "max")
    with refused(r"\(2,\) and \(3,\)"):
        relative_difference(np.ones(2), np.ones(3))
    net, X, Y = Network([2, 1]), np.ones((2, 3)), np.ones((1, 3))
    with refused("float64 parameters, got float32"):
        gradient_check(net, net.init(dtype="float32"), X, Y)
    with refused(r"params as accelnn\.Parameters, got NoneType", TypeError):
        gradient_check(net, None, X, Y)
