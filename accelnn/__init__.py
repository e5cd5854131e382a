"""accelnn trains and measures the neural nets of the classic deep-learning notes, on CPU and GPU
with one code path.

Columns are examples: X is (n_features, m), Y holds integer labels (m,) or is (n_outputs, m),
W[l] is (n_l, n_{l-1}) and b[l] is (n_l, 1).
"""

from importlib import import_module

from accelnn.install import CLONE

# kernels/ and datasets/ are installed inside this package; in a clone they stand beside it.
if CLONE is not None:
    __path__.append(CLONE)

TYPE_CHECKING = False  # typing's, which takes 2 ms to import
if TYPE_CHECKING:
    from accelnn import datasets, plots
    from accelnn.backend import BackendError, DeviceMemoryError, to_device, to_host, use
    from accelnn.columns import stored
    from accelnn.functions import one_hot
    from accelnn.models import Model, load, save
    from accelnn.network import Network, Parameters
    from accelnn.numerical import gradient_check
    from accelnn.optimizers import SGD, Adam, HeavyBall, Momentum, Nesterov
    from accelnn.solvers import warm_up
    from accelnn.training import Checkpoint, History, Interrupted
    from accelnn.training.fit import fit
    from accelnn.training.many import TrainingsFailed, TrainingsInterrupted, fit_many
    from accelnn.training.minimize import minimize

__version__ = "0.2.0"

__all__ = ["Network", "Parameters", "gradient_check", "one_hot"]
__all__ += ["SGD", "Adam", "HeavyBall", "Momentum", "Nesterov"]
__all__ += ["Checkpoint", "History", "Interrupted", "fit", "minimize"]
__all__ += ["TrainingsFailed", "TrainingsInterrupted", "fit_many"]
__all__ += ["BackendError", "DeviceMemoryError", "to_device", "to_host", "use", "warm_up"]
__all__ += ["Model", "datasets", "load", "plots", "save", "stored"]

# The modules of these names. Each is imported when it or one of its names is first used, so that
# the commands start at once.
_NAMES = {
    "backend": ("BackendError", "DeviceMemoryError", "to_device", "to_host", "use"),
    "columns": ("stored",),
    "functions": ("one_hot",),
    "models": ("Model", "load", "save"),
    "network": ("Network", "Parameters"),
    "numerical": ("gradient_check",),
    "optimizers": ("SGD", "Adam", "HeavyBall", "Momentum", "Nesterov"),
    "solvers": ("warm_up",),
    "training": (
        *("Checkpoint", "History", "Interrupted", "TrainingsFailed", "TrainingsInterrupted"),
        *("fit", "fit_many", "minimize"),
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
_USED = {*_NAMES, "batches", "datasets", "kernels", "plots", "recipes", "scores", "streaming"}
_USED |= {"tables"}


def __getattr__(name: str) -> object:
    if name in _USED:
        return import_module(f"accelnn.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'accelnn' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"accelnn.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
