"""Your own data: folders of pictures, an HDF5 file like the cats', or a table as CSV.

Every class is split by a seed into training, validation (to decide when to stop) and test sets.
"""

import csv
import re
import unicodedata
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from accelnn.backend import Array
from accelnn.columns import HostColumns, stored

from .dataset import Dataset, DType, Preprocessing, on_backend, stratified_split
from .reading import AnyPath, DataFile, Schema

# The formats that Pillow may read, none of which starts a program as EPS does, with the most
# million pixels that are read in less than 500 MB: 9 bytes a pixel in JPEG, 25 in JPEG 2000.
_FORMATS = {"PNG": 50, "JPEG": 50, "GIF": 50, "BMP": 50, "PPM": 40, "TIFF": 36}
_FORMATS |= {"WEBP": 24, "AVIF": 24, "JPEG2000": 18}
_PROGRESSIVE = 40  # the same for a progressive JPEG, all of whose coefficients are kept

_NO_PICTURES = re.compile(r"\.|(thumbs\.db|desktop\.ini)$", re.IGNORECASE)  # hidden or Windows's


def load_images(
    folder: AnyPath,
    size: int = 64,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DType = None,
) -> Dataset:
    """Your pictures, a folder for each class, as colour pictures of one size.

    folder : with a folder of pictures for each class; other files and hidden ones are ignored
    size : height and width in pixels, to which `read_picture` resizes every picture
    validation, test : shares of each class, in [0, 1), for these sets
    seed : of the split and of the order
    dtype : of X; by default the backend's

    Returns X (3 * size**2, m) in [0, 1]; Y (1, m) of 0/1 for two classes, else labels (m,); the
    classes are the folders' sorted names. Raises FileNotFoundError or NotADirectoryError if
    `folder` is no folder; ValueError if there are fewer than two classes, a class is too small to
    be split, or an argument is out of range. Warns of files that are no pictures.
    """
    if size < 1:
        raise ValueError(f"expected a size of 1 pixel or more, got {size}")
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder}: a file, not a folder: for a table use --csv, load_csv")
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    folders = [path for path in _visible(folder) if path.is_dir()]
    classes = tuple(path.name for path in folders)
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise ValueError(f"{folder}: expected two folders or more, one for each class, got {found}")
    files = [(label, path) for label, inside in enumerate(folders) for path in _visible(inside)]
    pictures = np.empty((len(files), size, size, 3), np.uint8)
    labels: list[int] = []
    skipped = [path.name for path in _visible(folder) if not path.exists()]  # a link to nothing
    for label, path in files:
        try:
            if not path.exists():
                raise FileNotFoundError  # a link to nothing or to itself
            pictures[len(labels)] = read_picture(path, (size, size, 3))
            labels.append(label)
        except (ValueError, FileNotFoundError, IsADirectoryError):
            skipped.append(f"{classes[label]}/{path.name}")
    if empty := [str(path) for label, path in enumerate(folders) if label not in set(labels)]:
        raise ValueError(f"{empty[0]}: no readable picture: add some, or remove the folder")
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        count = f"{len(skipped)} file{'s' if len(skipped) > 1 else ''}"
        message = f"{folder}: skipped {count} that are no readable pictures: {names}"
        warnings.warn(message, UserWarning, stacklevel=2)
    examples = pictures[: len(labels)], np.array(labels)
    return _split(folder, examples, classes, validation, test, seed, dtype)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not _NO_PICTURES.match(path.name))


def read_picture(path: AnyPath, image_shape: tuple[int, int, int]) -> Array:
    """A picture of any size and mode as uint8 (height, width, channels), as in training.

    path : of a PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000 or PPM file of up to 50 million
        pixels, 18 to 40 in the last five and progressive JPEG; an animation gives its first picture
    image_shape : (height, width, channels), the channels 1 (grey) or 3 (red, green, blue)

    It is turned by its EXIF orientation and resized as a whole: its proportions may change.
    Transparent pixels become white; 16-bit greys keep their upper 8 bits. Raises the system's
    errors; ValueError if the file is not a whole picture, too large or not a regular file, or
    `image_shape` has another form.
    """
    from PIL import Image, ImageOps  # here, so that importing accelnn.datasets stays cheap

    height, width, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(f"expected pictures of 1 or 3 channels, got {channels}")
    file = DataFile(Path(path), "save it again, as PNG or JPEG")
    if file.path.exists() and not file.path.is_dir():  # else Pillow raises the system's error
        file.require()
    # In place of Pillow's warning of many pixels there is an error below.
    quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
    damaged = file.refuse_damaged("picture")
    with damaged, quiet, Image.open(path, formats=list(_FORMATS)) as picture:
        kind = picture.format or ""
        most = _PROGRESSIVE if "progressive" in picture.info else _FORMATS.get(kind, 50)
        # Pillow makes every row `width` long before it shortens the columns
        pixels = max(picture.width, width) * max(picture.height, width)
        if pixels > most * 1_000_000:
            size = f"{picture.width} x {picture.height} pixels"
            raise file.wrong(f"a picture in {kind}", size, f"at most {most} million")
        ImageOps.exif_transpose(picture, in_place=True)
        plain = _without_transparency(picture, "L" if channels == 1 else "RGB")
        return np.asarray(plain.resize((width, height))).reshape(image_shape)


def _without_transparency(picture: Any, mode: str) -> Any:
    """A Pillow picture in the mode L or RGB, on white, in tiles: copies would take gigabytes."""
    from PIL import Image

    transparent = picture.has_transparency_data
    if picture.mode == mode and not transparent:
        return picture
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    plain = Image.new(mode, picture.size)
    corners = product(range(0, picture.width, 1024), range(0, picture.height, 1024))
    for left, top in corners:
        right, bottom = min(left + 1024, picture.width), min(top + 1024, picture.height)
        tile = picture.crop((left, top, right, bottom))
        if picture.mode.startswith("I"):  # Pillow would clip the 16 bits at 255
            greys = np.clip(np.asarray(tile).astype(np.int64), 0, 65535) >> 8
            tile = Image.fromarray(greys.astype(np.uint8))
        elif transparent:
            white = Image.new("RGBA", tile.size, "white")
            tile = Image.alpha_composite(white, tile.convert("RGBA"))
        plain.paste(tile.convert(mode), (left, top))
    return plain


def load_hdf5(
    file: AnyPath,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DType = None,
    stream: bool = False,
) -> Dataset:
    """Your pictures from one HDF5 file, stored under the same names as the course's cats.

    file : with train_set_x, uint8 (m, h, w, c); train_set_y, integers (m,) in 0..n-1;
        list_classes, bytes (n,) such as np.array([b"dog", b"cat"]); and, for a test set of your
        own, which keeps its order, test_set_x (k, h, w, c) and test_set_y (k,)
    validation, test, seed, dtype : as in `load_images`; `test` is ignored if the file has the set
    stream : whether the pictures stay in the file, which stays open, for mini-batches to be read
        from there. Each set keeps the file's order. The file must be your own: it is not searched
        for damage, and may be compressed by any filter of the package hdf5plugin

    Returns X (h * w * c, m) in [0, 1]; Y (1, m) of 0/1 for two classes, else labels (m,), or
    one-hot columns if they are streamed. Raises as `load_images`, and ValueError if the contents
    are wrong.
    """
    source = DataFile(Path(file), "write it as help(accelnn.datasets.load_hdf5) says")
    read = source.open_stored if stream else source.read_hdf5
    (names,) = read({"list_classes": (np.bytes_, "n")}).values()
    labels = range(len(names))
    train_set: Schema = {"train_set_x": (np.uint8, "mhwc"), "train_set_y": (labels, "m")}
    test_set: Schema = {"test_set_x": (np.uint8, "khwc"), "test_set_y": (labels, "k")}
    X, Y, *own_test = read(train_set, optional=test_set).values()
    if X.shape[3] not in (1, 3):
        expected = "1 (grey) or 3 (red, green, blue)"
        raise source.wrong("train_set_x", f"{X.shape[3]} channels", expected)
    classes = tuple(name.decode(errors="replace") for name in names)
    sets: list[Any] = [(X, Y), own_test]
    preprocessing = None
    if stream:
        preprocessing = Preprocessing(X.shape[1:], scale=255.0)
        sets = [(stored(pair[0], scale=255.0), pair[1]) if pair else () for pair in sets]
    return _split(file, sets[0], classes, validation, test, seed, dtype, sets[1], preprocessing)


def load_csv(
    file: AnyPath,
    target: str,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: DType = None,
) -> Dataset:
    """Your table: a header, then a row for each example; commas between cells, text in UTF-8.

    file : with numbers in every column but the target's
    target : the name of the column with each example's class, a name or a number
    validation, test, seed, dtype : as in `load_images`

    Returns X (n_features, m) in the columns' order, each standardised to mean 0 and standard
    deviation 1 over the training set, or only shifted if constant there; Y (1, m) of 0/1 for two
    classes, else labels (m,). The classes are sorted, as numbers if all are numbers. Raises as
    `load_images`, and ValueError if a column or a cell is missing, a cell is not a finite number,
    or the target has nearly as many values as rows. Warns if the first column is an index.
    """
    features, names = _read_csv(Path(file), target)
    try:
        classes = tuple(sorted(set(names), key=lambda name: (float(name), name)))
    except ValueError:
        classes = tuple(sorted(set(names)))
    if len(classes) > max(10, len(names) // 2):
        found = f"{len(classes)} different values in {len(names)} rows"
        remedy = "the target takes classes, not measurements"
        raise ValueError(f"{file}: column {target!r} has {found}: {remedy}")
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[name] for name in names])
    return _split(file, (features, labels), classes, validation, test, seed, dtype)


def _read_csv(path: Path, target: str) -> tuple[Array, list[str]]:
    """The features (m, n_features) float64 and the target's cells."""
    DataFile(path, "name a table saved as CSV").require()
    rows, names = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            if columns.count(target) != 1 or len(columns) == 1:
                found = ", ".join(map(repr, columns))[:500] or "an empty file"
                expected = f"a header with {target!r} (the target) and features"
                raise ValueError(f"{path}: expected {expected}, separated by commas, got {found}")
            place = columns.index(target)
            features = [name for name in columns if name != target]
            for row in filter(None, reader):  # without blank lines
                line = f"{path}: line {reader.line_num}"
                if len(row) != len(columns):
                    raise ValueError(f"{line}: expected {len(columns)} cells, got {len(row)}")
                names.append(row.pop(place).strip())
                if names[-1].lower() in ("", "nan"):
                    raise ValueError(f"{line}, column {target!r}: no class: fill or remove it")
                rows.append(_numbers(row, features, line))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason})") from error
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        raise ValueError(f"{path}: expected examples below the header, got none")
    X = np.array(rows)
    if not columns[0] and place > 0 and (np.diff(X[:, 0]) == 1).all():
        message = "the first column counts the rows, yet becomes a feature: save without it"
        warnings.warn(f"{path}: {message}", UserWarning, stacklevel=3)
    return X, names


def _numbers(cells: Sequence[str], columns: Sequence[str], line: str) -> list[float]:
    numbers = []
    for cell, column in zip(cells, columns, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = np.nan
        if not abs(number) < 1e100:  # NaN too; the squares of larger numbers overflow
            found = f"expected a finite number, got {cell[:50]!r}"
            raise ValueError(f"{line}, column {column!r}: {found}")
        numbers.append(number)
    return numbers


def check_split(
    path: AnyPath, labels: Array, classes: tuple[str, ...], validation: float, test: float
) -> None:
    """Raise ValueError unless the labels (m,) of these classes can be split by these shares."""
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        expected = "validation and test as shares of at least 0 and together less than 1"
        raise ValueError(f"expected {expected}, got {validation} and {test}")
    if len(classes) < 2:
        raise ValueError(f"{path}: expected two classes or more, got only {', '.join(classes)}")
    for name in classes:
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise ValueError(f"{path}: the class {name[:50]!r} has a control character: rename it")
    counts = np.bincount(labels, minlength=len(classes))
    least = 1 + (validation > 0) + (test > 0)
    if counts.min() < least:
        found = f"the class {classes[counts.argmin()][:50]!r} has {counts.min()} of the examples"
        expected = f"{least} or more: one for each of training, validation and test asked for"
        raise ValueError(f"{path}: {found}, expected {expected}")


def split(labels: Array, validation: float, test: float, seed: int) -> tuple[Array, Array, Array]:
    """Indices of the training, validation and test set of labels (m,), each shuffled, with a share
    of each class, at least one example if the class has enough."""
    counts = np.bincount(labels)
    least = 1 + (validation > 0) + (test > 0)
    n_test = np.clip(np.rint(test * counts), 1, counts - least + 1) if test else 0 * counts
    left = counts - np.maximum(n_test, 0)
    n_validation = np.clip(np.rint(validation * counts), 1, left - 1) if validation else 0 * counts
    rest, tested = stratified_split(labels, n_test, seed)
    trained, watched = stratified_split(labels[rest], n_validation, seed)
    return rest[trained], rest[watched], tested


def _split(
    path: AnyPath,
    examples: tuple[Array, Array],
    classes: tuple[str, ...],
    validation: float,
    test: float,
    seed: int,
    dtype: DType,
    own_test: Sequence[Array] = (),
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """The Dataset of examples (m, ...) and labels (m,), with a share of each class, but at least
    one example, in each set that is asked for. `own_test` replaces the test set."""
    test = 0 if own_test else test
    X, labels = examples
    check_split(path, labels, classes, validation, test)
    parts: Sequence[Array] = split(labels, validation, test, seed)
    take = X.__getitem__
    if isinstance(X, HostColumns):  # to be read in the file's order
        parts, take = [np.sort(part) for part in parts], X.take
    train, watch, last = ((take(i), labels[i]) for i in parts)
    if preprocessing is None and X.dtype != np.uint8:  # a table, standardised by its training set
        known = train[0]
        scale = known.std(axis=0)
        # the computed deviation of a constant column may be 1e-17 instead of 0, and that of one
        # whose squares underflow is wrong
        scale = np.where((np.ptp(known, axis=0) == 0) | (scale < 1e-150), 1.0, scale)
        preprocessing = Preprocessing(shift=known.mean(axis=0), scale=scale)
    sets = train, own_test or last, classes, f"{path}, split by seed {seed}", dtype
    return on_backend(*sets, preprocessing=preprocessing, validation=watch if validation else ())
