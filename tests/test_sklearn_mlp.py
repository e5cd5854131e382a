"""scikit-learn's own tests of its MLP, run on the estimators of accelnn."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.filterwarnings("default")

THEIRS = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
OURS = "from accelnn.sklearn import MLPClassifier, MLPRegressor"
EXCLUDED = {"test_gradient": "it calls the private _loss_grad_lbfgs"}


def collected():
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    source = Path(spec.origin).read_text()
    assert source.count(THEIRS) == 1
    module = ModuleType(spec.name)
    module.__file__ = spec.origin
    exec(compile(source.replace(THEIRS, OURS), spec.origin, "exec"), vars(module))
    tests = {name: value for name, value in vars(module).items() if name.startswith("test_")}
    assert tests.keys() > EXCLUDED.keys()
    return {name: test for name, test in tests.items() if name not in EXCLUDED}


globals().update(collected())


@pytest.fixture
def global_random_seed():
    """scikit-learn's fixture of this name"""
    return 42
