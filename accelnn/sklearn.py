"""scikit-learn's multi-layer perceptrons, trained by accelnn: change one import.

Rows are examples here, as everywhere in scikit-learn. The parameters and attributes are those of
`sklearn.neural_network.MLPClassifier` and `MLPRegressor`, with the same meaning, defaults and
stream of random numbers: the same random_state trains the same net. docs/estimators.md lists what
is new and what differs.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import psutil
from sklearn import neural_network
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
)
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from accelnn import backend, models
from accelnn.backend import Array, Backend, array_module, as_array, backend_of, to_host
from accelnn.network import FLOATS, Network, Parameters
from accelnn.optimizers import SGD, Adam, HeavyBall, Nesterov, Optimizer
from accelnn.solvers.job import State
from accelnn.streaming import chunks
from accelnn.training import Checkpoint, History, Interrupted, fit, minimize
from accelnn.training.history import Callback, ask

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No callbacks of scikit-learn's own."""

    def with_callbacks(method: Any) -> Any:
        @functools.wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:  # a frame as in 1.9, for `stacklevel`
            return method(*args, **kwargs)

        return called


ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
# the network's output by the regressor's loss
LOSSES = {
    "squared_error": "linear",
    "poisson": "poisson",
    "absolute_error": "absolute",
    "huber": "huber",
}
DEVICES = {"cpu": "numpy", "cuda": "cupy", "auto": "auto"}
# attributes of a fitted estimator: what it needs to predict, beside its coefficients and classes;
# and what else `save` writes
FITTED = ("n_features_in_", "n_outputs_", "n_layers_", "out_activation_", "_multilabel", "classes_")
KEPT = (
    *(name for name in FITTED if name != "classes_"),
    *("feature_names_in_", "n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "solver_"),
    *("validation_loss_curve_", "validation_scores_", "best_validation_score_"),
    "_no_improvement_count",
)
SLOWEST, SLOWER = 1e-6, 5.0  # "adaptive" divides the learning rate by SLOWER until SLOWEST

# the part of the docstrings that both estimators share
PARAMETERS = """hidden_layer_sizes : the units of each hidden layer, by default (100,); () for none
    activation : of the hidden layers, "identity" | "logistic" | "tanh" | "relu"
    solver : "adam" | "sgd", gradient descent on mini-batches | "lbfgs", L-BFGS on all examples
    alpha : λ of L2, adding α/(2m) Σ ‖W‖² to the loss of m examples
    batch_size : examples a step; "auto" is min(200, n_samples)
    learning_rate : of sgd, "constant" | "invscaling", learning_rate_init / (t_ + 1)^power_t |
        "adaptive", a fifth of it whenever tol would end the training, down to 1e-6
    learning_rate_init : of sgd and adam
    power_t : the exponent of "invscaling"
    max_iter : the most epochs, or iterations of lbfgs
    shuffle : whether each epoch of sgd and adam takes the examples in a new order
    random_state : an integer, a RandomState or None, for weights, orders, split and dropout
    tol : the least improvement of an epoch; the tolerance of lbfgs for the gradient
    verbose : whether to print the loss of each epoch
    warm_start : whether `fit` starts from the weights of the last one
    momentum, nesterovs_momentum : of sgd, a factor in [0, 1], and whether it is Nesterov's
    early_stopping : whether to end when the score of held-out examples no longer improves,
        and keep the best weights
    validation_fraction : the share of the examples that early stopping holds out
    beta_1, beta_2, epsilon : of adam
    n_iter_no_change : epochs without an improvement by tol before the training ends
    max_fun : the most evaluations of lbfgs
    dropout : the share of a hidden layer's units that each step drops, in [0, 1), or one for
        each hidden layer
    callbacks : functions called with an `accelnn.Checkpoint` after each epoch, or each
        evaluation of lbfgs; one that returns true ends the training
    device : "cpu" | "cuda" | "auto", a GPU if one can be used. Arrays on a GPU stay there
    n_jobs : the most threads of compiled steps; None and -1 for as many as pay"""
ATTRIBUTES = """coefs_, intercepts_ : of each layer, (n_in, n_out) and (n_out,), float32 if X is
    n_features_in_, n_outputs_, n_layers_ : the numbers of features, outputs and layers, the
        input included
    feature_names_in_ : (n_features,), if X has names that are texts
    out_activation_ : the activation of the outputs
    n_iter_, t_ : epochs, or iterations of lbfgs; examples that sgd or adam has seen
    loss_ : of the last epoch, the mean over its batches; the lowest of lbfgs
    loss_curve_, best_loss_ : the loss of each epoch of sgd and adam; the lowest, or None with
        early stopping
    validation_scores_, best_validation_score_ : of early stopping, else None
    validation_loss_curve_ : the loss of the held-out examples before each epoch
    solver_ : the solver of accelnn that ran, where, and why"""


class Course:
    """scikit-learn's rules for a stochastic training: when it ends, and its learning rate.

    optimizer, state : of accelnn, with which `partial_fit` goes on
    ended : whether it has ended
    """

    def __init__(self, mlp: "_MLP") -> None:
        self.optimizer = mlp._descent()
        self.state: State | None = None
        self.ended = False
        self.learning_rate = float(mlp.learning_rate_init)
        self.schedule = mlp.learning_rate if mlp.solver == "sgd" else "constant"

    def rate(self, _epoch: int) -> float:
        return self.learning_rate

    def after_epoch(
        self,
        mlp: "_MLP",
        examples: int,
        score: Callable[[Parameters], float] | None,
        now: Checkpoint,
    ) -> bool:
        """Enter an epoch into the estimator's records; whether the training ends with it."""
        mlp.n_iter_ += 1
        mlp.t_ += examples
        mlp.loss_ = now.cost
        mlp.loss_curve_.append(now.cost)
        if now.validation_cost is not None:
            mlp.validation_loss_curve_.append(now.validation_cost)
        if mlp.verbose:
            print(f"Iteration {mlp.n_iter_}, loss = {mlp.loss_:.8f}")
        better = self._better_loss(mlp) if score is None else self._better_score(mlp, score, now)
        mlp._no_improvement_count = 0 if better else mlp._no_improvement_count + 1
        if self.schedule == "invscaling":
            self.learning_rate = mlp.learning_rate_init / (mlp.t_ + 1) ** mlp.power_t
        self.ended = mlp._no_improvement_count > mlp.n_iter_no_change and self._ends(mlp)
        return self.ended

    def _better_loss(self, mlp: "_MLP") -> bool:
        worse = mlp.loss_ > mlp.best_loss_ - mlp.tol
        mlp.best_loss_ = min(mlp.best_loss_, mlp.loss_)
        return not worse

    def _better_score(self, mlp: "_MLP", score: Any, now: Checkpoint) -> bool:
        params = now.parameters()
        result = score(params)
        mlp.validation_scores_.append(result)
        if mlp.verbose:
            print(f"Validation score: {result:f}")
        worse = result < mlp.best_validation_score_ + mlp.tol
        if result > mlp.best_validation_score_:
            mlp.best_validation_score_ = result
            mlp._keep(params)
        return not worse

    def _ends(self, mlp: "_MLP") -> bool:
        ends = self.schedule != "adaptive" or self.learning_rate <= SLOWEST
        then = "Stopping."
        if not ends:
            self.learning_rate /= SLOWER
            mlp._no_improvement_count = 0
            then = f"Setting learning rate to {self.learning_rate:f}"
        elif self.schedule == "adaptive":
            then = "Learning rate too small. Stopping."
        if mlp.verbose:
            watched = "Validation score" if mlp.early_stopping else "Training loss"
            count = f"for {mlp.n_iter_no_change} consecutive epochs"
            print(f"{watched} did not improve more than tol={mlp.tol:f} {count}. {then}")
        return ends


@dataclass(eq=False, repr=False)
class _MLP(CallbackSupportMixin, BaseEstimator):
    """What the classifier and the regressor share: PARAMETERS and ATTRIBUTES."""

    hidden_layer_sizes: Any = (100,)
    activation: str = "relu"
    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: Any = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: Any = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    dropout: Any = 0.0
    callbacks: Any = None
    device: str = "cpu"
    n_jobs: int | None = None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **neural_network.MLPClassifier._parameter_constraints,
        "dropout": ["array-like", Interval(Real, 0, 1, closed="left")],
        "callbacks": ["array-like", None],
        "device": [StrOptions(set(DEVICES))],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), Options(Integral, {-1}), None],
    }

    @with_callbacks
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> Self:
        """Train on X (n_samples, n_features) and y (n_samples,) or (n_samples, n_outputs).

        X : an array, a data frame or a sparse matrix; of CuPy, PyTorch or JAX too
        sample_weight : (n_samples,), of the examples
        validation_data : (X, y) to watch: `validation_loss_curve_` has its loss before each epoch,
            and early stopping scores it in place of a share of X
        """
        return self._fit(X, y, sample_weight, validation_data)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool = False
    ) -> Self:
        self._validate_params()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        watches = validation_data is not None
        for name, given in (("dropout", np.any(self.dropout)), ("validation_data", watches)):
            if given and self.solver == "lbfgs":
                raise ValueError(f"{name} needs the solver adam or sgd, got lbfgs")
        hidden = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._checked(X, y, reset=first)
        Y = self._targets(y, X.dtype, incremental)
        weights = self._weights(X, y, sample_weight, incremental)
        watched = self._watched(validation_data) if watches else None
        self.n_outputs_ = Y.shape[1]
        random = check_random_state(self.random_state)
        if first:
            self._draw([X.shape[1], *hidden, self.n_outputs_], X.dtype, random)
        if self.solver != "lbfgs" and (first or not hasattr(self, "loss_curve_")):
            self._start_records()
        with self._task(X, y, sample_weight, incremental) as callbacks:
            if self.solver == "lbfgs":
                history = self._search(X, Y, weights, callbacks)
            else:
                held_out = None if watched is None else (*watched, None)
                if self.early_stopping and held_out is None:
                    (X, Y, weights), held_out = self._split(X, Y, weights, random)
                examples = X, Y, weights
                history = self._descend(*examples, held_out, random, incremental, callbacks)
        self.solver_ = f"{history.solver} on {history.backend}: {history.reason}"
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        return self

    def _draw(self, layers: list[int], dtype: Any, random: Any) -> None:
        """The first weights and biases, uniform in ±sqrt(6 / (n_in + n_out)), or with 2 in place of
        6 for the logistic function (Glorot and Bengio 2010)."""
        factor = 2.0 if self.activation == "logistic" else 6.0
        coefs, intercepts = [], []
        for before, n in pairwise(layers):
            bound = np.sqrt(factor / (before + n))
            coefs.append(random.uniform(-bound, bound, (before, n)).astype(dtype))
            intercepts.append(random.uniform(-bound, bound, n).astype(dtype))
        self.coefs_: list[Array] = coefs
        self.intercepts_: list[Array] = intercepts
        self.n_layers_, self.n_iter_, self.t_ = len(layers), 0, 0
        self.out_activation_ = self._out_activation()

    def _start_records(self) -> None:
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.best_loss_: Any = None
        self.validation_scores_: Any = None
        self.best_validation_score_: Any = None

    def _descend(
        self,
        X: Array,
        Y: Array,
        weights: Array | None,
        held_out: tuple[Array, Array, Array | None] | None,
        random: Any,
        incremental: bool,
        callbacks: list[Callback],
    ) -> History:
        """Gradient descent on mini-batches, recorded by a `Course`."""
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = Course(self)
        if self.early_stopping and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
        elif not self.early_stopping and self.best_loss_ is None:
            self.best_loss_ = np.inf
        place, net, m = self._place(X), self._net(), len(X)
        score, watched = None, None
        if held_out is not None:
            X_held, Y_held, w = held_out
            watched = place.to_device(X_held).T, place.to_device(Y_held).T
            if self.early_stopping:
                score = functools.partial(self._score, net, watched[0], Y_held, w)
        course = functools.partial(self._optimizer.after_epoch, self, m, score)
        batch_size, orders = self._batch_size(m), _orders(m, random)
        self.n_iter_ = 0
        params, history = _reached(
            fit,
            net,
            self._parameters(place),
            place.to_device(X).T,
            place.to_device(Y).T,
            epochs=1 if incremental else self.max_iter,
            learning_rate=self._optimizer.rate,
            optimizer=self._optimizer.optimizer,
            batch_size=batch_size,
            record_every=1,
            seed=random.randint(2**31 - 1) if np.any(self.dropout) else 0,
            validation=watched,
            weights=weights,
            shuffle=orders if self.shuffle else False,
            state=_moved(self._optimizer.state, place.to_device),
            threads=None if self.n_jobs == -1 else self.n_jobs,
            callbacks=[course, *callbacks],
        )
        if not (self.early_stopping and self.validation_scores_):
            self._keep(params)
        self._optimizer.state = _moved(history.state, to_host)
        if batch_size is None and self.shuffle and random is self.random_state:
            for _ in range(self.n_iter_):  # `fit` draws no order of a single batch
                next(orders)
        if self.n_iter_ == self.max_iter and not (incremental or history.stopped):
            found = f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached"
            message = f"{found} and the optimization hasn't converged yet."
            warnings.warn(message, ConvergenceWarning, stacklevel=5)
        return history

    def _descent(self) -> Optimizer:
        if self.solver == "adam":
            betas = {"beta1": self.beta_1, "beta2": self.beta_2}
            return Adam(**betas, epsilon=self.epsilon, epsilon_hat=True)
        if self.momentum == 0:
            return SGD()
        return (Nesterov if self.nesterovs_momentum else HeavyBall)(beta=self.momentum)

    def _batch_size(self, m: int) -> int | None:
        """Examples a step, or None for all of them."""
        if self.batch_size == "auto":
            size = 200
        else:
            size = self.batch_size
            if size > m:
                found = f"Got `batch_size` less than 1 or larger than sample size: {size} > {m}."
                warnings.warn(f"{found} It is going to be clipped.", stacklevel=6)
        return None if size >= m else int(size)

    def _split(self, X: Array, Y: Array, weights: Array | None, random: Any) -> tuple[Any, ...]:
        """The examples to train on and those held out: X, Y and weights of each. The split is
        scikit-learn's: stratified for two classes."""
        stratify = Y.astype(bool) if is_classifier(self) and self.n_outputs_ == 1 else None
        parts = train_test_split(
            np.arange(len(X)),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=stratify,
        )
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        where = array_module(X).asarray
        train, held_out = (
            (X[where(part)], Y[part], None if weights is None else weights[part]) for part in parts
        )
        return train, held_out

    def _search(
        self, X: Array, Y: Array, weights: Array | None, callbacks: list[Callback]
    ) -> History:
        """L-BFGS on all examples."""
        place = self._place(X)
        params, history = _reached(
            minimize,
            self._net(),
            self._parameters(place),
            place.to_device(X).T,
            place.to_device(Y).T,
            method="L-BFGS-B",
            evaluations=self.max_fun,
            record_every=1,
            weights=weights,
            options={"maxiter": self.max_iter, "gtol": self.tol},
            callbacks=callbacks,
            verbose="lines" if self.verbose else False,
        )
        self._keep(params)
        self.n_iter_, self.loss_ = history.iterations or 0, min(history.costs, default=np.inf)
        if self.n_iter_ >= self.max_iter or history.epochs_run >= self.max_fun:
            count = f"{self.n_iter_} iterations and {history.epochs_run} evaluations"
            remedy = "Increase max_iter or max_fun, or scale the data."
            message = f"lbfgs failed to converge after {count}. {remedy}"
            warnings.warn(message, ConvergenceWarning, stacklevel=5)
        return history

    @contextmanager
    def _task(
        self, X: Array, y: Any, sample_weight: Any, incremental: bool
    ) -> Iterator[list[Callback]]:
        """The callbacks of a training: the user's, and one that calls scikit-learn's own. These
        follow the epochs, or the evaluations of "lbfgs"."""
        own = list(self.callbacks or ())
        if incremental or not getattr(self, "_skl_callbacks", None):
            yield own
            return
        descends = self.solver != "lbfgs"
        name, most = ("epoch", self.max_iter) if descends else ("evaluation", self.max_fun)
        whole = self._init_callback_context(max_subtasks=most)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        given = {"estimator": self, "X": X, "y": y, "metadata": metadata}

        def begin() -> Any:
            task = whole.subcontext(task_name=name)
            return task.call_on_fit_task_begin(**given)

        def fitted(params: Callable[[], Parameters]) -> dict[str, Any]:
            coefs, intercepts = _coefs(params())
            known = {name: value for name, value in vars(self).items() if name in FITTED}
            return known | {"coefs_": coefs, "intercepts_": intercepts}

        whole.call_on_fit_task_begin(**given)
        task = begin()

        def end(now: Checkpoint) -> bool:
            attributes = functools.partial(fitted, now.parameters)
            return bool(task.call_on_fit_task_end(**given, reconstruction_attributes=attributes))

        def after_each(now: Checkpoint) -> bool:
            nonlocal task
            ends = ask([*own, end], now)
            if not (ends or now.epoch + 1 == most or (descends and self._optimizer.ended)):
                task = begin()
            return ends

        yield [after_each]
        attributes = functools.partial(fitted, lambda: self._parameters(backend.named("numpy")))
        whole.call_on_fit_task_end(**given, reconstruction_attributes=attributes)

    # -------- from scikit-learn's arrays to accelnn's, and back

    def _checked(self, X: Any, y: Any = "no_validation", reset: bool = False) -> Any:
        """X (m, n_features) of dense floats, on the host or a device, and y if it is given; raises
        ValueError if X is not like that of `fit`, or they are no finite numbers."""
        X, y = _native(X), _native(y)
        if array_module(X) is not np:
            return self._checked_on_device(X, y, reset)
        how: dict[str, Any] = {"accept_sparse": ("csr", "csc"), "dtype": FLOATS[::-1]}
        if isinstance(y, str):
            return _dense(validate_data(self, X, reset=reset, **how))
        how |= {"multi_output": True, "y_numeric": not is_classifier(self)}
        X, y = validate_data(self, X, y, reset=reset, **how)
        return _dense(X), _flat(y)

    def _watched(self, validation_data: Any) -> tuple[Array, Array]:
        """X and Y (m, n_outputs) of the validation data."""
        if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
            got = type(validation_data).__name__
            raise ValueError(f"expected validation_data as (X, y), got {got}")
        X, y = self._checked(*validation_data)
        return X, self._targets(y, X.dtype, known=True)

    def _checked_on_device(self, X: Array, y: Any, reset: bool) -> Any:
        """The same without scikit-learn, which takes arrays on the host only; `fit` of accelnn
        finds NaN and infinity."""
        if X.ndim != 2:
            raise ValueError(f"expected X of shape (n_samples, n_features), got {X.shape}")
        validate_data(self, X, skip_check_array=True, reset=reset)
        X = X if X.dtype in FLOATS else X.astype(np.float64)
        if isinstance(y, str):
            return X
        y = check_array(_on_host(y), ensure_2d=False, dtype=None)
        if len(y) != len(X):
            raise ValueError(f"expected as many targets as examples, {len(X)}, got {len(y)}")
        return X, _flat(y)

    def _weights(
        self,
        X: Array,
        y: Any,  # noqa: ARG002
        sample_weight: Any,
        incremental: bool,  # noqa: ARG002
    ) -> Array | None:
        """The weights of the examples (m,), or None if all weigh the same."""
        if sample_weight is None:
            return None
        like_X = np.empty((len(X), 0), X.dtype)
        return _check_sample_weight(_on_host(sample_weight), like_X, ensure_non_negative=True)

    def _place(self, X: Array) -> Backend:
        """Where to compute: where X is, or on the device that was asked for."""
        return backend_of(X) if array_module(X) is not np else backend.named(DEVICES[self.device])

    def _net(self) -> Network:
        layers = [len(self.coefs_[0]), *(coef.shape[1] for coef in self.coefs_)]
        dropped = np.ravel(self.dropout)
        hidden = len(layers) - 2
        if dropped.size not in (1, hidden) or not ((dropped >= 0) & (dropped < 1)).all():
            expected = f"expected dropout in [0, 1), one value or one for each of {hidden} layers"
            raise ValueError(f"{expected}, got {self.dropout}")
        return Network(
            layers,
            hidden=ACTIVATIONS[self.activation],
            output=self._output(),
            l2=self.alpha,
            keep_prob=tuple(1 - np.broadcast_to(dropped, hidden)),
        )

    def _parameters(self, place: Backend) -> Parameters:
        """The coefficients and intercepts as parameters, in a new buffer."""
        pairs = zip(self.coefs_, self.intercepts_, strict=True)
        params = Parameters.from_layers([(W.T, b.reshape(-1, 1)) for W, b in pairs])
        return Parameters(place.to_device(params.flat), params.layers)

    def _keep(self, params: Parameters) -> None:
        self.coefs_, self.intercepts_ = _coefs(params)

    def _outputs(self, X: Any) -> Array:
        """The output activations (m, n_outputs), on the device if X is there."""
        check_is_fitted(self)
        X = self._checked(X)
        place, net = self._place(X), self._net()
        params = self._parameters(place)
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [
                net.forward(params, part).T
                for (part,) in chunks(net, [place.to_device(X).T], place.xp)
            ]
        A = place.xp.concatenate(parts)
        return A if array_module(X) is not np else to_host(A)

    # -------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the estimator to an HDF5 file, without pickle; `load` reads it. The optimizer's
        state is not kept: `partial_fit` starts with a new one.

        Raises ValueError for callbacks and a RandomState, which no file holds.
        """
        check_is_fitted(self)
        params = self.get_params(deep=False)
        for name, fits in (("callbacks", None), ("random_state", Integral)):
            if params[name] is not None and not (fits and isinstance(params[name], fits)):
                raise ValueError(f"a file holds no {name}: set_params({name}=None) before save")
        if isinstance(params.get("class_weight"), dict):  # JSON's keys are texts
            params["class_weight"] = list(params["class_weight"].items())
        attributes = {name: value for name, value in vars(self).items() if name in KEPT}
        fields = {"params": params, "attributes": attributes, "layers": self._net().layers}
        if is_classifier(self):
            fields |= {"classes": self.classes_, "dtype": self.classes_.dtype.str}
        flat = self._parameters(backend.named("numpy")).flat
        models.write(path, type(self).__name__.encode(), fields, flat)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The estimator in a file that `save` wrote.

        Raises FileNotFoundError; ValueError if the file is damaged or of another kind or version.
        """
        fields, flat = models.read(path, cls.__name__.encode())
        try:
            return cls._of(fields, Parameters(flat, fields["layers"]))
        except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path}: {str(error)[:500]}: {models.REMEDY}") from error

    @classmethod
    def _of(cls, fields: dict[str, Any], params: Parameters) -> Self:
        """The estimator with what `save` writes."""
        given = fields["params"]
        for name in ("hidden_layer_sizes", "dropout"):
            if isinstance(given[name], list):
                given[name] = tuple(given[name])
        if isinstance(given.get("class_weight"), list):
            given["class_weight"] = dict(given["class_weight"])
        mlp = cls(**given)
        mlp._validate_params()
        mlp._keep(params)
        for name in {*KEPT} & {*fields["attributes"]}:
            setattr(mlp, name, fields["attributes"][name])
        if hasattr(mlp, "feature_names_in_"):
            mlp.feature_names_in_ = np.array(mlp.feature_names_in_, object)
        if is_classifier(mlp):
            mlp.classes_ = np.array(fields["classes"], fields["dtype"])
            outputs = 1 if len(mlp.classes_) <= 2 and not mlp._multilabel else len(mlp.classes_)
            if outputs != params.layers[-1]:
                found = f"{len(mlp.classes_)} classes for {params.layers[-1]} outputs"
                raise ValueError(f"found {found}, expected {outputs} outputs")
        mlp._net()
        return mlp

    def to_onnx(self) -> Any:
        """The model as an `onnx.ModelProto`: from "X" (m, n_features) of the dtype it was trained
        in, a classifier gives "label" (m,) and "probabilities" (m, n_classes), a regressor, or a
        classifier of several labels, "outputs" (m, n_outputs). Needs the package onnx."""
        check_is_fitted(self)
        from accelnn.onnx import exported

        several = getattr(self, "_multilabel", True)
        params = self._parameters(backend.named("numpy"))
        return exported(self._net(), params, None if several else self.classes_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _stochastic(mlp: _MLP) -> bool:
    """Whether there is `partial_fit`."""
    if mlp.solver == "lbfgs":
        raise AttributeError("partial_fit needs the solver sgd or adam, got lbfgs")
    return True


@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, _MLP):
    __doc__ = f"""A multi-layer perceptron for classes: scikit-learn's MLPClassifier on accelnn's
    solvers. docs/estimators.md shows what it has beyond it.

    Parameters
    ----------
    {PARAMETERS}
    class_weight : None | "balanced" | {{class: weight}}; multiplies the sample weights

    Attributes
    ----------
    classes_ : (n_classes,), the labels in ascending order
    {ATTRIBUTES}
    """

    class_weight: Any = field(default=None, kw_only=True)

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_MLP._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    @available_if(_stochastic)
    @with_callbacks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """One epoch more on X and y. `classes` has all labels that there will be; the first call
        needs it."""
        if _check_partial_fit_first_call(self, classes):
            self._multilabel = type_of_target(_on_host(y)).startswith("multilabel")
        return self._fit(X, y, sample_weight, None, incremental=True)

    def predict(self, X: Any) -> Array:
        """The class of each example, (m,); for multi-label targets 0 or 1 for each, (m, n)."""
        A = self._outputs(X)
        if self._multilabel:
            return _like(X, (A > 0.5).astype(np.int64))
        labels = (A[:, 0] > 0.5) * (len(self.classes_) > 1) if A.shape[1] == 1 else A.argmax(axis=1)
        if self.classes_.dtype.kind in "biuf":
            return _like(X, array_module(A).asarray(self.classes_)[labels.astype(np.int64)])
        return self.classes_[to_host(labels).astype(np.int64)]

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, (m, n_classes), in the order of `classes_`."""
        A = self._outputs(X)
        binary = A.shape[1] == 1
        return _like(X, array_module(A).concatenate([1 - A, A], axis=1) if binary else A)

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`."""
        A = _native(self.predict_proba(X))
        with np.errstate(divide="ignore"):
            return _like(X, array_module(A).log(A))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy on X and y."""
        y, predicted, weights = map(_on_host, (y, self.predict(X), sample_weight))
        return float(accuracy_score(y, predicted, sample_weight=weights))

    def _targets(self, y: Any, dtype: Any, known: bool = False) -> Array:
        """Y (m, n_outputs) of 0 and 1. Labels that are not `known` define the classes."""
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError("expected labels (m,) or columns of 0 and 1, got several columns")
        classes = np.arange(y.shape[1]) if kind.startswith("multilabel") else np.unique(y)
        if not hasattr(self, "classes_") or not (self.warm_start or known):
            self.classes_, self._multilabel = classes, kind.startswith("multilabel")
        elif self.warm_start and not known and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes_}, `y` has {classes}"
            )
        elif len(np.setdiff1d(classes, self.classes_)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {classes}."
            )
        if self._multilabel:
            return np.ascontiguousarray(y.toarray() if hasattr(y, "toarray") else y, dtype)
        codes = np.searchsorted(self.classes_, y)
        if len(self.classes_) <= 2:
            return (codes == 1).astype(dtype)[:, None]
        return (codes[:, None] == np.arange(len(self.classes_))).astype(dtype)

    def _weights(self, X: Array, y: Any, sample_weight: Any, incremental: bool) -> Array | None:
        weights = super()._weights(X, y, sample_weight, incremental)
        if self.class_weight is None:
            return weights
        if incremental and self.class_weight == "balanced":
            hint = "pass {class: weight}, such as compute_class_weight gives for all labels"
            raise ValueError(f"class_weight='balanced' does not work with partial_fit: {hint}")
        by_class = compute_sample_weight(self.class_weight, y).astype(X.dtype)
        return by_class if weights is None else weights * by_class

    def _out_activation(self) -> str:
        return "softmax" if len(self.classes_) > 2 and not self._multilabel else "logistic"

    def _output(self) -> str:
        return {"softmax": "softmax", "logistic": "sigmoid"}[self.out_activation_]

    def _score(
        self, net: Network, X: Array, Y: Array, w: Array | None, params: Parameters
    ) -> float:
        """The accuracy on a held-out set, X (n, m) and Y (m, n_outputs)."""
        A = to_host(net.forward(params, X)).T
        if net.output == "softmax":
            right = A.argmax(axis=1) == Y.argmax(axis=1)
        else:
            right = ((A > 0.5) == Y).all(axis=1)
        return float(np.average(right, weights=w))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False)
class _Loss:
    """The parameter that scikit-learn's regressor has in front of all others."""

    loss: str = "squared_error"


@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, _MLP, _Loss):
    __doc__ = f"""A multi-layer perceptron for values: scikit-learn's MLPRegressor on accelnn's
    solvers. docs/estimators.md shows what it has beyond it.

    Parameters
    ----------
    loss : "squared_error" | "poisson", halves of them as in scikit-learn | "absolute_error" |
        "huber", quadratic up to an error of 1: standardise y, for instance by
        sklearn.compose.TransformedTargetRegressor
    {PARAMETERS}

    Attributes
    ----------
    {ATTRIBUTES}
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_MLP._parameter_constraints,
        "loss": [StrOptions(set(LOSSES))],
    }

    @available_if(_stochastic)
    @with_callbacks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One epoch more on X and y."""
        return self._fit(X, y, sample_weight, None, incremental=True)

    def predict(self, X: Any) -> Array:
        """The value of each example, (m,), or the values (m, n_outputs)."""
        A = self._outputs(X)
        return _like(X, A[:, 0] if A.shape[1] == 1 else A)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R², the share of the variance of y that is predicted, on X and y."""
        y, predicted, weights = map(_on_host, (y, self.predict(X), sample_weight))
        return float(r2_score(y, predicted, sample_weight=weights))

    def _targets(self, y: Any, dtype: Any, known: bool = False) -> Array:  # noqa: ARG002
        return np.ascontiguousarray(y, dtype).reshape(len(y), -1)

    def _out_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _output(self) -> str:
        return LOSSES[self.loss]

    def _score(
        self, net: Network, X: Array, Y: Array, w: Array | None, params: Parameters
    ) -> float:
        """R² on a held-out set, X (n, m) and Y (m, n_outputs); NaN if a prediction is."""
        A = to_host(net.forward(params, X)).T
        return float(r2_score(Y, A, sample_weight=w)) if np.isfinite(A).all() else np.nan


def _reached(train: Callable[..., Any], *given: Any, **options: Any) -> tuple[Parameters, History]:
    """The result of `fit` or `minimize`, or what it had reached when Ctrl-C ended it."""
    try:
        params, history = train(*given, **options)
    except Interrupted as stopped:
        params, history = stopped.params, stopped.history
        warnings.warn("Training interrupted by user.", stacklevel=6)
    return params, history


def _moved(state: State | None, move: Callable[[Array], Array]) -> State | None:
    """A state with its moments moved to the host, or to a device, and at the start of an epoch,
    because the next one has other examples."""
    return state and replace(state, moments=tuple(map(move, state.moments)), batches=0)


def _orders(m: int, random: Any) -> Iterator[Array]:
    """The order of the examples in each epoch, as `sklearn.utils.shuffle` draws it."""
    order = np.arange(m)
    while True:
        random.shuffle(places := np.arange(m))
        order = order[places]
        yield order


def _coefs(params: Parameters) -> tuple[list[Array], list[Array]]:
    """scikit-learn's coefs_ and intercepts_, as views of the parameters on the host."""
    on_host = Parameters(to_host(params.flat), params.layers)
    return [W.T for W, _ in on_host], [b.ravel() for _, b in on_host]


def _native(X: Any) -> Any:
    """X, as an array of NumPy or CuPy if it is an array of another package."""
    return as_array(X) if hasattr(X, "__dlpack__") and not isinstance(X, np.ndarray) else X


def _on_host(X: Any) -> Any:
    """X, as an array of NumPy if it is an array of another package."""
    X = _native(X)
    return X if array_module(X) is np else to_host(X)


def _flat(y: Array) -> Array:
    """y (m,) if it is (m, 1), with scikit-learn's warning."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def _like(X: Any, result: Array) -> Any:
    """The result as an array of the package that X belongs to."""
    package = type(X).__module__.partition(".")[0]
    if package == "torch":
        import torch

        return torch.from_dlpack(result)
    if package in ("jax", "jaxlib"):
        import jax.numpy

        return jax.numpy.asarray(result)
    return result


def _dense(X: Any) -> Array:
    """X, as a dense array if it is sparse; raises MemoryError if that does not fit."""
    if not hasattr(X, "toarray"):
        return X
    size, free = X.shape[0] * X.shape[1] * X.dtype.itemsize, psutil.virtual_memory().available
    if size > free:
        needed = f"X as a dense array needs {size / 2**30:,.1f} GiB, {free / 2**30:,.1f} are free"
        raise MemoryError(f"{needed}: train on fewer features, or by partial_fit on parts")
    return X.toarray(order="C")
