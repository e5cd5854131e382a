"""The estimators: the same training as scikit-learn's own, and what they have beyond it."""

import inspect
import pickle
import re
import sys
import warnings
from types import SimpleNamespace

import joblib
import numpy as np
import pandas
import pytest
import sklearn
from helpers.core import refused
from scipy import sparse
from sklearn import neural_network as reference
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import accelnn
from accelnn.backend import to_host
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
        "columns": np.stack([score, X[:, 3] ** 2], axis=1),
        "counts": random.poisson(np.exp(score / 2)).astype(float),
    }
    return X, targets[kind]


def ours_for(kind, **options):
    """The estimator for these targets"""
    estimator = MLPRegressor if kind in ("values", "counts", "columns") else MLPClassifier
    if kind == "counts":
        options |= {"loss": "poisson"}
    options = {"hidden_layer_sizes": (9, 5), "random_state": 4, "max_iter": 20} | options
    return estimator(**options)


def both(kind, **options):
    """The estimators of accelnn and of scikit-learn for these targets"""
    ours = ours_for(kind, **options)
    theirs = getattr(reference, type(ours).__name__)
    if kind == "counts" and "loss" not in inspect.signature(theirs).parameters:
        pytest.skip("scikit-learn has the Poisson loss since 1.7")
    names = inspect.signature(theirs).parameters
    return ours, theirs(**{name: ours.get_params()[name] for name in names})


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
    got, expected = ours.predict(X), theirs.predict(X)
    if kind in ("values", "counts"):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    else:
        assert got.tolist() == expected.tolist()
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
    if kind == "binary" and sklearn.__version__ < "1.9":
        pytest.skip("scikit-learn stops early with texts as labels since 1.9")
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


def test_several_outputs_train_as_in_scikit_learn_and_their_loss_is_the_sum():
    """scikit-learn reports the mean over the outputs, and follows the gradient of the sum."""
    X, y = problem("columns")
    ours, theirs = both("columns", alpha=0, batch_size=40)
    losses = np.array(ours.fit(X, y).loss_curve_), np.array(theirs.fit(X, y).loss_curve_)
    np.testing.assert_allclose(losses[0], 2 * losses[1], rtol=1e-9)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [130, 40])
def test_a_random_state_is_used_as_scikit_learn_uses_it(batch_size):
    X, y = problem("binary")
    states = [np.random.RandomState(3), np.random.RandomState(3)]
    options = {"batch_size": batch_size, "max_iter": 7, "solver": "sgd"}
    for estimator, state in zip(both("binary", **options), states, strict=True):
        estimator.set_params(random_state=state).fit(X, y)
        estimator.partial_fit(X, y)
    assert states[0].randint(1 << 30) == states[1].randint(1 << 30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fit_and_warm_start_go_on_as_in_scikit_learn(kind, solver):
    X, y = problem(kind)
    for ours, theirs in (both(kind, solver=solver), both(kind, solver=solver, warm_start=True)):
        for estimator in (ours, theirs):
            if estimator.warm_start:
                estimator.fit(X, y).fit(X[::-1], y[::-1])
            classes = {"classes": np.arange(3) if kind == "labels" else np.unique(y)}
            classes = classes if hasattr(estimator, "predict_proba") else {}
            for start in (0, 40, 80):
                part = slice(start, start + 50)
                estimator.partial_fit(X[part], y[part], **classes)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
        np.testing.assert_allclose(ours.coefs_[1], theirs.coefs_[1], rtol=1e-6, atol=1e-9)
        assert (ours.n_iter_, ours.t_) == (theirs.n_iter_, theirs.t_)


def test_partial_fit_goes_on_after_a_change_of_the_solver():
    X, y = problem("binary")
    model = MLPClassifier(solver="lbfgs", max_iter=3).fit(X, y)
    losses = model.set_params(solver="adam").partial_fit(X, y).partial_fit(X, y).loss_curve_
    assert losses[1] < losses[0]
    model.fit(X, y).set_params(solver="sgd").partial_fit(X, y)  # with the moments of adam


@pytest.mark.parametrize("options", [DESCENTS["adaptive"], {"early_stopping": True, "tol": 1.0}])
def test_verbose_prints_what_scikit_learn_prints(options, capsys):
    X, y = problem("classes")
    printed = []
    for estimator in both("classes", verbose=True, **options):
        estimator.fit(X, y)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_warnings_name_the_line_of_the_caller():
    X, y = problem("binary")
    for options in ({"solver": "lbfgs"}, {"solver": "adam"}):
        with pytest.warns(ConvergenceWarning) as caught:
            MLPClassifier(max_iter=2, **options).fit(X, y)
        assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="It is going to be clipped") as caught:
        MLPClassifier(batch_size=500, max_iter=2).fit(X, y)
    assert caught[0].filename == __file__


CHECKS = parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])


# as a list: that of scikit-learn 1.6 is a generator, which pytest deprecates
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


def test_parameters_are_those_of_scikit_learn_in_its_order():
    new = {"dropout", "callbacks", "device", "n_jobs", "class_weight", "loss"}
    for name, ours in OURS.items():
        theirs = inspect.signature(getattr(reference, name)).parameters
        given = inspect.signature(ours).parameters
        assert {*given} - {*theirs} <= new
        kept = [parameter for parameter in given if parameter in theirs]
        assert kept == [parameter for parameter in theirs if parameter in given]
        assert {*theirs} <= {*given}
        for parameter in kept:
            assert given[parameter].default == theirs[parameter].default
            if sklearn.__version__ > "1.7" or name == "MLPClassifier":  # loss is new in 1.7
                assert given[parameter].kind == theirs[parameter].kind


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # by scikit-learn 1.6
def test_lbfgs_reaches_the_minimum_of_scikit_learn():
    X, y = problem("classes")
    options = {"solver": "lbfgs", "alpha": 1.0, "max_iter": 300, "activation": "tanh"}
    ours, theirs = (estimator.fit(X, y) for estimator in both("classes", **options))
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=5e-3)  # of a net with many minima
    assert ours.solver_.startswith("minimize on numpy: L-BFGS-B")
    with pytest.warns(ConvergenceWarning, match="after 3 iterations"):
        MLPClassifier(solver="lbfgs", max_iter=3).fit(X, y)


# --------------------------------------------------------------------------------------------
# beyond scikit-learn


def test_class_weights_are_sample_weights():
    X, y = problem("classes")
    counts = {label: (y == label).sum() for label in np.unique(y)}
    balanced = {label: len(y) / (len(counts) * count) for label, count in counts.items()}
    options = {"random_state": 1, "max_iter": 15, "batch_size": 32}
    by_examples = MLPClassifier(**options).fit(X, y, np.array([balanced[label] for label in y]))
    for class_weight in ("balanced", balanced):
        ours = MLPClassifier(class_weight=class_weight, **options).fit(X, y)
        np.testing.assert_allclose(ours.loss_curve_, by_examples.loss_curve_, rtol=1e-12)
    twice = MLPClassifier(class_weight=balanced, **options).fit(X, y, np.full(len(y), 2.0))
    assert twice.loss_curve_[0] == pytest.approx(by_examples.loss_curve_[0], rel=1e-3)
    with refused("'balanced' does not work with partial_fit: pass"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))


def test_dropout_drops_units_while_training_only():
    X, y = problem("classes")
    options = {"random_state": 1, "max_iter": 15, "hidden_layer_sizes": (20, 10)}
    plain, dropped, one, again = (
        MLPClassifier(dropout=dropout, **options).fit(X, y)
        for dropout in (0.0, 0.5, (0.5, 0.5), 0.5)
    )
    assert dropped.loss_curve_ == one.loss_curve_ == again.loss_curve_ != plain.loss_curve_
    assert dropped.loss_curve_[0] > plain.loss_curve_[0]
    np.testing.assert_array_equal(dropped.predict_proba(X), again.predict_proba(X))
    for dropout, message in (((0.5,) * 3, "one value or one for each of 2 layers"), (1.0, "")):
        with refused(message or "'dropout' parameter"):
            MLPClassifier(dropout=dropout, **options).fit(X, y)


def test_absolute_errors_find_the_median_and_hubers_loss_lies_between():
    y = np.array([0.0, 0.1, 0.2, 0.3, 100.0])
    X = np.zeros((5, 1))
    options = {"activation": "identity", "hidden_layer_sizes": (), "solver": "sgd", "momentum": 0}
    options |= {"max_iter": 4000, "learning_rate": "invscaling", "learning_rate_init": 1.0}
    options |= {"n_iter_no_change": np.inf, "alpha": 0, "random_state": 0}
    found = {
        loss: MLPRegressor(loss, **options).fit(X, y).predict(X)[0]
        for loss in ("squared_error", "huber", "absolute_error")
    }
    assert found["absolute_error"] == pytest.approx(0.2, abs=0.05)
    # the derivative of Huber's loss, Σ clip(b - y, -1, 1), is 0 at b = (0.6 + 1) / 4
    assert found["huber"] == pytest.approx(0.4, abs=1e-3)
    assert found["squared_error"] == pytest.approx(y.mean(), rel=1e-3)


def test_callbacks_see_each_epoch_and_may_end_the_training():
    X, y = problem("classes")
    seen = []
    options = {"random_state": 1, "max_iter": 30, "callbacks": [seen.append]}
    ours = MLPClassifier(**options).fit(X, y)
    assert [now.cost for now in seen] == ours.loss_curve_
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it did not reach its last epoch
        ended = MLPClassifier(**options | {"callbacks": [lambda now: now.epoch == 4]}).fit(X, y)
    assert ended.n_iter_ == 5
    lbfgs = MLPClassifier(solver="lbfgs", **options).fit(X, y)
    assert lbfgs.loss_ == min(now.cost for now in seen[30:])


def test_scikit_learns_callbacks_see_each_epoch(capsys):
    callback = pytest.importorskip("sklearn.callback", reason="new in scikit-learn 1.9")
    X, y = problem("classes")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    ours = MLPClassifier(random_state=1, max_iter=6).set_callbacks(monitor, callback.ProgressBar())
    ours.fit(X, y)
    [log] = [log for log in [monitor.get_logs()] if log is not None]
    assert "100%" in capsys.readouterr().out
    assert log is not None


def test_validation_data_are_watched_and_scored():
    X, y = problem("classes")
    watched = X[100:], y[100:]
    options = {"random_state": 1, "max_iter": 20}
    ours = MLPClassifier(**options).fit(X[:100], y[:100], validation_data=watched)
    assert len(ours.validation_loss_curve_) == ours.n_iter_ == 20
    first = MLPClassifier(random_state=1, max_iter=1).fit(X[:100], y[:100], validation_data=watched)
    assert first.validation_loss_curve_ == ours.validation_loss_curve_[:1]
    # before the second epoch, as the loss of the first one's parameters
    p = first.predict_proba(X[100:])[np.arange(30), np.searchsorted(first.classes_, y[100:])]
    assert ours.validation_loss_curve_[1] == pytest.approx(-np.log(p).mean(), rel=1e-9)
    options |= {"early_stopping": True, "max_iter": 200, "learning_rate_init": 0.01}
    early = MLPClassifier(**options).fit(X[:100], y[:100], validation_data=watched)
    assert early.n_iter_ < 200
    assert early.best_validation_score_ == early.score(*watched)
    with refused("has classes not in"):
        MLPClassifier().fit(X, y, validation_data=(X, y + 1))


def test_the_validation_loss_is_the_loss():
    X, y = problem("classes")
    model = MLPClassifier(max_iter=4, batch_size=130, alpha=0).fit(X, y, validation_data=(X, y))
    np.testing.assert_allclose(model.validation_loss_curve_, model.loss_curve_)


class Log:
    """A callback of scikit-learn 1.9"""

    def __init__(self, last=None):
        self.last, self.events, self.scores = last, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        self.scores.append(fitted_estimator.score(X, y, **(metadata or {})))
        return context.task_name != "fit" and context.task_id == self.last


has_callbacks = pytest.mark.skipif(
    not hasattr(MLPClassifier, "set_callbacks"), reason="scikit-learn has callbacks since 1.9"
)


@has_callbacks
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_of_scikit_learn_follow_the_epochs(kind, solver):
    X, y = problem(kind)
    log = Log(last=2)
    model = ours_for(kind, solver=solver)
    model.set_callbacks(log).fit(X, y, sample_weight=np.ones(130))
    name = "epoch" if solver == "adam" else "evaluation"
    epochs = [f"begin {name}", f"end {name}"] * 3
    assert log.events == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert log.scores[-1] == model.score(X, y)


@has_callbacks
def test_no_task_begins_after_the_last_epoch():
    X, y = problem("binary")
    for options in ({"max_iter": 3}, {"max_iter": 300, "tol": 10.0, "n_iter_no_change": 2}):
        log = Log()
        model = MLPClassifier(**options).set_callbacks(log).fit(X, y)
        assert log.events.count("begin epoch") == log.events.count("end epoch") == model.n_iter_


@has_callbacks
def test_the_scoring_monitor_of_scikit_learn_scores_the_epochs():
    from sklearn.callback import ScoringMonitor

    X, y = problem("binary")
    monitor = ScoringMonitor(scoring="accuracy")
    model = MLPClassifier(max_iter=5, random_state=0).set_callbacks(monitor).fit(X, y)
    scores = [
        entry["accuracy"] for entry in monitor.get_logs().data if entry["task_name"] == "epoch"
    ]
    assert len(scores) == 5
    assert scores[-1] == model.score(X, y)


# --------------------------------------------------------------------------------------------
# arrays, devices and files


def test_float32_stays_float32():
    for kind, name in (("classes", "predict_proba"), ("values", "predict")):
        X, y = problem(kind)
        ours = ours_for(kind).fit(X.astype(np.float32), y)
        assert {array.dtype for array in (*ours.coefs_, *ours.intercepts_)} == {np.dtype("f4")}
        assert getattr(ours, name)(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("package", ["torch", "jax.numpy"])
def test_arrays_of_other_packages_come_back_as_such(package):
    xp = pytest.importorskip(package)
    X, y = problem("classes")
    X = X.astype(np.float32)
    ours = MLPClassifier(random_state=1, max_iter=10).fit(X, y)
    moved = xp.asarray(X)
    again = MLPClassifier(random_state=1, max_iter=10).fit(moved, xp.asarray(y))
    assert again.loss_curve_ == ours.loss_curve_
    for name in ("predict", "predict_proba", "predict_log_proba"):
        got, expected = getattr(again, name)(moved), getattr(ours, name)(X)
        assert type(got) is type(moved), name
        np.testing.assert_array_equal(np.asarray(got), expected)
    texts = MLPClassifier(random_state=1, max_iter=10).fit(moved, y.astype(str))
    assert texts.predict(moved).dtype.kind == "U"  # no other package has texts


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_on_a_device_are_trained_there(double_with_kernels, kind):
    X, y = problem(kind)
    moved = double_with_kernels.asarray(X)
    ours = ours_for(kind, max_iter=8, early_stopping=True)
    ours.fit(moved, y, np.ones(len(X)), validation_data=(moved, y))
    assert ours.solver_.split(":")[0].endswith("on cupy")
    on_host = ours_for(kind, max_iter=8, early_stopping=True).fit(X, y, validation_data=(X, y))
    np.testing.assert_allclose(ours.loss_curve_, on_host.loss_curve_, rtol=1e-10)
    assert all(isinstance(coef, np.ndarray) for coef in ours.coefs_)
    got, expected = ours.predict(moved), ours.predict(X)
    if kind == "binary":  # whose classes are texts, which no device has
        assert got.tolist() == expected.tolist()
    else:
        assert isinstance(got, double_with_kernels.ndarray)
        np.testing.assert_allclose(to_host(got), expected, rtol=1e-10)
    with refused(r"expected X of shape \(n_samples, n_features\)"):
        ours.predict(moved[0])
    with refused("6 features|expecting 6"):
        ours.predict(moved[:, :4])


@pytest.mark.usefixtures("double_with_kernels")
def test_a_device_can_be_asked_for(monkeypatch):
    X, y = problem("classes")
    assert "on cupy" in MLPClassifier(device="cuda", max_iter=2).fit(X, y).solver_
    assert "on cupy" in MLPClassifier(device="auto", max_iter=2).fit(X, y).solver_
    assert isinstance(MLPClassifier(device="cuda", max_iter=2).fit(X, y).predict(X), np.ndarray)
    with monkeypatch.context() as patch:
        patch.setattr("accelnn.backend.why_not", lambda *_: "there is no GPU")
        assert "on numpy" in MLPClassifier(device="auto", max_iter=2).fit(X, y).solver_
        with refused("there is no GPU", accelnn.BackendError):
            MLPClassifier(device="cuda").fit(X, y)


def test_sparse_features_become_dense(monkeypatch):
    X, y = problem("classes")
    X[abs(X) < 0.5] = 0
    ours = MLPClassifier(random_state=1, max_iter=5).fit(sparse.csr_array(X), y)
    dense = MLPClassifier(random_state=1, max_iter=5).fit(X, y)
    assert ours.loss_curve_ == dense.loss_curve_
    np.testing.assert_array_equal(ours.predict(sparse.csc_array(X)), dense.predict(X))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100))
    with refused("X as a dense array needs 0.0 GiB", MemoryError):
        ours.fit(sparse.csr_array(X), y)


LABELS = {
    "texts": np.array(["b", "a", "c"]),
    "objects": np.array(["b", "a", "c"], object),
    "integers": np.array([5, -1, 7]),
    "booleans": np.array([True, False, True]),
}


@pytest.mark.parametrize("labels", LABELS)
def test_a_file_holds_the_whole_estimator(labels, tmp_path):
    X, y = problem("classes")
    y = LABELS[labels][y // 10]
    frame = pandas.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
    ours = MLPClassifier((7, 4), random_state=1, max_iter=9, early_stopping=True).fit(frame, y)
    path = tmp_path / "mlp.h5"
    ours.save(path)
    loaded = MLPClassifier.load(path)
    assert loaded.get_params() == ours.get_params()
    np.testing.assert_array_equal(loaded.predict_proba(frame), ours.predict_proba(frame))
    np.testing.assert_array_equal(loaded.predict(frame), ours.predict(frame))
    assert loaded.predict(frame).dtype == ours.predict(frame).dtype
    for name in ("loss_curve_", "n_iter_", "t_", "validation_scores_", "solver_"):
        assert getattr(loaded, name) == getattr(ours, name), name
    assert list(loaded.feature_names_in_) == list(frame.columns)
    with pytest.warns(UserWarning, match="feature names"):
        loaded.predict(X)
    loaded.set_params(early_stopping=False).partial_fit(frame, y)
    assert loaded.t_ > ours.t_


@pytest.mark.parametrize("kind", ["labels", "values", "counts"])
def test_files_of_other_targets(kind, tmp_path):
    X, y = problem(kind)
    ours = ours_for(kind).fit(X, y)
    ours.save(tmp_path / "mlp.h5")
    loaded = type(ours).load(tmp_path / "mlp.h5")
    np.testing.assert_array_equal(loaded.predict(X), ours.predict(X))


def test_files_that_cannot_be_are_refused(tmp_path):
    X, y = problem("classes")
    path = tmp_path / "mlp.h5"
    with pytest.raises(NotFittedError):
        MLPClassifier().save(path)
    with refused("a file holds no callbacks"):
        MLPClassifier(max_iter=1, callbacks=[print]).fit(X, y).save(path)
    with refused("a file holds no random_state"):
        MLPClassifier(max_iter=1, random_state=np.random.RandomState(0)).fit(X, y).save(path)
    assert not path.exists()
    MLPClassifier(max_iter=1).fit(X, y).save(path)
    with refused("is not an MLPRegressor saved by accelnn"):
        MLPRegressor.load(path)
    with refused("is not a model saved by accelnn"):
        accelnn.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with refused("mlp.h5"):
        MLPClassifier.load(path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_onnx_models_predict_the_same(kind, activation, dtype):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    X, y = problem(kind)
    X = X.astype(dtype)
    ours = ours_for(kind, activation=activation).fit(X, y)
    session = runtime.InferenceSession(ours.to_onnx().SerializeToString())
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    if kind in ("binary", "classes"):
        label, probabilities = session.run(["label", "probabilities"], {"X": X})
        np.testing.assert_array_equal(label, ours.predict(X))
        expected = ours.predict_proba(X)
    else:
        [probabilities] = session.run(["outputs"], {"X": X})
        expected = ours.predict_proba(X) if kind == "labels" else ours.predict(X)[:, None]
    np.testing.assert_allclose(probabilities, expected, tolerance, tolerance)


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"solver": "lbfgs"}])
def test_a_device_holds_out_and_searches_as_the_host_does(double, options):
    X, y = problem("classes")
    given, weights = double.asarray(X), np.arange(130) / 100
    there, here = (ours_for("classes", **options).fit(data, y, weights) for data in (given, X))
    assert " on cupy: " in there.solver_
    np.testing.assert_allclose(there.coefs_[0], here.coefs_[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_a_file_keeps_class_weights(kind, tmp_path):
    X, y = problem(kind)
    weights = dict.fromkeys(np.unique(y), 2.0)
    ours = MLPClassifier(max_iter=2, class_weight=weights, n_iter_no_change=np.inf).fit(X, y)
    ours.save(tmp_path / "mlp.h5")
    loaded = MLPClassifier.load(tmp_path / "mlp.h5")
    assert loaded.get_params() == ours.get_params()
    loaded.fit(X, y)


HOSTILE = {
    "unknown parameter": lambda fields: fields["params"].update(power=3),
    "unknown solver": lambda fields: fields["params"].update(solver="magic"),
    "no layers": lambda fields: fields.pop("layers"),
    "other layers": lambda fields: fields.update(layers=[6, 9, 3]),
    "missing": lambda fields: fields["params"].pop("hidden_layer_sizes"),
    "a huge text": lambda fields: fields.update(dtype="U1000000000"),
    "too few classes": lambda fields: fields.update(classes=[1]),
    "activation": lambda fields: fields["attributes"].update(out_activation_="tan"),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_file_is_refused(change, tmp_path, monkeypatch):
    write = accelnn.models.write

    def changed(path, kind, fields, weights):
        HOSTILE[change](fields)
        write(path, kind, fields, weights)

    monkeypatch.setattr("accelnn.models.write", changed)
    X, y = problem("classes")
    path = tmp_path / "mlp.h5"
    MLPClassifier(max_iter=1).fit(X, y).save(path)
    with refused("mlp.h5: .*: take a whole copy"):
        MLPClassifier.load(path)


def test_a_file_sets_no_other_attributes(tmp_path, monkeypatch):
    monkeypatch.setattr("accelnn.sklearn.KEPT", {*accelnn.sklearn.KEPT, "predict"})
    X, y = problem("binary")
    model = MLPClassifier(max_iter=2).fit(X, y)
    model.predict = 3
    model.save(tmp_path / "model.h5")
    monkeypatch.undo()
    assert callable(MLPClassifier.load(tmp_path / "model.h5").predict)


@pytest.mark.parametrize("labels", [[7], [True, False], [0.0, 1.0, 2.0], ["one"]])
def test_onnx_models_give_labels_of_all_kinds(labels):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    X, _ = problem("classes")
    ours = MLPClassifier(max_iter=5).fit(X, np.resize(labels, 130))
    session = runtime.InferenceSession(ours.to_onnx().SerializeToString())
    label, probabilities = session.run(["label", "probabilities"], {"X": X})
    np.testing.assert_array_equal(label, ours.predict(X))
    np.testing.assert_allclose(probabilities, ours.predict_proba(X), 1e-12)


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    ours = MLPRegressor(max_iter=2).fit(*problem("values"))
    with refused("ONNX models need the package onnx: pip install", ModuleNotFoundError):
        ours.to_onnx()


def test_X_enters_without_a_copy(monkeypatch):
    given = []
    monkeypatch.setattr("accelnn.sklearn.fit", lambda *args, **_: given.extend(args) or 1 / 0)
    X, y = problem("values")
    with pytest.raises(ZeroDivisionError):
        MLPRegressor().fit(X, y)
    assert np.shares_memory(given[2], X)
    assert given[2].shape == X.T.shape


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_on_a_device_are_taken_everywhere(double, kind):
    X, y = problem(kind)
    y = (y == "yes").astype(int) if kind == "binary" else y
    moved = tuple(map(double.asarray, (X, y, np.arange(130) % 3)))
    ours, expected = ours_for(kind).fit(*moved), ours_for(kind).fit(X, y, np.arange(130) % 3)
    np.testing.assert_allclose(ours.loss_curve_, expected.loss_curve_, rtol=1e-9)
    assert ours.score(*moved) == pytest.approx(expected.score(X, y, np.arange(130) % 3))
    classes = {"classes": expected.classes_} if hasattr(expected, "classes_") else {}
    begun = clone(ours).partial_fit(*moved[:2], **classes)
    assert begun.loss_ == pytest.approx(clone(ours).partial_fit(X, y, **classes).loss_)
    if kind in ("binary", "classes", "values"):
        with pytest.warns(sklearn.exceptions.DataConversionWarning, match="column-vector"):
            begun.fit(moved[0], moved[1][:, None])


@pytest.mark.usefixtures("double")
def test_partial_fit_goes_on_from_a_copy_on_any_device():
    X, y = problem("values")
    ours, expected = ours_for("values", device="cuda"), ours_for("values")
    for device in ("cuda", "cuda", "cpu", "cuda"):
        ours.set_params(device=device).partial_fit(X, y)
        expected.partial_fit(X, y)
        assert all(isinstance(m, np.ndarray) for m in ours._optimizer.state.moments)
        ours = pickle.loads(pickle.dumps(ours))
    np.testing.assert_allclose(ours.loss_curve_, expected.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("package", ["torch", "jax.numpy"])
def test_arrays_of_other_packages_are_scored_and_weighed(package):
    xp = pytest.importorskip(package)
    X, y = problem("classes")
    given = [xp.asarray(array) for array in (X.astype("f4"), y, np.arange(130, dtype="f4") % 3)]
    ours = ours_for("classes").fit(*given, validation_data=given[:2])
    expected = ours_for("classes").fit(X.astype("f4"), y, np.arange(130) % 3)
    assert ours.loss_curve_ == expected.loss_curve_
    assert ours.score(*given) == expected.score(X.astype("f4"), y, np.arange(130) % 3)
    assert ours.partial_fit(*given).n_iter_ == 1


def test_a_file_keeps_parameters_that_are_tuples(tmp_path):
    ours = MLPClassifier((8, 4), dropout=(0.1, 0.2), max_iter=2).fit(*problem("binary"))
    ours.save(tmp_path / "mlp.h5")
    loaded = MLPClassifier.load(tmp_path / "mlp.h5")
    assert loaded.get_params() == ours.get_params()


@pytest.mark.parametrize("model", [MLPClassifier, MLPRegressor])
def test_the_documentation_names_every_parameter_and_attribute(model):
    ours = model(max_iter=2).fit(problem("values")[0], np.arange(130) % 2)
    public = [name for name in vars(ours) if name[0] != "_"]
    for name in (*ours.get_params(), *public, "feature_names_in_"):
        entry = rf"^    (\w+, )*{name}(, \w+)* : "
        assert re.search(entry, model.__doc__, re.MULTILINE), name


# --------------------------------------------------------------------------------------------
# in scikit-learn's tools


def test_pickles_and_clones():
    X, y = problem("classes")
    ours = MLPClassifier(random_state=1, max_iter=9).fit(X, y)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))
    for estimator in (ours, again):
        estimator.partial_fit(X, y)
    assert again.loss_ == ours.loss_
    fresh = clone(ours)
    assert not hasattr(fresh, "coefs_")
    assert fresh.fit(X, y).loss_curve_ == ours.loss_curve_[:9]


def test_searches_pipelines_and_calibration():
    X, y = problem("classes")
    net = make_pipeline(StandardScaler(), MLPClassifier(random_state=1, max_iter=15, n_jobs=1))
    grid = {"mlpclassifier__alpha": [1e-4, 10.0], "mlpclassifier__dropout": [0.0, 0.3]}
    with joblib.parallel_config("threading", n_jobs=2):
        side_by_side = GridSearchCV(net, grid, cv=3).fit(X, y)
    alone = GridSearchCV(net, grid, cv=3).fit(X, y)
    for results in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(side_by_side.cv_results_[results], alone.cv_results_[results])
    calibrated = CalibratedClassifierCV(net, cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    target = TransformedTargetRegressor(MLPRegressor(max_iter=5), transformer=StandardScaler())
    assert target.fit(X, problem("values")[1]).predict(X).shape == (130,)


def test_metadata_is_routed():
    X, y = problem("classes")
    weights = (y == 0) * 1.0 + 1
    with sklearn.config_context(enable_metadata_routing=True):
        net = MLPClassifier(random_state=1, max_iter=5).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, net).fit(X, y, sample_weight=weights)
    expected = MLPClassifier(random_state=1, max_iter=5)
    expected.fit(StandardScaler().fit_transform(X), y, weights)
    assert pipeline[-1].loss_curve_ == expected.loss_curve_


def test_ctrl_c_keeps_what_was_reached():
    X, y = problem("classes")

    def interrupt(now):
        if now.epoch == 3:
            raise KeyboardInterrupt

    ours = MLPClassifier(random_state=1, max_iter=50, callbacks=[interrupt])
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        ours.fit(X, y)
    assert ours.n_iter_ == 4
    assert ours.predict(X).shape == (130,)
    lbfgs = MLPClassifier(solver="lbfgs", random_state=1, callbacks=[interrupt])
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        lbfgs.fit(X, y)
    assert lbfgs.loss_ < MLPClassifier(random_state=1, max_iter=1).fit(X, y).loss_


def test_threads_of_a_training(monkeypatch):
    X, y = problem("classes")
    given = []
    monkeypatch.setattr(
        "accelnn.sklearn.fit", lambda *_, **options: given.append(options["threads"]) or 1 / 0
    )
    for n_jobs, threads in ((None, None), (-1, None), (1, 1), (3, 3)):
        with pytest.raises(ZeroDivisionError):
            MLPClassifier(n_jobs=n_jobs).fit(X, y)
        assert given.pop() == threads
    with refused("'n_jobs' parameter"):
        MLPClassifier(n_jobs=0).fit(X, y)


def test_labels_that_fit_did_not_see():
    X, y = problem("classes")
    ours = MLPClassifier(max_iter=2).partial_fit(X, y, classes=[0, 10, 20])
    with refused("has classes not in"):
        ours.partial_fit(X, y + 1)
    with refused("expected labels|Unknown label type"):
        MLPClassifier().fit(X, np.stack([y, y], axis=1))
    with refused("at least 0 for poisson outputs"):
        MLPRegressor("poisson").fit(X, y - 100)


def test_batches_larger_than_the_data_are_clipped_with_a_warning():
    X, y = problem("classes")
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than"):
        ours = MLPClassifier(batch_size=500, random_state=1, max_iter=3).fit(X, y)
    assert ours.loss_curve_ == MLPClassifier(random_state=1, max_iter=3).fit(X, y).loss_curve_


MISTAKES = {
    "dropout needs the solver adam or sgd, got lbfgs": {"solver": "lbfgs", "dropout": 0.5},
    "dropout in [0, 1), one value or one for each of 2 layers": {"dropout": [0.1, 1.2]},
    "The 'device' parameter of MLPClassifier must be": {"device": "gpu"},
    "The 'callbacks' parameter of MLPClassifier must be": {"callbacks": print},
    "The classes, ['no', 'yes'], are not in class_weight": {"class_weight": {"maybe": 1}},
    "hidden_layer_sizes must be > 0, got [5, 0]": {"hidden_layer_sizes": (5, 0)},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_parameters_that_do_not_fit_are_explained(message):
    options = {"hidden_layer_sizes": (5, 4)} | MISTAKES[message]
    with refused(re.escape(message)):
        MLPClassifier(**options).fit(*problem("binary"))


def test_data_that_do_not_fit_are_explained():
    X, y = problem("binary")
    with refused("validation_data needs the solver adam or sgd, got lbfgs"):
        MLPClassifier(solver="lbfgs").fit(X, y, validation_data=(X, y))
    with refused(re.escape("expected validation_data as (X, y), got ndarray")):
        MLPClassifier().fit(X, y, validation_data=X)
    with refused("X has 2 features, but MLPClassifier is expecting 6 features"):
        MLPClassifier().fit(X, y, validation_data=(X[:, :2], y))
    with refused("`y` has classes not in `self.classes_`"):
        MLPClassifier().fit(X, y, validation_data=(X, np.full(130, "maybe")))
    with refused("Negative values in data passed to `sample_weight`"):
        MLPClassifier().fit(X, y, sample_weight=-np.ones(130))
    with refused("at least 0 for poisson outputs, got -"):
        MLPRegressor(loss="poisson").fit(*problem("values"))
    with refused("class_weight='balanced' does not work with partial_fit: pass"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=["no", "yes"])
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
