"""Training by gradient descent, `fit`, or several at once, `fit_many`; and by SciPy, `minimize`."""

from accelnn.training.fit import fit
from accelnn.training.history import Checkpoint, History, Interrupted
from accelnn.training.many import TrainingsFailed, TrainingsInterrupted, fit_many
from accelnn.training.minimize import minimize

__all__ = ["Checkpoint", "History", "Interrupted", "TrainingsFailed", "TrainingsInterrupted"]
__all__ += ["fit", "fit_many", "minimize"]
