"""Your own data: folders of pictures, an HDF5 file like the cats', or a table as CSV.

Unless there is a test set, a share of every class is set aside by a seed to validate on.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from accelnn.backend import Array

from .dataset import Dataset, Preprocessing, on_backend, stratified_split
from .reading import Schema, check_labels, read_hdf5

_NO_PICTURES = ("thumbs.db", "desktop.ini")  # what Windows leaves in folders of pictures
_HDF5_REMEDY = "write it as the documentation of accelnn.datasets.load_hdf5 says"


def load_images(
    folder: str | os.PathLike[str],
    size: int = 64,
    validation: float = 0.2,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """Your pictures, a folder for each class, all made colour pictures of one size.

    Parameters
    ----------
    folder : with a folder of pictures for each class; hidden files and folders, and files
        beside the folders, are left alone
    size : the height and the width in pixels that every picture is given, see `read_picture`
    validation : the share of each class, in [0, 1), that becomes the test set
    seed : of the split and of the order
    dtype : of the arrays returned; by default the backend's

    Returns X (3 * size**2, m) in [0, 1]; Y (1, m) of 0/1 for two classes, else one-hot
    (n_classes, m). The classes are the folders' names, sorted.

    Raises FileNotFoundError or NotADirectoryError where `folder` is no folder; ValueError where
    there are fewer than two classes, a class is too small to be split, a picture cannot be read,
    or an argument is none of these.
    """
    if size < 1:
        raise ValueError(f"expected a size of 1 pixel or more, got {size}")
    folder = Path(folder)
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in inside if path.is_dir()]
    if len(folders) < 2:
        found = ", ".join(path.name for path in folders) or "none"
        raise ValueError(f"{folder}: expected two folders or more, one for each class, got {found}")
    paths = [_pictures(path) for path in folders]
    classes = tuple(path.name for path in folders)
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in paths])
    train, test = _split(str(folder), labels, classes, validation, seed)
    pictures = np.empty((len(labels), size, size, 3), np.uint8)
    for picture, path in zip(pictures, (path for files in paths for path in files), strict=True):
        picture[...] = read_picture(path, picture.shape)
    return on_backend(
        (pictures[train], labels[train]),
        (pictures[test], labels[test]),
        classes=classes,
        source=_source(f"{folder}: {len(labels)} pictures", validation, seed),
        dtype=dtype,
    )


def read_picture(path: str | os.PathLike[str], image_shape: tuple[int, int, int]) -> Array:
    """A picture of any size and mode as uint8 (height, width, channels), here as in training.

    It is turned as its EXIF orientation says; what is transparent becomes white; 16-bit greys
    keep their upper 8 bits. It is resized as a whole, not cropped: its proportions may change.

    Parameters
    ----------
    path : of the file, in any format that Pillow reads; of an animation, the first picture
    image_shape : (height, width, channels), the channels 1 (grey) or 3 (red, green, blue)

    Raises FileNotFoundError and the system's other errors; ValueError where the file is no whole
    picture, or `image_shape` is not of this form.
    """
    from PIL import Image, ImageOps  # here, so that importing accelnn.datasets stays cheap

    height, width, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(f"expected pictures of 1 or 3 channels, got {channels}")
    try:
        with Image.open(path) as file:
            picture: Image.Image = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I"):  # Pillow would clip the 16 bits at 255
            greys = np.clip(np.asarray(picture).astype(np.int64), 0, 65535) >> 8
            picture = Image.fromarray(greys.astype(np.uint8))
        elif picture.mode == "F":
            raise ValueError("floating-point pixels have no known range")
        elif picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("L" if channels == 1 else "RGB").resize((width, height))
    except Exception as error:  # damaged bytes raise anything: OSError, SyntaxError, struct.error
        if isinstance(error, OSError) and error.errno:  # the system's: no such file, no permission
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a whole picture that Pillow can read ({reason})") from error
    return np.asarray(picture).reshape(image_shape)


def load_hdf5(
    file: str | os.PathLike[str],
    validation: float = 0.2,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """Your pictures from one HDF5 file, stored under the names that the course's cats have.

    Parameters
    ----------
    file : with train_set_x, uint8 (m, h, w, c); train_set_y, integers (m,) in 0..n-1;
        list_classes, bytes (n,) such as np.array([b"dog", b"cat"]); and, for a test set of your
        own, test_set_x (k, h, w, c) and test_set_y (k,)
    validation : the share of each class, in [0, 1), that becomes the test set where there is none
    seed : of the split and of the order
    dtype : of the arrays returned; by default the backend's

    Returns X (h * w * c, m) in [0, 1]; Y (1, m) of 0/1 for two classes, else one-hot (n, m). With
    a test set of your own, both are in the file's order.

    Raises FileNotFoundError; ValueError where the contents are wrong, there are fewer than two
    classes, a class is too small to be split, or an argument is none of these.
    """
    path = Path(file)
    train_set: Schema = {
        "train_set_x": (np.uint8, ("m", "h", "w", "c")),
        "train_set_y": (np.integer, ("m",)),
        "list_classes": (np.bytes_, ("n",)),
    }
    test_set: Schema = {
        "test_set_x": (np.uint8, ("k", "h", "w", "c")),
        "test_set_y": (np.integer, ("k",)),
    }
    arrays = read_hdf5(path, train_set, _HDF5_REMEDY, optional=test_set)
    classes = tuple(name.decode(errors="replace") for name in arrays["list_classes"])
    _require_two(str(path), classes)

    def part(name: str) -> tuple[Array, Array]:
        key = f"{name}_set_y"
        labels = check_labels(path, key, arrays[key], 0, len(classes) - 1, _HDF5_REMEDY)
        return arrays[f"{name}_set_x"], labels

    pictures, labels = part("train")
    if "test_set_x" in arrays:
        source = f"{path}: {len(labels)} pictures and a test set"
        return on_backend((pictures, labels), part("test"), classes, source, dtype)
    train, test = _split(str(path), labels, classes, validation, seed)
    return on_backend(
        (pictures[train], labels[train]),
        (pictures[test], labels[test]),
        classes=classes,
        source=_source(f"{path}: {len(labels)} pictures", validation, seed),
        dtype=dtype,
    )


def load_csv(
    file: str | os.PathLike[str],
    target: str,
    validation: float = 0.2,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """Your table: a header, then a row for each example; commas between cells, text in UTF-8.

    Every feature is standardised to mean 0 and standard deviation 1 over the training part; one
    that is constant there is only shifted. `preprocessing` keeps both.

    Parameters
    ----------
    file : with numbers in every column but the target's
    target : the column of the class, by name or number
    validation : the share of each class, in [0, 1), that becomes the test set
    seed : of the split and of the order
    dtype : of the arrays returned; by default the backend's

    Returns X (n_features, m) in the columns' order; Y (1, m) of 0/1 for two classes, else
    one-hot (n_classes, m). The classes are sorted, as numbers where all are numbers.

    Raises FileNotFoundError; ValueError where the file is empty, a column or a cell is missing,
    a cell is no finite number, there are fewer than two classes, a class is too small to be
    split, or an argument is none of these.
    """
    features, names = _read_csv(Path(file), target)
    classes = _sorted(set(names))
    _require_two(f"{file}: column {target!r}", classes)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[name] for name in names])
    train, test = _split(f"{file}: column {target!r}", labels, classes, validation, seed)
    known = features[train]
    # the deviation of a constant column may round to 1e-17, so constancy is asked for itself
    constant = known.min(axis=0) == known.max(axis=0)
    shift, scale = known.mean(axis=0), np.where(constant, 1.0, known.std(axis=0))
    return on_backend(
        (known, labels[train]),
        (features[test], labels[test]),
        classes=classes,
        source=_source(f"{file}: {len(labels)} rows", validation, seed),
        dtype=dtype,
        preprocessing=Preprocessing(shift=shift, scale=scale),
    )


def _pictures(folder: Path) -> list[Path]:
    names = sorted(path.name for path in folder.iterdir())
    names = [name for name in names if name[0] != "." and name.lower() not in _NO_PICTURES]
    if not names:
        raise ValueError(f"{folder}: no pictures in this class: add some, or remove the folder")
    return [folder / name for name in names]


def _read_csv(path: Path, target: str) -> tuple[Array, list[str]]:
    """The features (m, n_features) float64 and the target's cells."""
    rows: list[list[float]] = []
    names: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            if not columns:
                raise ValueError(f"{path}: empty: expected a row of column names, then examples")
            if columns.count(target) != 1:
                raise ValueError(
                    f"{path}: expected one column {target!r} (the target), got the columns "
                    + ", ".join(map(repr, columns))
                )
            if len(columns) == 1:
                raise ValueError(f"{path}: only the target {target!r}: expected features beside it")
            place = columns.index(target)
            for row in reader:
                if not row:
                    continue  # a blank line
                where = f"{path}: line {reader.line_num}"
                if len(row) != len(columns):
                    raise ValueError(f"{where}: expected {len(columns)} cells, got {len(row)}")
                names.append(row.pop(place).strip())
                if names[-1].lower() in ("", "nan"):
                    raise ValueError(f"{where}, column {target!r}: no class: fill or remove it")
                rows.append(_numbers(row, columns[:place] + columns[place + 1 :], where))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason})") from error
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        raise ValueError(f"{path}: empty: expected examples below the column names")
    return np.array(rows), names


def _numbers(cells: Sequence[str], columns: Sequence[str], where: str) -> list[float]:
    numbers = []
    for cell, column in zip(cells, columns, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = np.nan
        if not abs(number) < 1e100:  # NaN too; beyond it squares overflow
            raise ValueError(f"{where}, column {column!r}: expected a finite number, got {cell!r}")
        numbers.append(number)
    return numbers


def _sorted(names: set[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _require_two(where: str, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise ValueError(f"{where}: expected two classes or more, got only {', '.join(classes)}")


def _split(
    where: str, labels: Array, classes: Sequence[str], validation: float, seed: int
) -> tuple[Array, Array]:
    """Indices to train and to validate on; to validate, each class's share, but neither part
    goes without any of it.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"expected validation as a share in [0, 1), got {validation}")
    counts = np.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count < 2:
            raise ValueError(
                f"{where}: the class {name!r} has {count} of the examples, expected 2 or more: "
                "one to train and one to validate on"
            )
    n_test = np.clip(np.rint(validation * counts), 1, counts - 1) if validation else 0 * counts
    return stratified_split(labels, [int(n) for n in n_test], seed)


def _source(data: str, validation: float, seed: int) -> str:
    return f"{data}, {validation:.0%} of them for validation, seed {seed}"
