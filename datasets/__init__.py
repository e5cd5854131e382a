"""The notes' data: pictures read from HDF5 files, and 2-D classics drawn from a seed.

Every loader returns a `Dataset`, on the chosen backend.
"""

from .dataset import Dataset
from .files import load_cats, load_digits
from .generated import blobs, circles, flower, spiral

__all__ = ["Dataset", "blobs", "circles", "flower", "load_cats", "load_digits", "spiral"]
