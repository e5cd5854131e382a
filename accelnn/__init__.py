"""accelnn trains and measures the neural nets of the classic deep-learning notes, on CPU and GPU
with one code path.

Columns are examples: X is (n_features, m), Y holds integer labels (m,) or is (n_outputs, m),
W[l] is (n_l, n_{l-1}) and b[l] is (n_l, 1).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from accelnn.install import CLONE

# kernels/ and datasets/ are installed inside this package; in a clone they stand beside it.
if CLONE is not None:
    __path__.append(str(CLONE))

from accelnn.backend import BackendError, DeviceMemoryError, to_device, to_host, use
from accelnn.functions import one_hot
from accelnn.gradient_check import gradient_check
from accelnn.network import Network, Parameters
from accelnn.optimizers import SGD, Adam, Momentum
from accelnn.solvers import warm_up
from accelnn.training import Checkpoint, History, Interrupted, fit, minimize

if TYPE_CHECKING:
    from accelnn import datasets, plots
    from accelnn.models import Model, load, save

__version__ = "0.2.0"

__all__ = ["Network", "Parameters", "gradient_check", "one_hot"]
__all__ += ["SGD", "Adam", "Checkpoint", "History", "Interrupted", "Momentum", "fit", "minimize"]
__all__ += ["BackendError", "DeviceMemoryError", "to_device", "to_host", "use", "warm_up"]
__all__ += ["Model", "datasets", "load", "plots", "save"]

# name: the module imported when it is first used; the datasets and plots are modules
_LAZY = {"Model": "models", "datasets": "", "load": "models", "plots": "", "save": "models"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'accelnn' has no attribute {name!r}")
    module = import_module(f"accelnn.{_LAZY[name] or name}")
    return getattr(module, name) if _LAZY[name] else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
