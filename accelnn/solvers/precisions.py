"""The precision of a training's matrix products: `fit(precision=...)`.

"float64" and "float32" are the parameters' own. On a GPU, float32 parameters can have faster
products of rounded numbers, added up in float32:

"tf32"      rounds to 11 significant bits (TensorFloat-32), inside the product
"bfloat16"  rounds to 8 bits: activations, and copies of the weights and of the data, are bfloat16
            arrays; the weights themselves, their gradients and updates, and the costs are float32
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from accelnn.backend import array_module
from accelnn.network import Parameters

PRECISIONS = ("float64", "float32", "tf32", "bfloat16")
ROUNDED = ("tf32", "bfloat16")
CAPABLE = 80  # compute capability (8.0) of the first GPUs with rounded products


def checked(precision: str | None, params: Parameters) -> str:
    """The precision of the products: the one asked for, or the parameters' own.

    Raises ValueError for an unknown name, or if these parameters cannot have it.
    """
    own = str(params.dtype)
    if precision is None:
        return own
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: expected one of {list(PRECISIONS)}")
    needed = "float32" if precision in ROUNDED else precision
    if own != needed:
        raise ValueError(
            f"precision={precision!r} needs {needed} parameters, got {own}: give "
            f"net.init(dtype={needed!r}), or "
            f"Parameters(params.flat.astype({needed!r}), params.layers)"
        )
    if precision not in ROUNDED:
        return precision
    xp = array_module(params.flat)
    if xp is np:
        raise ValueError(
            f"precision={precision!r} needs a GPU, and the arrays are NumPy's: choose it with "
            "accelnn.use('cupy') and move them there with accelnn.to_device"
        )
    capability = xp.cuda.Device().compute_capability
    if int(capability) < CAPABLE:
        raise ValueError(
            f"precision={precision!r} needs a GPU of compute capability 8.0 or more, this one "
            f"has {capability[:-1]}.{capability[-1]}: choose 'float32'"
        )
    return precision


@contextmanager
def of_products(xp: Any, precision: str) -> Iterator[None]:
    """Give CuPy's products of float32 arrays this precision within the block."""
    if xp is np:
        yield
        return
    linalg = xp._core._routines_linalg  # the only way but the variable CUPY_TF32
    before = linalg.get_compute_type(np.float32)
    name = "COMPUTE_TYPE_TF32" if precision == "tf32" else "COMPUTE_TYPE_DEFAULT"
    linalg.set_compute_type(np.float32, getattr(linalg, name))
    try:
        yield
    finally:
        linalg.set_compute_type(np.float32, before)
