"""The nets of `accelnn train` for tables as estimators of scikit-learn. Rows are examples."""

from collections.abc import Callable
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from accelnn.backend import Array, to_device, to_host
from accelnn.datasets.dataset import Dataset, on_backend
from accelnn.datasets.own import split
from accelnn.models import Model
from accelnn.network import Network, Parameters
from accelnn.recipes import Recipe, own_recipe


class Net(BaseEstimator):
    """A net that `own_recipe` chooses and trains, stopped by the cost of a validation set."""

    def __init__(
        self,
        recipe: Callable[[Dataset], Recipe] | None = None,
        validation: float = 0.15,
        dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        self.recipe, self.validation, self.dtype, self.seed = recipe, validation, dtype, seed

    def _train(self, X: Array, targets: Array, labels: Array, classes: tuple[str, ...]) -> None:
        train, watched, _ = split(labels, self.validation, 0, self.seed)
        watch = (X[watched], targets[watched]) if len(watched) else ()
        sets = (X[train], targets[train]), (X[:0], targets[:0])
        data = on_backend(*sets, classes, "", self.dtype, validation=watch)
        recipe = (self.recipe or own_recipe)(data)
        params, history = recipe.train(data, self.dtype)
        self.keep(recipe.net, params)
        self.history_ = history

    def keep(self, net: Network, params: Parameters) -> Self:
        """Take over a trained net."""
        self.layers_, self.hidden_, self.output_ = net.layers, net.hidden, net.output
        self.weights_ = to_host(params.flat)
        self.n_features_in_ = net.layers[0]
        return self

    def _model(self) -> Model:
        check_is_fitted(self, "weights_")
        net = Network(self.layers_, hidden=self.hidden_, output=self.output_)
        return Model(net, Parameters(to_device(self.weights_), net.layers))

    def _rows(self, X: Array) -> Array:
        check_is_fitted(self, "weights_")
        return validate_data(self, X, reset=False)


class NetClassifier(ClassifierMixin, Net):
    """The classifier of `accelnn train` for tables, as an estimator of scikit-learn.

    recipe : a function from the Dataset to the Recipe that trains it; by default
        `accelnn.recipes.own_recipe`, as in `lambda data: own_recipe(data, (50,)).changed(l2=1)`
    validation : share of each class to watch and not to learn from, in [0, 1)
    dtype : of the parameters; by default the backend's
    seed : of the validation set; that of the weights is the recipe's

    Fitted, it has classes_ and history_, the training's `accelnn.History`.
    """

    def fit(self, X: Array, y: Array) -> Self:
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected more than one class, got only {self.classes_[0]}")
        self._train(X, labels, labels, tuple(map(str, self.classes_)))
        return self

    def predict_proba(self, X: Array) -> Array:
        """The probability of each class, (m, n_classes) on the host."""
        return self._model().probabilities(self._rows(X))

    def predict(self, X: Array) -> Array:
        """The class of each row, (m,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]


class NetRegressor(RegressorMixin, Net):
    """The same for a regression: a net with a linear output, trained on the standardised target.

    Fitted, it has history_, whose costs are of the standardised target, target_mean_ and
    target_scale_.
    """

    def fit(self, X: Array, y: Array) -> Self:
        X, y = validate_data(self, X, y, y_numeric=True)
        self.target_mean_, self.target_scale_ = y.mean(), y.std() or 1.0
        values = (y - self.target_mean_) / self.target_scale_
        self._train(X, values, np.zeros(len(y), int), ())
        return self

    def predict(self, X: Array) -> Array:
        """The value of each row, (m,)."""
        outputs = self._model().predict(self._rows(X))[:, 0]
        return outputs * self.target_scale_ + self.target_mean_
