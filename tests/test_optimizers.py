"""The optimizers: the published algorithms number by number, schedules, your own, bad values."""

import itertools
import math

import numpy as np
import pytest
from helpers.core import refused, small
from hypothesis import given
from hypothesis import strategies as st

import accelnn
from accelnn import SGD, Adam, HeavyBall, Momentum, Nesterov, Network, optimizers
from accelnn.backend import array_module, to_device, to_host

TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


# --------------------------------------------------------------------------------------------
# the algorithms as published, on one number


def descent(theta, gradients, rates):
    """θ ← θ - α dθ"""
    for gradient, rate in zip(gradients, rates, strict=True):
        theta -= rate * gradient
    return theta


def momentum(theta, gradients, rates, beta=0.9):
    """The notes: V ← β V + (1 - β) dθ, θ ← θ - α V"""
    v = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        v = beta * v + (1 - beta) * gradient
        theta -= rate * v
    return theta


def adam(theta, gradients, rates, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Kingma and Ba (2015), algorithm 1"""
    m, v = 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta -= rate * m_hat / (math.sqrt(v_hat) + epsilon)
    return theta


OWN_ADAM = {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}
ADAM_OF_ZEROS = {"beta1": 0.0, "beta2": 0.0, "epsilon": 1e-2}
CASES = [
    (SGD(), descent, {}),
    (Momentum(), momentum, {}),
    (Momentum(beta=0.5), momentum, {"beta": 0.5}),
    (Momentum(beta=0.0), descent, {}),
    (Adam(), adam, {}),
    (Adam(**OWN_ADAM), adam, OWN_ADAM),
    (Adam(**ADAM_OF_ZEROS), adam, ADAM_OF_ZEROS),
]


@pytest.mark.usefixtures("there")
def test_steps_are_those_of_the_published_algorithm(random):
    theta = random.normal(size=11)
    gradients = random.normal(size=(12, 11)) * 10.0 ** random.integers(-3, 3, size=11)
    gradients[:, 4] = 0.0
    rates = random.uniform(0.01, 0.3, 12)  # another rate in each step
    for (optimizer, algorithm, options), dtype in itertools.product(CASES, TOLERANCE):
        expected = [algorithm(x, gradients[:, i], rates, **options) for i, x in enumerate(theta)]
        moving = to_device(theta.copy(), dtype)
        moments = [0 * moving for _ in range(optimizer.moments)]
        for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
            scaled = to_device(gradient * optimizer.scale(rate), dtype)
            optimizer.update(moving, scaled, moments, rate, step)
        assert moving.dtype == dtype, optimizer
        size = max(1, np.abs(gradients).max()) if dtype == "float32" else 1
        atol = TOLERANCE[dtype] * size
        np.testing.assert_allclose(
            to_host(moving), expected, TOLERANCE[dtype], atol, str(optimizer)
        )


def test_linear_says_whether_the_steps_for_a_sum_are_the_sum_of_the_steps(random):
    one, other, rates = random.normal(size=(3, 6))
    for optimizer, algorithm, options in CASES:
        ways = [algorithm(0.0, dtheta, rates, **options) for dtheta in (one, other, one + other)]
        adds_up = ways[0] + ways[1] == pytest.approx(ways[2], rel=1e-9)
        assert adds_up == optimizer.linear, optimizer


@given(
    gradient=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
    rate=st.floats(1e-4, 1.0),
)
def test_the_first_step_of_adam_is_as_long_as_the_rate(gradient, sign, rate):
    theta = np.zeros(1)
    optimizer = Adam(epsilon=1e-16)
    scaled = np.array([sign * gradient]) * optimizer.scale(rate)
    moments = [0 * theta, 0 * theta]
    optimizer.update(theta, scaled, moments, rate, 1)
    assert theta[0] == pytest.approx(-sign * rate, rel=1e-6)


def test_a_name_is_the_optimizer_of_the_usual_values():
    usual = {"sgd": SGD(), "momentum": Momentum(beta=0.9), "adam": Adam(beta1=0.9, beta2=0.999)}
    usual |= {"heavyball": HeavyBall(beta=0.9), "nesterov": Nesterov(beta=0.9)}
    assert usual.keys() == optimizers.OPTIMIZERS.keys()
    for name, expected in usual.items():
        assert optimizers.optimizer_of(name) == expected
        assert optimizers.optimizer_of(expected) is expected
        assert expected.name == name
    assert usual["adam"].epsilon == 1e-8


# --------------------------------------------------------------------------------------------
# an optimizer from outside


class Rprop(optimizers.Optimizer):
    """Steps by the signs of the gradients, averaged over steps."""

    moments = 1
    default_rate = 0.01

    def update(self, theta, gradient, moments, learning_rate, step):
        [average] = moments
        average *= 0.5
        average += array_module(theta).sign(gradient)
        theta -= learning_rate / 2 * average


class SignDescent(optimizers.Optimizer):
    """The example of the docstring."""

    def update(self, theta, gradient, moments, learning_rate, step):
        theta -= learning_rate * array_module(theta).sign(gradient)


@pytest.mark.usefixtures("there")
def test_an_optimizer_from_outside_trains(random):
    X = random.normal(size=(2, 60))
    X, Y = to_device(X), to_device(X[:1] * X[1:] > 0)
    net, params = small()
    first, _ = accelnn.fit(net, params, X, Y, epochs=1, optimizer=Rprop(), learning_rate=0.5)
    signs = np.sign(to_host(net.gradients(params, X, Y).flat))
    np.testing.assert_allclose(to_host(first.flat), to_host(params.flat) - 0.25 * signs)
    for options in ({}, {"batch_size": 20}, {"optimizer": SignDescent()}):
        options = {"epochs": 200, "optimizer": Rprop(), "learning_rate": 0.01} | options
        _, history = accelnn.fit(net, params, X, Y, **options)
        assert history.final_cost < 0.5 * history.costs[0], options
        assert history.optimizer == type(options["optimizer"]).__name__.lower()


def test_solvers_that_do_not_know_an_optimizer_refuse_it(random):
    class Longer(Adam):
        def scale(self, learning_rate):
            return 2 * super().scale(learning_rate)

    X = random.normal(size=(90, 12))
    net = Network([90, 4, 1])
    for optimizer, solver in itertools.product([Rprop(), Longer()], ["jitted", "gram-jitted"]):
        with refused(f"kernels have no optimizer '{optimizer.name}', .*'direct'"):
            accelnn.fit(net, net.init(), X, X[0] > 0, epochs=2, optimizer=optimizer, solver=solver)
    with refused("rprop is not linear in the gradient"):
        accelnn.fit(net, net.init(), X, X[0] > 0, epochs=2, optimizer=Rprop(), solver="gram")
    _, history = accelnn.fit(
        net, net.init(), X, X[0] > 0, epochs=10**6, optimizer=Rprop(), callbacks=[lambda _: True]
    )
    assert history.solver == "direct"


# --------------------------------------------------------------------------------------------
# schedules

SCHEDULES = [
    (
        optimizers.step_decay(0.8, 0.5, every=10),
        [(0, 0.8), (9, 0.8), (10, 0.4), (35, 0.1)],
    ),
    (optimizers.exponential_decay(2.0, 0.1), [(0, 2.0), (1, 0.2), (3, 0.002)]),
    (optimizers.inverse_decay(0.2, 1.0), [(0, 0.2), (1, 0.1), (3, 0.05)]),
    (
        optimizers.cosine_decay(1.0, 60),
        [(0, 1.0), (20, 0.75), (30, 0.5), (40, 0.25), (60, 0.0), (99, 0.0)],
    ),
    (optimizers.cosine_decay(1.0, 60, 0.2), [(0, 1.0), (30, 0.6), (60, 0.2)]),
]


def test_schedules_have_these_values_and_never_rise():
    for schedule, values in SCHEDULES:
        got = [schedule(epoch) for epoch, _ in values]
        assert got == pytest.approx([value for _, value in values], rel=1e-12, abs=1e-15)
        course = [schedule(epoch) for epoch in range(60)]
        assert course == sorted(course, reverse=True), values
        assert course[-1] > 0, values


def test_rates_of_a_number_or_a_schedule_are_floats():
    assert optimizers.rates(1, range(2, 5)) == [1.0, 1.0, 1.0]
    assert optimizers.rates(np.float64(0.5), range(2)) == [0.5, 0.5]
    assert optimizers.rates(lambda epoch: epoch + 1, range(2, 5)) == [3.0, 4.0, 5.0]
    assert all(type(rate) is float for rate in optimizers.rates(np.float64(2), range(3)))


# --------------------------------------------------------------------------------------------
# bad values


def test_bad_optimizers_are_refused():
    for make, message in (
        (lambda: Momentum(beta=1.0), r"beta in \[0, 1\), got 1"),
        (lambda: Momentum(beta=-0.1), r"beta in \[0, 1\), got -0.1"),
        (lambda: Momentum(beta=math.nan), r"beta in \[0, 1\), got nan"),
        (lambda: Adam(beta1=1.0), r"beta1 in \[0, 1\), got 1"),
        (lambda: Adam(beta2=1.0), r"beta2 in \[0, 1\), got 1"),
        (lambda: Adam(epsilon=0.0), "epsilon > 0, got 0"),
        (lambda: Adam(epsilon=math.inf), "epsilon > 0, got inf"),
        (lambda: optimizers.optimizer_of("rmsprop"), "'rmsprop'.*sgd.*momentum.*adam"),
        (lambda: optimizers.optimizer_of(Adam), r"unknown optimizer.*accelnn.Adam\("),
        (lambda: optimizers.optimizer_of(None), "unknown optimizer None"),
    ):
        with refused(message):
            make()


def test_bad_learning_rates_are_refused_with_their_epoch():
    for rate in (0, 0.0, -0.1, math.nan, math.inf, True, None, "0.1", [0.1], 1j):
        shown = repr(rate).replace("[", r"\[")
        with refused(f"learning_rate > 0, got {shown}$"):
            optimizers.rates(rate, range(1))
        with refused(f"learning_rate > 0, got {shown} at epoch 7$"):
            optimizers.rates(lambda epoch, bad=rate: 0.1 if epoch < 7 else bad, range(5, 9))
    net = Network([2, 1])
    for solver in ("direct", "gram", "jitted", "gram-jitted"):
        options = {"epochs": 6, "record_every": 3, "solver": solver}
        with refused("got -0.5 at epoch 4"):
            accelnn.fit(
                net,
                net.init(),
                np.eye(2),
                np.ones((1, 2)),
                learning_rate=lambda epoch: 0.5 if epoch < 4 else -0.5,
                **options,
            )
