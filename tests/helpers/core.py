"""A small training, errors, and arrays that must not change."""

from contextlib import contextmanager

import numpy as np
import pytest

from accelnn import Network


def small(**options):
    """A small network for the flower, and its first weights."""
    net = Network([2, 4, 1], hidden="tanh", **options)
    return net, net.init("he", seed=2, dtype="float64")


@contextmanager
def refused(message, error=ValueError):
    """The block raises this error, with a message that the pattern matches."""
    try:
        with pytest.raises(error, match=message):
            yield
    except pytest.fail.Exception as failure:
        pytest.fail(f"{failure} (expected: {message})")


@contextmanager
def unchanged(*arrays):
    """The block leaves these arrays as they are, and may not write to them."""
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    yield
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
        array.setflags(write=True)
