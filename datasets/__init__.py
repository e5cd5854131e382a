"""The notes' data: read from files, or 2-D classics drawn from a seed; and your own.

Every loader returns a `Dataset`, on the chosen backend.
"""

from .dataset import Dataset, Preprocessing, StandInWarning
from .files import load_cats, load_digits
from .generated import blobs, circles, flower, spiral
from .matlab import load_ex4, load_ex4_weights, load_football
from .own import load_csv, load_hdf5, load_images, read_picture

__all__ = [
    "Dataset",
    "Preprocessing",
    "StandInWarning",
    "blobs",
    "circles",
    "flower",
    "load_cats",
    "load_csv",
    "load_digits",
    "load_ex4",
    "load_ex4_weights",
    "load_football",
    "load_hdf5",
    "load_images",
    "read_picture",
    "spiral",
]
