"""Helpers for tests of the core: small trainings, published figures, refusals."""

from contextlib import contextmanager

import numpy as np
import pytest

import accelnn
from accelnn import Network, datasets
from accelnn.recipes import RECIPES
from accelnn.scores import accuracy

PUBLISHED = {
    # cost before the last update, final cost, train and test accuracy: the notes' expressions
    "cat-logistic": (0.1356588474, 0.1356080753, 0.9904, 0.70),
    "cat-2layer": (0.0176397136, 0.0176279472, 1.0, 0.74),
    "cat-4layer": (0.0729843366, 0.0733238698, 0.9904, 0.82),
}


def check_published_figures(name, real_data, solver):
    """Train on the real cats, and compare every figure with the published one."""
    recipe = RECIPES[name]
    cats = datasets.load_cats(real_data)
    params, history = accelnn.fit(
        recipe.net,
        recipe.first_weights(),
        cats.X_train,
        cats.Y_train,
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        record_every=recipe.epochs - 1,
        solver=solver,
    )
    before_last, final, train, test = PUBLISHED[name]
    assert history.costs[-1] == pytest.approx(before_last, abs=1e-9)
    assert history.final_cost == pytest.approx(final, abs=1e-9)
    on_train = accuracy(recipe.net.predict(params, cats.X_train), cats.Y_train)
    on_test = accuracy(recipe.net.predict(params, cats.X_test), cats.Y_test)
    assert (on_train, on_test) == (pytest.approx(train, abs=5e-5), pytest.approx(test))


def small(**options):
    """A small network for the flower, and its first weights."""
    net = Network([2, 4, 1], hidden="tanh", **options)
    return net, net.init("he", seed=2, dtype="float64")


@contextmanager
def refused(message, error=ValueError):
    """The block raises this error, with a message that the pattern matches."""
    try:
        with pytest.raises(error, match=message):
            yield
    except pytest.fail.Exception as failure:
        pytest.fail(f"{failure} (expected: {message})")


@contextmanager
def unchanged(*arrays):
    """The block leaves these arrays as they are, and may not write to them."""
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    yield
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
        array.setflags(write=True)
