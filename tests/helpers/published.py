"""The notes' published figures of the cats, and the check of a training against them."""

import pytest

import accelnn
from accelnn import datasets
from accelnn.backend import to_device, to_host
from accelnn.recipes import RECIPES
from accelnn.scores import accuracy

PUBLISHED = {
    # cost before the last update, final cost, train and test accuracy: the notes' expressions
    "cat-logistic": (0.1356588474, 0.1356080753, 0.9904, 0.70),
    "cat-2layer": (0.0176397136, 0.0176279472, 1.0, 0.74),
    "cat-4layer": (0.0729843366, 0.0733238698, 0.9904, 0.82),
}


def check_published_figures(name, real_data, solver):
    """Train on the real cats, on the chosen backend; every figure must be the published one."""
    recipe, cats = RECIPES[name], datasets.load_cats(real_data, dtype="float64")
    params, history = accelnn.fit(
        recipe.net,
        recipe.first_weights("float64"),
        *map(to_device, (cats.X_train, cats.Y_train)),
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        record_every=recipe.epochs - 1,
        solver=solver,
    )
    before_last, final, *accuracies = PUBLISHED[name]
    assert history.costs[-1] == pytest.approx(before_last, abs=1e-9)
    assert history.final_cost == pytest.approx(final, abs=1e-9)
    sets = (cats.X_train, cats.Y_train), (cats.X_test, cats.Y_test)
    for (X, Y), published in zip(sets, accuracies, strict=True):
        labels = to_host(recipe.net.predict(params, to_device(X)))
        assert accuracy(labels, to_host(Y)) == pytest.approx(published, abs=5e-5)
