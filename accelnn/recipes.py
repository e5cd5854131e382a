"""The experiments of the notes, and one more, as data: the net, its data and its training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np

from accelnn import datasets
from accelnn.backend import Array
from accelnn.distributed import Processes
from accelnn.network import Network, Parameters
from accelnn.optimizers import inverse_decay
from accelnn.scores import labels
from accelnn.training import History, fit, fit_many, minimize
from accelnn.training.fit import share
from accelnn.training.history import Callback

# fields that `fit` takes as they are
_FIT = (
    *("epochs", "optimizer", "batch_size", "solver", "precision", "seed", "validation"),
    *("patience", "threads"),
)


@dataclass(frozen=True)
class Recipe:
    """One experiment: a training, or several that differ in a few fields.

    data : a function of accelnn.datasets
    init, scale, seed : of the first weights, as in `Network.init`
    epochs : passes over the training set, or evaluations if `method` is one of SciPy's
    learning_rate, decay : α / (1 + decay · epoch)
    method : None for gradient descent by `accelnn.fit`; "TNC" | "L-BFGS-B" by `accelnn.minimize`
    solver, precision, optimizer, batch_size, validation, patience, threads : as in `accelnn.fit`
    class_weight : "balanced" gives every class the same weight in the cost, however many examples
        it has; None the same to every example
    compare : by label, the fields of the recipe or of its net that a training changes
    """

    title: str
    data: Callable[..., datasets.Dataset]
    net: Network
    epochs: int
    learning_rate: float
    init: str = "scaled"
    scale: float | Sequence[float] | None = None
    seed: int = 1
    method: str | None = None
    solver: str = "auto"
    precision: str | None = None
    optimizer: str = "sgd"
    batch_size: int | None = None
    decay: float = 0.0
    validation: float | tuple[Array, Array] | None = None
    patience: int | None = None
    threads: int | None = None
    class_weight: str | None = None
    compare: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """The unit of `epochs`: "epoch" | "evaluation"."""
        return "epoch" if self.method is None else "evaluation"

    def first_weights(self, dtype: str | None = None) -> Parameters:
        """The weights that the training starts from, on the chosen backend."""
        return self.net.init(self.init, scale=self.scale, seed=self.seed, dtype=dtype)

    def train(
        self,
        data: datasets.Dataset,
        dtype: str | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        verbose: bool | str = False,
        processes: Processes | None = None,
        **checkpoints: Any,
    ) -> tuple[Parameters, History]:
        """Train once, without `compare`, on the training set of `data`.

        dtype : of the parameters; by default the backend's
        callbacks, verbose : as in `accelnn.fit`
        processes : to train on, all of which call this with all of `data`
        checkpoints : checkpoint, checkpoint_every and resume of `accelnn.fit`
        """
        options: dict[str, Any] = {"callbacks": callbacks, "verbose": verbose}
        weights = self.weights(data)
        if weights is not None:
            options["weights"] = weights
        if processes is not None:
            options |= {**checkpoints, "X": data.X_train, "Y": data.Y_train, **self.of_fit(dtype)}
            return fit(**share(options, processes), comm=processes.comm)
        if self.method is not None:
            given = self.net, self.first_weights(dtype), data.X_train, data.Y_train
            return minimize(*given, method=self.method, evaluations=self.epochs, **options)
        options |= checkpoints
        return fit(X=data.X_train, Y=data.Y_train, **self.of_fit(dtype), **options)

    def weights(self, data: datasets.Dataset) -> Array | None:
        """The weights (m,) of the training examples, or None if all weigh the same."""
        return None if self.class_weight is None else _balanced(data.Y_train)

    def of_fit(self, dtype: str | None = None) -> dict[str, Any]:
        """The arguments of `accelnn.fit` for gradient descent, except the data."""
        rate: Any = self.learning_rate
        if self.decay:
            rate = inverse_decay(rate, self.decay)
        arguments = {"net": self.net, "params": self.first_weights(dtype), "learning_rate": rate}
        return arguments | {name: getattr(self, name) for name in _FIT}

    def changed(self, **changes: Any) -> Self:
        """The recipe with other values in some of its own fields or its net's."""
        own = changes.keys() & {f.name for f in fields(self)}
        net = replace(self.net, **{name: changes[name] for name in changes.keys() - own})
        return replace(self, net=net, **{name: changes[name] for name in own})

    def with_hidden(self, sizes: Sequence[int]) -> Self:
        """The recipe with hidden layers of these sizes, alike in activation and dropout. Weights of
        zero, or with scales for another number of layers, become "scaled".

        Raises ValueError if a training to compare has layers of its own.
        """
        for label, changed in self.compare.items():
            if "layers" in changed:
                raise ValueError(f"hidden layers: the training {label!r} has layers of its own")
        hidden, keep_prob = self.net.hidden, self.net.keep_prob
        changes: dict[str, Any] = {
            "layers": (self.net.layers[0], *sizes, self.net.layers[-1]),
            "hidden": hidden[0] if hidden else "relu",
            "keep_prob": keep_prob[0] if keep_prob else 1.0,
        }
        if self.init == "zeros" or (isinstance(self.scale, tuple) and len(sizes) != len(hidden)):
            changes |= {"init": "scaled", "scale": None}
        return self.changed(**changes)

    def trainings(self) -> Iterator[tuple[str, Self]]:
        """The (label, recipe) of each training: itself with the label "", or those it compares."""
        if not self.compare:
            yield "", self
        for label, changes in self.compare.items():
            yield label, self.changed(**changes, compare={})


def train_together(
    recipes: Sequence[Recipe],
    data: datasets.Dataset,
    dtype: str | None = None,
    *,
    verbose: bool | str = False,
    comm: Any = None,
) -> list[tuple[Parameters, History]]:
    """Train recipes of gradient descent, all at once, by `accelnn.fit_many`.

    dtype : as in `Recipe.train`
    verbose, comm : as in `accelnn.fit_many`
    """
    each = [recipe.of_fit(dtype) for recipe in recipes]
    keywords = {name: [one[name] for one in each] for name in each[0]}
    nets, params = keywords.pop("net"), keywords.pop("params")
    del keywords["threads"]  # one each
    keywords["weights"] = [recipe.weights(data) for recipe in recipes]
    options: dict[str, Any] = {"verbose": verbose, "comm": comm, **keywords}
    return fit_many(nets, params, data.X_train, data.Y_train, **options)


def _balanced(Y: Array) -> Array:
    """Weights (m,) of examples, with which all classes of Y weigh the same: m / (n · m_class)."""
    of = labels(Y)
    counts = np.bincount(of)
    return (len(of) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[of]


def _digits(folder: str | None = None, dtype: str | None = None) -> datasets.Dataset:
    """The notes' own digits, ex4data1.mat, in a given folder; else MNIST's."""
    if folder is not None:
        return datasets.load_ex4(folder, dtype=dtype)
    return datasets.load_digits(dtype=dtype)


RECIPES = {
    "cat-logistic": Recipe(
        title="Logistic regression: cat or not",
        data=datasets.load_cats,
        net=Network([12288, 1]),
        init="zeros",
        epochs=2000,
        learning_rate=0.005,
    ),
    "cat-2layer": Recipe(
        title="One hidden layer of 7 units: cat or not",
        data=datasets.load_cats,
        net=Network([12288, 7, 1]),
        epochs=3000,
        learning_rate=0.0075,
    ),
    "cat-4layer": Recipe(
        title="Four layers: cat or not",
        data=datasets.load_cats,
        net=Network([12288, 20, 7, 5, 1]),
        epochs=3000,
        learning_rate=0.0075,
    ),
    "planar": Recipe(
        title="The flower, with four hidden units",
        data=datasets.flower,
        net=Network([2, 4, 1], hidden="tanh"),
        init="normal",
        scale=(0.01, 1.0),
        epochs=2000,
        learning_rate=0.5,
    ),
    "circles": Recipe(
        title="Four initialisations of the same net",
        data=datasets.circles,
        net=Network([2, 10, 5, 1]),
        epochs=15000,
        learning_rate=0.01,
        compare={
            "zeros": {"init": "zeros"},
            "large (x10)": {"init": "normal", "scale": 10.0},
            "1/sqrt(n)": {"init": "scaled"},
            "He": {"init": "he"},
        },
    ),
    "football": Recipe(
        title="L2 and dropout against overfitting",
        data=datasets.load_football,
        net=Network([2, 20, 3, 1]),
        epochs=30000,
        learning_rate=0.3,
        compare={
            "no regularisation": {},
            "L2, λ = 0.7": {"l2": 0.7},
            "dropout, keep 0.86": {"keep_prob": 0.86},
            # another net: the notes drop 40 % of its first hidden layer and 20 % of its third
            "dropout by layer": {
                "layers": (2, 20, 10, 5, 1),
                "hidden": "relu",
                "keep_prob": (0.6, 1.0, 0.8),
            },
        },
    ),
    "digits": Recipe(
        title="Handwritten digits with 25 hidden units, by SciPy's TNC",
        data=_digits,
        net=Network([784, 25, 10], hidden="sigmoid", l2=1.0),
        init="uniform",
        epochs=400,
        learning_rate=2.0,  # of gradient descent, if an option selects it
        method="TNC",
    ),
    "digits-minibatch": Recipe(
        title="Digits with two hidden layers, Adam on mini-batches of 128",
        data=_digits,
        net=Network([784, 256, 128, 10], output="softmax"),
        init="he",
        epochs=10,
        learning_rate=1e-3,
        optimizer="adam",
        batch_size=128,
    ),
}


def own_recipe(data: datasets.Dataset, hidden: Sequence[int] | None = None) -> Recipe:
    """A recipe for your own data: Adam on mini-batches, stopped by the validation set.

    `params, history = own_recipe(data).train(data)` trains it. Its values were chosen by the
    accuracies in datasets/README.md.

    data : as `datasets.load_images`, `load_hdf5` and `load_csv` return it, or without classes for a
        regression
    hidden : sizes of the hidden layers, () for none; by default (100,), or (128, 64) for 10,000
        training examples or more
    """
    (features, m), n = data.X_train.shape, len(data.classes)
    outputs, output = {0: (1, "linear"), 2: (1, "sigmoid")}.get(n, (n, "softmax"))
    large, watched = m >= 10_000, data.X_validation is not None
    if hidden is None:
        hidden = (128, 64) if large else (100,)
    return Recipe(
        title="Your own data",
        data=lambda **_: data,
        net=Network([features, *hidden, outputs], output=output),
        init="glorot",
        epochs=200 if large else 1000,
        learning_rate=1e-3,
        seed=0,  # as the loaders' split by default
        optimizer="adam",
        batch_size=256 if large else 32,
        validation=(data.X_validation, data.Y_validation) if watched else None,
        patience=20 if watched else None,
    )
