"""The notes' experiments by name, as data: which net, on what, trained how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelnn import datasets
from accelnn.network import Network, Parameters


@dataclass(frozen=True)
class Recipe:
    """One training of the notes.

    data : a function of accelnn.datasets
    net : the architecture
    init, scale : the first weights, as in `Network.init`; drawn with seed 1
    epochs, learning_rate : of full-batch gradient descent
    """

    data: Callable[..., datasets.Dataset]
    net: Network
    init: str
    epochs: int
    learning_rate: float
    scale: float | Sequence[float] = 0.01

    def first_weights(self, dtype: str | None = None) -> Parameters:
        """The weights that the training starts from, on the chosen backend."""
        return self.net.init(self.init, scale=self.scale, seed=1, dtype=dtype)


RECIPES = {
    "cat-logistic": Recipe(
        data=datasets.load_cats,
        net=Network([12288, 1]),
        init="zeros",
        epochs=2000,
        learning_rate=0.005,
    ),
    "cat-2layer": Recipe(
        data=datasets.load_cats,
        net=Network([12288, 7, 1]),
        init="scaled",
        epochs=3000,
        learning_rate=0.0075,
    ),
    "cat-4layer": Recipe(
        data=datasets.load_cats,
        net=Network([12288, 20, 7, 5, 1]),
        init="scaled",
        epochs=3000,
        learning_rate=0.0075,
    ),
    "planar": Recipe(
        data=datasets.flower,
        net=Network([2, 4, 1], hidden="tanh"),
        init="normal",
        scale=(0.01, 1.0),
        epochs=2000,
        learning_rate=0.5,
    ),
    "digits": Recipe(
        data=datasets.load_digits,
        net=Network([784, 25, 10], hidden="sigmoid", l2=1.0),
        init="uniform",
        epochs=400,
        learning_rate=2.0,
    ),
}
