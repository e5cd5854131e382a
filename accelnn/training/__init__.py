"""Training: `fit` by gradient descent, `minimize` by SciPy's minimisers."""

from accelnn.training.fit import fit
from accelnn.training.history import Checkpoint, History, Interrupted
from accelnn.training.minimize import minimize

__all__ = ["Checkpoint", "History", "Interrupted", "fit", "minimize"]
