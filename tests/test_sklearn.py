"""The estimators: the same training as scikit-learn's own, and what they have beyond it."""

import inspect

import numpy as np
import pytest
from sklearn import neural_network as reference

from accelnn.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def problem(kind, m=130, features=6):
    """X (m, features) and y of a kind of targets"""
    random = np.random.default_rng(3)
    X = random.normal(size=(m, features))
    score = X[:, 0] + np.sin(2 * X[:, 1]) + 0.3 * random.normal(size=m)
    targets = {
        "binary": np.where(score > 0, "yes", "no"),
        "classes": np.digitize(score, [-1, 0.5]) * 10,
        "labels": np.stack([score > 0, X[:, 2] > 0, score + X[:, 3] > 1], axis=1).astype(int),
        "values": score,
        "counts": random.poisson(np.exp(score / 2)).astype(float),
    }
    return X, targets[kind]


def both(kind, **options):
    """The estimators of accelnn and of scikit-learn for these targets"""
    name = "MLPRegressor" if kind in ("values", "counts") else "MLPClassifier"
    if kind == "counts":
        options |= {"loss": "poisson"}
    options = {"hidden_layer_sizes": (9, 5), "random_state": 4, "max_iter": 20} | options
    return OURS[name](**options), getattr(reference, name)(**options)


def check_same(kind, fit_options=None, tolerance=1e-9, **options):
    """Both give the same losses, weights and predictions."""
    X, y = problem(kind)
    ours, theirs = both(kind, **options)
    for estimator in (ours, theirs):
        estimator.fit(X, y, **(fit_options or {}))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=tolerance)
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X)) if hasattr(
        ours, "classes_"
    ) else np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
    return ours, theirs


KINDS = ("binary", "classes", "labels", "values", "counts")
DESCENTS = {
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "adam, small batches": {"solver": "adam", "batch_size": 32, "beta_1": 0.8, "epsilon": 1e-6},
    "plain": {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.05},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02, "batch_size": 50},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.1,
        "tol": 0.02,
        "n_iter_no_change": 2,
        "max_iter": 60,
        "batch_size": 40,
    },
    "no shuffling": {"shuffle": False, "batch_size": 30, "alpha": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("descent", DESCENTS)
def test_a_training_is_that_of_scikit_learn(kind, descent):
    check_same(kind, **DESCENTS[descent])


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations_are_those_of_scikit_learn(activation):
    for kind in ("classes", "values"):
        check_same(kind, activation=activation, batch_size=40, learning_rate_init=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_is_that_of_scikit_learn(kind):
    options = {"early_stopping": True, "learning_rate_init": 0.02, "batch_size": 20}
    ours, theirs = check_same(kind, max_iter=60, n_iter_no_change=4, tol=1e-3, **options)
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-6)
    assert ours.best_validation_score_ == pytest.approx(theirs.best_validation_score_)
    assert ours.n_iter_ < 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_with_sample_weights_is_that_of_scikit_learn(kind):
    if "sample_weight" not in inspect.signature(reference.MLPClassifier.fit).parameters:
        pytest.skip("scikit-learn has sample weights since 1.7")
    weights = np.random.default_rng(0).integers(0, 4, 130)
    check_same(kind, {"sample_weight": weights}, batch_size=40, learning_rate_init=0.01)


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_every_solver_gives_the_losses_of_scikit_learn(solver, monkeypatch):
    monkeypatch.setattr("accelnn.solvers.choice._preferred", lambda *_: [(solver, "tested")])
    ours, _ = check_same("classes", batch_size=32)
    assert ours.solver_ == f"{solver} on numpy: tested"
