"""The notes' exercises that train nothing: each prints its steps, checks them and returns them.

`TOURS[name](say)` runs one on the chosen backend and calls `say` like `print`, with one text at a
time. The returned values are on the host; a wrong one raises ArithmeticError. A tour that reads
files takes their `folder`. `FIGURES[name]` draws a Figure of what that tour returned.
"""

from collections.abc import Callable
from typing import Any

from .arrays import math_and_numpy, numpy_basics
from .computation_graph import computation_graph
from .ex4_weights import ex4_weights
from .gradient_checking import gradient_checking
from .layers import forward_caches, regularisation
from .loops import loop_levels, vectorization
from .squared_error import draw, squared_error

TOURS: dict[str, Callable[..., dict[Any, Any]]] = {
    "vectorization": vectorization,
    "numpy-basics": numpy_basics,
    "math-and-numpy": math_and_numpy,
    "loop-levels": loop_levels,
    "squared-error": squared_error,
    "computation-graph": computation_graph,
    "forward-caches": forward_caches,
    "regularisation": regularisation,
    "gradient-check": gradient_checking,
    "ex4-weights": ex4_weights,
}

FIGURES: dict[str, Callable[[dict[Any, Any]], Any]] = {"squared-error": draw}
