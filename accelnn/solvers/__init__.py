"""The ways of gradient descent, and the rule by which "auto" picks one."""

from accelnn.solvers.choice import SOLVERS, warm_up

__all__ = ["SOLVERS", "warm_up"]
