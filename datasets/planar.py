"""The 2-D sets: the course's football data, and classics drawn from a seed.

They are drawn on the host by numpy.random.RandomState, so they are the same on every backend, and
the course's sets equal the course's number for number. The test set is a second draw.
"""

import numpy as np

from accelnn.backend import Array

from .dataset import Dataset, DType, as_stand_in, on_backend
from .reading import AnyPath, Copies, DataFile, Schema, find_folder

FOOTBALL_FILES: Copies = {
    "football.mat": (
        "Improving-DeepNN/datasets/data.mat",
        6_038,
        "1218828095bf91d215622d00b2a5b8784c359e29d9d9c5734949b8e60c5bc231",
    ),
}


def load_football(folder: AnyPath | None = None, dtype: DType = None) -> Dataset:
    """The course's regularisation data: the places on a football field where a header was won.

    folder : with football.mat (the course's data.mat), searched for as in `load_cats`. Without it a
        spiral stands in, with a StandInWarning; `accelnn data download football` downloads it
    dtype : of X and Y; by default the backend's

    Returns X (2, 211), Y (1, 211) of 0 (red) and 1 (blue), in the file's order; the test set is the
    file's Xval (2, 200) and yval. Raises as `load_cats`.
    """
    remedy = "to download it: accelnn data download football"
    found = find_folder(folder, "football.mat", "data.mat")
    if found is None:
        drawn = spiral(dtype=dtype)
        source = f"stand-in for the football data (no football.mat found; {remedy}): {drawn.source}"
        return as_stand_in(drawn, "football", source)
    path, copy = found / "football.mat", found / "data.mat"
    if copy.exists() and not path.exists():
        path = copy
    train_set: Schema = {"X": (np.number, ("m", 2)), "y": (range(2), ("m", 1))}
    test_set: Schema = {"Xval": (np.number, ("k", 2)), "yval": (range(2), ("k", 1))}
    X, y, X_test, y_test = DataFile(path, remedy).read_mat(train_set | test_set).values()
    train, test = (X.astype(np.float64), y), (X_test.astype(np.float64), y_test)
    return on_backend(train, test, ("red", "blue"), str(path), dtype)


def flower(m: int = 400, seed: int = 1, dtype: DType = None) -> Dataset:
    """The course's planar "flower": eight petals, and classes that no line separates.

    m : examples to train on, and as many to test; even
    seed : of the training set; the test set has seed + 1
    dtype : of X and Y; by default the backend's

    Returns X (2, m), Y (1, m) of 0 (red) and 1 (blue); by default the numbers of the course's
    `load_planar_dataset`. Raises ValueError if `m` is not positive and even.
    """
    n = _per_class(m, 2)

    def draw(seed: int) -> tuple[Array, Array]:
        noise = np.random.RandomState(seed).randn(2, 2, n) * 0.2
        angle = np.linspace([0, 3.12], [3.12, 6.24], n, axis=1) + noise[:, 0]
        radius = 4 * np.sin(4 * angle) + noise[:, 1]
        return _polar(radius.ravel(), angle.ravel()), np.repeat([0, 1], n)

    source = f"the course's planar flower, drawn with seed {seed}"
    return on_backend(draw(seed), draw(seed + 1), ("red", "blue"), source, dtype)


def circles(
    m: int = 300, m_test: int = 100, noise: float = 0.05, seed: int = 1, dtype: DType = None
) -> Dataset:
    """Two circles, one 0.8 times as large inside the other: the course's initialisation data.

    m, m_test : examples to train on and to test; even
    noise : the standard deviation of the noise added to each coordinate
    seed, dtype : as in `flower`

    Returns X (2, m), Y (1, m) of 0 (outer) and 1 (inner), shuffled: the numbers of scikit-learn's
    `make_circles` with random_state=seed. Raises ValueError if `m` or `m_test` is not positive and
    even, or `noise` is negative. The defaults are the course's.
    """

    def draw(m: int, seed: int) -> tuple[Array, Array]:
        n = _per_class(m, 2)
        rng = np.random.RandomState(seed)
        angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
        outer = np.c_[np.cos(angle), np.sin(angle)]
        order = np.arange(m)
        rng.shuffle(order)
        X = np.vstack([outer, outer * 0.8])[order]
        return X + rng.normal(scale=noise, size=X.shape), np.repeat([0, 1], n)[order]

    source = f"two circles as scikit-learn draws them, with seed {seed}"
    return on_backend(draw(m, seed), draw(m_test, seed + 1), ("outer", "inner"), source, dtype)


def spiral(m: int = 300, noise: float = 0.2, seed: int = 1, dtype: DType = None) -> Dataset:
    """Two arms of a spiral, a class each: the data of Stanford's CS231n notes, which have three.

    noise : the standard deviation of the noise added to each angle, in radians
    m, seed, dtype : as in `flower`, as are the errors

    Returns X (2, m) of radius up to 1 in one turn, Y (1, m) of 0 and 1, one arm after the other.
    """
    n = _per_class(m, 2)
    labels = np.repeat([0, 1], n)
    radius = np.tile(np.arange(1, n + 1) / n, 2)

    def draw(seed: int) -> tuple[Array, Array]:
        angle = np.pi * (2 * radius + labels) + noise * np.random.RandomState(seed).randn(m)
        return _polar(radius, angle), labels

    source = f"two arms of a spiral, drawn with seed {seed}"
    return on_backend(draw(seed), draw(seed + 1), ("arm 0", "arm 1"), source, dtype)


def blobs(
    m: int = 300, classes: int = 2, features: int = 2, seed: int = 1, dtype: DType = None
) -> Dataset:
    """Gaussian clusters of standard deviation 1, their centres uniform in ±10; a class each.

    m : examples to train on, and as many to test; a multiple of `classes`
    classes, features : at least 2 and 1
    seed : of the centres, the training set and the test set, drawn in this order
    dtype : of X; by default the backend's

    Returns X (features, m); Y (1, m) of 0/1 for two classes, else (m,) int64; one cluster after
    the other. Raises ValueError if `m`, `classes` or `features` is out of range.
    """
    if classes < 2 or features < 1:
        expected = "expected 2 classes or more and 1 feature or more"
        raise ValueError(f"{expected}, got {classes} and {features}")
    n = _per_class(m, classes)
    rng = np.random.RandomState(seed)
    centres = rng.uniform(-10, 10, (classes, features))
    labels = np.repeat(np.arange(classes), n)
    train, test = ((centres[labels] + rng.randn(m, features), labels) for _ in range(2))
    source = f"{classes} Gaussian clusters, drawn with seed {seed}"
    return on_backend(train, test, tuple(map(str, range(classes))), source, dtype)


def _polar(radius: Array, angle: Array) -> Array:
    return np.c_[radius * np.sin(angle), radius * np.cos(angle)]


def _per_class(m: int, classes: int) -> int:
    if m <= 0 or m % classes:
        raise ValueError(f"expected a positive multiple of {classes} examples, got {m}")
    return m // classes
