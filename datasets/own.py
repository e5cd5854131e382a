"""Your own data: folders of pictures, an HDF5 file like the cats', or a table as CSV.

Every class is split by a seed into examples to train on, to validate on (to watch during
training and to decide when to stop) and to test on (never seen until the end).
"""

import csv
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from accelnn.backend import Array

from .dataset import Dataset, Preprocessing, on_backend, stratified_split
from .reading import Schema, check_labels, read_hdf5

_NO_PICTURES = ("thumbs.db", "desktop.ini")  # Windows leaves these in folders of pictures
MOST_DOUBTED = 10  # more classes than this, of less than two rows each, are no classes
_HDF5_REMEDY = "write it as the documentation of accelnn.datasets.load_hdf5 says"


def load_images(
    folder: str | os.PathLike[str],
    size: int = 64,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """Your pictures, a folder for each class, all converted to colour pictures of one size.

    Parameters
    ----------
    folder : with a folder of pictures for each class; hidden files and folders, and files
        beside the folders, are ignored
    size : the height and the width in pixels to which every picture is resized, see `read_picture`
    validation, test : the share of each class, in [0, 1), for each of these sets
    seed : of the split and of the order
    dtype : of X; by default the backend's

    Returns X (3 * size**2, m) in [0, 1]; Y (1, m) of 0/1 for two classes, else labels (m,). The
    classes are the folders' names, sorted.

    Raises FileNotFoundError or NotADirectoryError if `folder` is no folder; ValueError if there
    are fewer than two classes, a class has no readable picture or too few to be split, or an
    argument is none of these. Warns with a UserWarning that names files which are no pictures.
    """
    if size < 1:
        raise ValueError(f"expected a size of 1 pixel or more, got {size}")
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder}: a file, not a folder: for a table use --csv, load_csv")
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in inside if path.is_dir()]
    if len(folders) < 2:
        found = ", ".join(path.name for path in folders) or "none"
        raise ValueError(f"{folder}: expected two folders or more, one for each class, got {found}")
    classes = tuple(path.name for path in folders)
    pictures, labels = _read_folders(folders, size)
    parts = _split(str(folder), labels, classes, validation, test, seed)
    return _dataset(folder, pictures, labels, parts, classes, seed, dtype)


def _read_folders(folders: Sequence[Path], size: int) -> tuple[Array, Array]:
    """The pictures (m, size, size, 3) uint8 of all folders, and the folder's number of each."""
    files = [(label, path) for label, folder in enumerate(folders) for path in _files(folder)]
    pictures = np.empty((len(files), size, size, 3), np.uint8)
    labels: list[int] = []
    skipped: list[str] = []
    for label, path in files:
        try:
            pictures[len(labels)] = read_picture(path, pictures.shape[1:])
            labels.append(label)
        except (ValueError, IsADirectoryError):
            skipped.append(f"{folders[label].name}/{path.name}")
    readable = set(labels)
    for label, folder in enumerate(folders):
        if label not in readable:
            raise ValueError(
                f"{folder}: no picture in this class that Pillow can read: add some, or remove "
                "the folder"
            )
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        count = f"{len(skipped)} file{'s' if len(skipped) > 1 else ''}"
        warnings.warn(
            f"{folders[0].parent}: skipped {count} that Pillow cannot read as a picture: {names}",
            UserWarning,
            stacklevel=3,
        )
    return pictures[: len(labels)], np.array(labels)


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in _NO_PICTURES
    )


def read_picture(path: str | os.PathLike[str], image_shape: tuple[int, int, int]) -> Array:
    """A picture of any size and mode as uint8 (height, width, channels), as in training.

    It is turned as its EXIF orientation says; transparent pixels become white; 16-bit greys keep
    their upper 8 bits. It is resized as a whole, not cropped: its proportions may change.

    Parameters
    ----------
    path : of the file, in any format that Pillow reads; an animation's first picture is taken
    image_shape : (height, width, channels), the channels 1 (grey) or 3 (red, green, blue)

    Raises FileNotFoundError and the system's other errors; ValueError if the file is no whole
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
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """Your pictures from one HDF5 file, stored under the same names as the course's cats.

    Parameters
    ----------
    file : with train_set_x, uint8 (m, h, w, c); train_set_y, integers (m,) in 0..n-1;
        list_classes, bytes (n,) such as np.array([b"dog", b"cat"]); and, for a test set of your
        own, test_set_x (k, h, w, c) and test_set_y (k,)
    validation, test : the share of each class, in [0, 1), for each of these sets; a test set of
        your own takes the place of `test`
    seed : of the split and of the order
    dtype : of X; by default the backend's

    Returns X (h * w * c, m) in [0, 1]; Y (1, m) of 0/1 for two classes, else labels (m,). A test
    set of your own keeps the file's order.

    Raises FileNotFoundError; ValueError if the contents are wrong, there are fewer than two
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
    own_test = part("test") if "test_set_x" in arrays else None
    parts = _split(str(path), labels, classes, validation, 0.0 if own_test else test, seed)
    return _dataset(path, pictures, labels, parts, classes, seed, dtype, own_test)


def load_csv(
    file: str | os.PathLike[str],
    target: str,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Dataset:
    """Your table: a header, then a row for each example; commas between cells, text in UTF-8.

    Every feature is standardised to mean 0 and standard deviation 1 over the training set; a
    feature that is constant there is only shifted. `preprocessing` keeps both.

    Parameters
    ----------
    file : with numbers in every column but the target's
    target : the column of the class, by name or number
    validation, test : the share of each class, in [0, 1), for each of these sets
    seed : of the split and of the order
    dtype : of X; by default the backend's

    Returns X (n_features, m) in the columns' order; Y (1, m) of 0/1 for two classes, else labels
    (m,). The classes are sorted, as numbers if all are numbers.

    Raises FileNotFoundError; ValueError if the file is empty, a column or a cell is missing, a
    cell is no finite number, there are fewer than two classes, or nearly as many as rows, a class
    is too small to be split, or an argument is none of these. Warns with a UserWarning if the
    first column is an index.
    """
    features, names = _read_csv(Path(file), target)
    classes = _sorted(set(names))
    _require_two(f"{file}: column {target!r}", classes)
    if len(classes) > max(MOST_DOUBTED, len(names) // 2):
        raise ValueError(
            f"{file}: column {target!r} has {len(classes)} different values in {len(names)} rows: "
            "the target takes classes, not measurements"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[name] for name in names])
    parts = _split(f"{file}: column {target!r}", labels, classes, validation, test, seed)
    known = features[parts[0]]
    # the computed deviation of a constant column may be 1e-17 instead of 0
    constant = known.min(axis=0) == known.max(axis=0)
    scaling = Preprocessing(
        shift=known.mean(axis=0), scale=np.where(constant, 1.0, known.std(axis=0))
    )
    return _dataset(file, features, labels, parts, classes, seed, dtype, None, scaling)


def _read_csv(path: Path, target: str) -> tuple[Array, list[str]]:
    """The features (m, n_features) float64 and the target's cells."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    rows: list[list[float]] = []
    names: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            if not columns:
                raise ValueError(f"{path}: empty: expected a row of column names, then examples")
            if len(columns) == 1 and ";" in columns[0]:
                raise ValueError(
                    f"{path}: the header has ; and no comma: save the table with commas"
                )
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
    features = np.array(rows)
    if not columns[0] and place > 0 and (np.diff(features[:, 0]) == 1).all():
        warnings.warn(
            f"{path}: the first column has no name and counts the rows, yet becomes a feature: "
            "save the table without its index",
            UserWarning,
            stacklevel=3,
        )
    return features, names


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
    where: str,
    labels: Array,
    classes: Sequence[str],
    validation: float,
    test: float,
    seed: int,
) -> tuple[Array, Array, Array]:
    """Indices to train, to validate and to test on: each class's share, but at least one example
    in each set that is asked for.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"expected {name} as a share in [0, 1), got {share}")
    if validation + test >= 1:
        raise ValueError(
            f"expected validation and test to leave a share to train on, got {validation} and "
            f"{test}"
        )
    counts = np.bincount(labels, minlength=len(classes))
    least = 1 + (validation > 0) + (test > 0)
    for name, count in zip(classes, counts, strict=True):
        if count < least:
            raise ValueError(
                f"{where}: the class {name!r} has {count} of the examples, expected {least} or "
                "more: one for each of training, validation and test that is asked for"
            )
    n_test = np.clip(np.rint(test * counts), 1, counts - least + 1) if test else 0 * counts
    left = counts - n_test
    n_validation = np.clip(np.rint(validation * counts), 1, left - 1) if validation else 0 * counts
    rest, tested = stratified_split(labels, [int(n) for n in n_test], seed)
    train, watched = stratified_split(labels[rest], [int(n) for n in n_validation], seed)
    return rest[train], rest[watched], tested


def _dataset(
    path: str | os.PathLike[str],
    examples: Array,
    labels: Array,
    parts: Sequence[Array],
    classes: tuple[str, ...],
    seed: int,
    dtype: DTypeLike | None,
    own_test: tuple[Array, Array] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """The Dataset of the examples by part, or with `own_test` in place of the last part."""
    train, validation, test = ((examples[part], labels[part]) for part in parts)
    test = own_test or test
    return on_backend(
        train,
        test,
        classes,
        f"{path}, split by seed {seed}",
        dtype,
        preprocessing=preprocessing,
        validation=validation if len(validation[1]) else None,
    )
