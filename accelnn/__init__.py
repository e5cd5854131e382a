"""accelnn trains the neural nets of the classic deep-learning notes, and measures them, on CPU
and GPU with one code path.

Columns are examples: X is (n_features, m), Y is (n_outputs, m), W[l] is (n_l, n_{l-1}) and
b[l] is (n_l, 1).
"""

from accelnn.install import CLONE

# kernels/ and datasets/ are installed inside this package; in a clone they stand beside it.
if CLONE is not None:
    __path__.append(str(CLONE))

from accelnn.backend import BackendError, DeviceMemoryError, to_device, to_host, use
from accelnn.functions import one_hot
from accelnn.gradient_check import gradient_check
from accelnn.network import Network, Parameters
from accelnn.optimizers import SGD, Adam, Momentum
from accelnn.solvers import Checkpoint, History, fit

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "BackendError",
    "Checkpoint",
    "DeviceMemoryError",
    "History",
    "Momentum",
    "Network",
    "Parameters",
    "fit",
    "gradient_check",
    "one_hot",
    "to_device",
    "to_host",
    "use",
]
