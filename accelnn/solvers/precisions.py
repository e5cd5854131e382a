"""How exact a training's matrix products are: `fit(precision=...)`.

"float64" and "float32" are the parameters' own. On a GPU float32 parameters can have faster
products, which round what they multiply and add up in float32 all the same:

"tf32"      to 11 significant bits (TensorFloat-32), inside the product
"bfloat16"  to 8, kept so: activations, and copies of the weights and of the data, are bfloat16
            arrays between products; the weights themselves, their gradients and updates, and the
            costs are float32
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from accelnn.backend import array_module
from accelnn.network import Parameters

PRECISIONS = ("float64", "float32", "tf32", "bfloat16")
ROUNDED = ("tf32", "bfloat16")  # what they multiply, to fewer bits than the parameters have
CAPABLE = 80  # compute capability (8.0) of the first GPUs that have them


def checked(precision: str | None, params: Parameters) -> str:
    """The precision of the products: the one asked for, or the parameters' own.

    Raises ValueError where there is none of this name, or these parameters cannot have it.
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
    if precision in ROUNDED:
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
    """CuPy's products of float32 arrays in this precision within the block."""
    if xp is np:
        yield
        return
    linalg = xp._core._routines_linalg  # CuPy has no other way in than the variable CUPY_TF32
    before = linalg.get_compute_type(np.float32)
    tf32 = precision == "tf32"
    linalg.set_compute_type(
        np.float32, linalg.COMPUTE_TYPE_TF32 if tf32 else linalg.COMPUTE_TYPE_DEFAULT
    )
    try:
        yield
    finally:
        linalg.set_compute_type(np.float32, before)


def why_not(precision: str | None) -> str | None:
    """Why a solver whose products are those of the arrays cannot have this precision, or None."""
    if precision != "bfloat16":
        return None
    return "products of bfloat16 are those of captured steps, solver='jitted'"
