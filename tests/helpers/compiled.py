"""The functions of compiled steps, which have no Python wrappers, made callable by tests."""

import functools
from types import SimpleNamespace

import numba
import numpy as np

from accelnn.kernels import jit


def callable_from_python(function):
    @numba.njit(nogil=True, error_model="numpy")
    def call(*arguments):
        return function(*arguments)

    return call


@functools.cache
def functions(dtype):
    """Those of `jit.cpu_functions` for matrices of a dtype."""
    compiled = jit.cpu_functions(np.dtype(dtype)).items()
    return SimpleNamespace(**{name: callable_from_python(one) for name, one in compiled})
