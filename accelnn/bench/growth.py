"""How the time of a training grows with examples, features, depth and batch size, for each solver.

The data is random, because only its shape matters; the mini-batches are of the digits.
"""

import functools

import numpy as np

from accelnn import datasets
from accelnn.bench.trainings import Training, library
from accelnn.network import Network
from accelnn.recipes import RECIPES, Recipe
from accelnn.solvers import SOLVERS

IMPLEMENTATIONS = {name: functools.partial(library, name) for name in (*SOLVERS, "auto")}


@functools.lru_cache(maxsize=1)  # the largest takes half a gigabyte
def _drawn(features: int, examples: int, **_: str) -> datasets.Dataset:
    random = np.random.default_rng(0)
    X = random.random((examples, features)).T
    Y = random.integers(0, 2, (1, examples)).astype(np.float64)
    return datasets.Dataset(X, Y, X[:, :0], Y[:, :0], ("0", "1"), "drawn")


def growing(
    along: str, value: int, layers: tuple[int, ...], examples: int, epochs: int = 300
) -> Training:
    """Full batches of random points, on a ReLU net with one sigmoid."""

    data = functools.partial(_drawn, layers[0], examples)
    recipe = Recipe(f"by {along}", data, Network(layers), epochs, 1e-3, init="he", seed=0)
    return Training(recipe, IMPLEMENTATIONS, "float64", examples, along=(along, value))


def _batches(size: int) -> Training:
    recipe = RECIPES["digits-minibatch"].changed(optimizer="sgd", epochs=3, batch_size=size, seed=0)
    return Training(recipe, IMPLEMENTATIONS, "float32", along=("batch", size))


GROWTHS = {
    "growth-examples": [
        growing("examples", m, (12288, 7, 1), m) for m in (50, 100, 200, 500, 1000, 2000, 5000)
    ],
    "growth-features": [
        growing("features", n, (n, 7, 1), 209) for n in (50, 200, 1000, 5000, 20000)
    ],
    "growth-depth": [growing("depth", k, (12288, *[20] * k, 1), 209) for k in range(1, 6)],
    "growth-batch": [_batches(size) for size in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)],
}
