"""The notes' data and your own: every loader returns a `Dataset` on the chosen backend."""

from .cats import CAT_FILES, load_cats
from .dataset import Dataset, Preprocessing, StandInWarning
from .digits import load_digits, load_ex4, load_ex4_weights
from .own import load_csv, load_hdf5, load_images, read_picture
from .planar import FOOTBALL_FILES, blobs, circles, flower, load_football, spiral

# The data sets that `accelnn data download NAME` downloads.
DOWNLOADS = {"cats": CAT_FILES, "football": FOOTBALL_FILES}

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
