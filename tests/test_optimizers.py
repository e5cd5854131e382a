"""The optimizers: the published algorithms number by number, schedules, and bad values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import accelnn
from accelnn import SGD, Adam, Momentum, Network, optimizers
from accelnn.backend import to_device, to_host
from accelnn.operations import operations_for

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
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


CASES = {
    "sgd": (SGD(), descent, {}),
    "momentum": (Momentum(), momentum, {}),
    "momentum of 0.5": (Momentum(beta=0.5), momentum, {"beta": 0.5}),
    "momentum of 0": (Momentum(beta=0.0), descent, {}),
    "adam": (Adam(), adam, {}),
    "adam of its own": (
        Adam(beta1=0.5, beta2=0.9, epsilon=1e-3),
        adam,
        {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3},
    ),
    "adam of zeros": (
        Adam(beta1=0.0, beta2=0.0, epsilon=1e-2),
        adam,
        {"beta1": 0, "beta2": 0, "epsilon": 1e-2},
    ),
}


@pytest.mark.parametrize("case", CASES)
@dtypes
@pytest.mark.usefixtures("there")
def test_steps_are_those_of_the_published_algorithm(random, case, dtype):
    optimizer, algorithm, options = CASES[case]
    theta = random.normal(size=11)
    gradients = random.normal(size=(12, 11)) * 10.0 ** random.integers(-3, 3, size=11)
    gradients[:, 4] = 0.0
    rates = random.uniform(0.01, 0.3, 12)  # a rate of its own for each step
    expected = [algorithm(x, gradients[:, i], rates, **options) for i, x in enumerate(theta)]

    moving = to_device(theta, dtype)
    moments = optimizers.new_moments(optimizer, moving)
    assert len(moments) == optimizer.moments
    assert all(moment.dtype == dtype for moment in moments)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        scaled = to_device(gradient * optimizer.scale(rate), dtype)
        optimizer.update(operations_for(moving), moving, scaled, moments, rate, step)
    assert moving.dtype == dtype
    size = max(1, np.abs(gradients).max()) if dtype == "float32" else 1
    np.testing.assert_allclose(
        to_host(moving), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size
    )


@pytest.mark.parametrize("case", CASES)
def test_linear_says_whether_steps_add_up(random, case):
    """Whether the way that θ goes for a sum of gradients is the sum of its ways for each."""
    _, algorithm, options = CASES[case]
    one, other, rates = random.normal(size=(3, 6))
    ways = [algorithm(0.0, gradients, rates, **options) for gradients in (one, other, one + other)]
    adds_up = ways[0] + ways[1] == pytest.approx(ways[2], rel=1e-9)
    assert adds_up == CASES[case][0].linear


@given(
    gradient=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
    rate=st.floats(1e-4, 1.0),
)
def test_the_first_step_of_adam_is_as_long_as_the_rate(gradient, sign, rate):
    theta = np.zeros(1)
    optimizer = Adam(epsilon=1e-16)
    scaled = np.array([sign * gradient]) * optimizer.scale(rate)
    moments = optimizers.new_moments(optimizer, theta)
    optimizer.update(operations_for(theta), theta, scaled, moments, rate, 1)
    assert theta[0] == pytest.approx(-sign * rate, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", SGD()), ("adam", Adam(beta1=0.9, beta2=0.999, epsilon=1e-8))]
)
def test_a_name_is_the_optimizer_of_the_usual_values(name, expected):
    assert optimizers.optimizer_of(name) == expected
    assert optimizers.optimizer_of(expected) is expected
    assert {optimizers.optimizer_of(name).name for name in optimizers.OPTIMIZERS} == set(
        optimizers.OPTIMIZERS
    )


# --------------------------------------------------------------------------------------------
# schedules

SCHEDULES = {
    "steps": (
        optimizers.step_decay(0.8, 0.5, every=10),
        [(0, 0.8), (9, 0.8), (10, 0.4), (35, 0.1)],
    ),
    "exponential": (optimizers.exponential_decay(2.0, 0.1), [(0, 2.0), (1, 0.2), (3, 0.002)]),
    "inverse": (optimizers.inverse_decay(0.2, 1.0), [(0, 0.2), (1, 0.1), (3, 0.05)]),
    "cosine": (
        optimizers.cosine_decay(1.0, 60),
        [(0, 1.0), (20, 0.75), (30, 0.5), (40, 0.25), (60, 0.0), (99, 0.0)],
    ),
    "cosine to 0.2": (optimizers.cosine_decay(1.0, 60, 0.2), [(0, 1.0), (30, 0.6), (60, 0.2)]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_have_these_values(name):
    schedule, values = SCHEDULES[name]
    got = [schedule(epoch) for epoch, _ in values]
    assert got == pytest.approx([value for _, value in values], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_ever_rises(name):
    schedule, _ = SCHEDULES[name]
    values = [schedule(epoch) for epoch in range(60)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0


def test_rates_of_a_number_or_a_schedule_are_floats():
    assert optimizers.rates(1, range(2, 5)) == [1.0, 1.0, 1.0]
    assert optimizers.rates(np.float64(0.5), range(2)) == [0.5, 0.5]
    assert optimizers.rates(lambda epoch: epoch + 1, range(2, 5)) == [3.0, 4.0, 5.0]
    assert all(type(rate) is float for rate in optimizers.rates(np.float64(2), range(3)))


# --------------------------------------------------------------------------------------------
# bad values

BAD_OPTIMIZERS = {
    "beta of 1": (lambda: Momentum(beta=1.0), r"beta in \[0, 1\), got 1"),
    "negative beta": (lambda: Momentum(beta=-0.1), r"beta in \[0, 1\), got -0.1"),
    "beta that is none": (lambda: Momentum(beta=math.nan), r"beta in \[0, 1\), got nan"),
    "beta1 of 1": (lambda: Adam(beta1=1.0), r"beta1 in \[0, 1\), got 1"),
    "beta2 of 1": (lambda: Adam(beta2=1.0), r"beta2 in \[0, 1\), got 1"),
    "epsilon of 0": (lambda: Adam(epsilon=0.0), "epsilon > 0, got 0"),
    "infinite epsilon": (lambda: Adam(epsilon=math.inf), "epsilon > 0, got inf"),
    "unknown name": (lambda: optimizers.optimizer_of("rmsprop"), "'rmsprop'.*sgd.*momentum.*adam"),
    "a class": (lambda: optimizers.optimizer_of(Adam), r"unknown optimizer.*accelnn.Adam\("),
    "nothing": (lambda: optimizers.optimizer_of(None), "unknown optimizer None"),
}


@pytest.mark.parametrize("case", BAD_OPTIMIZERS)
def test_bad_optimizers_are_refused(case):
    make, message = BAD_OPTIMIZERS[case]
    with pytest.raises(ValueError, match=message):
        make()


BAD_RATES = [0, 0.0, -0.1, math.nan, math.inf, True, None, "0.1", [0.1], 1j]


@pytest.mark.parametrize("rate", BAD_RATES, ids=str)
def test_bad_learning_rates_are_refused_and_shown(rate):
    with pytest.raises(ValueError, match="learning_rate > 0, got") as refusal:
        optimizers.rates(rate, range(1))
    assert repr(rate) in str(refusal.value)
    assert "epoch" not in str(refusal.value)


@pytest.mark.parametrize("rate", BAD_RATES, ids=str)
def test_a_schedule_that_goes_wrong_is_told_with_its_epoch(rate):
    with pytest.raises(ValueError, match=r"learning_rate > 0, got .* at epoch 7$"):
        optimizers.rates(lambda epoch: 0.1 if epoch < 7 else rate, range(5, 9))


@pytest.mark.parametrize("solver", ["direct", "gram", "jitted", "gram-jitted"])
def test_fit_tells_the_epoch_of_a_bad_rate(solver):
    net = Network([2, 1])
    with pytest.raises(ValueError, match="got -0.5 at epoch 4"):
        accelnn.fit(
            net,
            net.init(),
            np.eye(2),
            np.ones((1, 2)),
            epochs=6,
            learning_rate=lambda epoch: 0.5 if epoch < 4 else -0.5,
            record_every=3,
            solver=solver,
        )


def test_descent_needs_a_learning_rate():
    net = Network([2, 1])
    with pytest.raises(ValueError, match="needs a learning_rate"):
        accelnn.fit(net, net.init(), np.eye(2), np.ones((1, 2)), epochs=6)
