"""The table of readers, and the files made for them.

Each reader is given good files and makers of hostile ones; `read` reads the file as a user would,
and raises AssertionError if what it accepts breaks a promise. All may raise ValueError and OSError.
"""

import contextlib
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import accelnn
from accelnn import datasets
from accelnn.datasets.download import DownloadError

from . import hdf5_files, mat_files, picture_files, text_files
from .mutations import mutate

Maker = Callable[[Path, np.random.Generator], None]


@dataclass
class Reader:
    """How to fuzz one reader.

    name : of the file, in a folder of its own
    good : valid files
    crafted : makers of hostile files by name
    read : reads the file, checks what was read, and returns it as comparable bytes
    unchanged : whether the reader must refuse every change of this kind: by a checksum
    share : of the cases that are crafted; the others are good files, mutated
    raises : an error that may be raised beside ValueError and OSError
    beside : good files that the reader needs too, by name
    keeps_open : whether files stay open, by threads of ours or by matplotlib
    """

    name: str
    good: Sequence[bytes]
    crafted: Mapping[str, Maker]
    read: Callable[[Path], bytes]
    unchanged: Callable[[str], bool] = lambda words: False
    share: float = 0.4
    raises: type[Exception] = ValueError
    beside: Mapping[str, bytes] = field(default_factory=dict)
    keeps_open: bool = False


def digest(*parts):
    """Arrays, texts and numbers as bytes to compare."""
    one = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            one.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            one.update(repr(part).encode("utf-8", "surrogatepass"))
    return one.digest()


def check_data(data):
    """A Dataset is finite, its labels are those of its classes, and its sets fit each other."""
    n = len(data.X_train)
    sets = {"X_train": data.Y_train, "X_test": data.Y_test}
    if data.X_validation is not None:
        sets["X_validation"] = data.Y_validation
    for name, Y in sets.items():
        X = getattr(data, name)
        assert X.ndim == 2, f"{name} has the shape {X.shape}"
        assert len(X) == n, f"{name} has {len(X)} features, X_train {n}"
        assert X.dtype == np.float64, f"{name} is of {X.dtype}"
        assert np.isfinite(X).all(), f"{name} has NaN or infinity"
        assert Y.shape[-1] == X.shape[1], f"{name} has {X.shape[1]} examples, {Y.shape} labels"
        assert np.isin(Y, np.arange(len(data.classes))).all(), f"{name}: labels beyond the classes"
        if data.preprocessing.image_shape and "ex4" not in data.source:
            assert X.size == 0 or (X.min() >= 0 and X.max() <= 1), f"{name} is not in 0..1"
    assert data.X_train.shape[1] > 0, "no examples to train on"
    assert all(isinstance(name, str) for name in data.classes), "class names that are no texts"
    arrays = (getattr(data, name) for name in sets)
    return digest(*arrays, *sets.values(), data.classes, vars(data.preprocessing).values())


def read_cats(path):
    return check_data(datasets.load_cats(path.parent))


def read_hdf5(path):
    return check_data(datasets.load_hdf5(path))


def read_ex4(path):
    return check_data(datasets.load_ex4(path.parent))


def read_football(path):
    return check_data(datasets.load_football(path.parent))


def read_csv(path):
    return check_data(datasets.load_csv(path, "class"))


def read_weights(path):
    params = datasets.load_ex4_weights(path.parent)
    assert params.layers == (400, 25, 10)
    assert np.isfinite(params.flat).all(), "NaN or infinite weights"
    return digest(params.flat)


def read_model(path):
    """A model that loads is whole: it predicts its classes, and is the same saved again."""
    model = accelnn.load(path)
    predicted = model.predict(np.zeros((2, model.net.layers[0]), np.uint8))
    if model.classes:
        assert set(predicted) <= set(model.classes), f"predicted {predicted} of {model.classes}"
    content = digest(model.params.flat, str(model.net), model.classes, model.source, model.stand_in)
    again = path.with_name("again.h5")
    accelnn.save(model, again)
    copy = accelnn.load(again)
    assert content == digest(
        copy.params.flat, str(copy.net), copy.classes, copy.source, copy.stand_in
    ), "another model after saving and loading it again"
    again.unlink()
    return content


def read_picture(path):
    colour = datasets.read_picture(path, (16, 24, 3))
    grey = datasets.read_picture(path, (16, 24, 1))
    for picture, channels in ((colour, 3), (grey, 1)):
        assert picture.dtype == np.uint8
        assert picture.shape == (16, 24, channels)
    return digest(colour, grey)


def read_images(path):
    """A folder of two classes, one with this file; the others are good."""
    return check_data(datasets.load_images(path.parents[1], size=16))


def run_command(main, arguments):
    """The output of a command's `main`, which must end with a documented status and printable
    text; a refusal raises ValueError, so that it is counted as one."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    assert status in (0, 1, 2), f"status {status!r}"
    text = output.getvalue() + errors.getvalue()
    odd = sorted({letter for letter in text if not (letter.isprintable() or letter in "\n\t")})
    assert not odd, f"printed {odd}"
    if status:
        assert errors.getvalue().strip(), f"status {status} without a message"
        raise ValueError(errors.getvalue().strip())
    return text


def read_report(path):
    """`accelnn bench report` shows a file in all its forms, or in none."""
    from accelnn.bench.__main__ import main
    from accelnn.bench.records import Report

    form = zlib.crc32(path.read_bytes()) % 20 if path.is_file() else 0
    text = run_command(main, ["report", path])
    text += run_command(main, ["report", path, "--markdown"])
    if form == 0:
        chart = path.with_name("chart.svg")
        text += run_command(main, ["report", path, "--chart", chart, "--case", "cat-2layer"])
    return digest(Report.read(path).to_json(), text)


def read_to_predict(path):
    """`accelnn predict` with this model."""
    from accelnn.predict import main

    out = path.with_name("out.json")
    text = run_command(main, [path, path.with_name("picture.png"), "--json", out])
    return digest(text)


def read_to_train(path):
    """`accelnn train --csv` for one epoch."""
    from accelnn.cli.train import main

    arguments = ["--csv", path, "--target", "class", "--epochs", 1, "--hidden", 2]
    return digest(run_command(main, arguments)[:0])


def read_answer(path):
    """A download whose server answers with this file."""
    from . import server

    return digest(server.download(path))


def is_unsigned(words):
    """Whether a model was changed without a new checksum; attributes that do not matter may be."""
    return not words.startswith(("attribute", "signed"))


def readers(outside):
    """The table. `outside` is a folder that no reader may open a file of; it is filled here."""
    (outside / "cats.h5").write_bytes(hdf5_files.cats())
    (outside / "raw.bin").write_bytes(bytes(2**20))
    (outside / "picture.png").write_bytes(picture_files.good()[0])
    shape = datasets.Preprocessing((2, 2, 3), scale=255.0)
    about = {"classes": ("dog", "cat"), "preprocessing": shape, "source": "two pictures"}
    model = hdf5_files.saved_model(outside / "model.h5", **about)
    plain = hdf5_files.saved_model(outside / "plain.h5", layers=(3, 4, 2, 1))
    cats, both = hdf5_files.cats(("train",)), hdf5_files.cats()
    packed = hdf5_files.packed_cats()
    keys, test_keys = ["train_set_x", "train_set_y", "list_classes"], ["test_set_x", "test_set_y"]
    models = hdf5_files.crafted_models(model, outside)
    hostile_cats = hdf5_files.crafted(cats, keys, outside)

    def mat(name, arrays, read):
        return Reader(name, mat_files.good(arrays), mat_files.crafted(arrays), read)

    picture = picture_files.good()[0]
    pictures = {f"{label}/{i}.png": picture for label in "ab" for i in range(3)}
    test = {"test_catvnoncat.h5": hdf5_files.cats(("test",))}
    own = hdf5_files.crafted(packed, keys, outside)
    for name, maker in hdf5_files.crafted(both, [*keys, *test_keys], outside).items():
        own[f"{name} in either set"] = maker
    tables, answers, crafted = text_files.good_tables(), text_files.good_answers(), text_files
    table = {
        "model": Reader("model.h5", [model, plain], models, read_model, unchanged=is_unsigned),
        "predict": Reader("model.h5", [model], models, read_to_predict, share=0.8),
        "cats": Reader("train_catvnoncat.h5", [cats, both], hostile_cats, read_cats, beside=test),
        "hdf5": Reader("own.h5", [packed, both], own, read_hdf5),
        "mat": mat("ex4data1.mat", mat_files.ex4(), read_ex4),
        "mat-weights": mat("ex4weights.mat", mat_files.ex4_weights(), read_weights),
        "mat-football": mat("football.mat", mat_files.football(), read_football),
        "csv": Reader("own.csv", tables, crafted.CSV, read_csv),
        "train-csv": Reader("own.csv", tables, crafted.CSV, read_to_train),
        "picture": Reader("picture.png", picture_files.good(), picture_files.CRAFTED, read_picture),
        "images": Reader("a/picture.png", picture_files.good(), picture_files.CRAFTED, read_images),
        "json": Reader(
            "report.json", [crafted.good_report()], crafted.JSON, read_report, share=0.7
        ),
        "download": Reader("answer.http", answers, crafted.HTTP, read_answer, raises=DownloadError),
    }
    table["predict"].beside = {"picture.png": picture}
    table["images"].beside = pictures
    table["download"].keeps_open = table["json"].keeps_open = True
    _add_real_files(table)
    return table


def _add_real_files(table):
    """The course's files in ACCELNN_DATA, if it is set, as good files too."""
    if folder := os.environ.get("ACCELNN_DATA"):
        for reader in table.values():
            real = Path(folder) / reader.name
            if real.is_file() and real.stat().st_size < 2**22:
                reader.good = [*reader.good, real.read_bytes()]
        real = Path(folder) / "football.mat"
        if real.is_file():
            answer = text_files.answer(real.read_bytes())
            table["download"].good = [*table["download"].good, answer]


# ----------------------------------------------------------------------------- the cases


def _fifo(path, rng):
    os.mkfifo(path)


def _folder(path, rng):
    path.mkdir()


def _empty(path, rng):
    path.touch()


def _loop(path, rng):
    path.symlink_to(path.name)


def _dangling(path, rng):
    path.symlink_to("nowhere")


def _endless(path, rng):
    path.symlink_to("/dev/zero")


PLACES = {"fifo": _fifo, "folder": _folder, "empty file": _empty, "looping link": _loop}
PLACES |= {"dangling link": _dangling, "endless device": _endless}


def make(name, reader, seed, path):
    """Write the case's file to `path`; returns what it is in words. The same seed gives the same
    file."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    drawn = rng.random()
    if drawn < 0.003 and name != "download":
        place = list(PLACES)[rng.integers(len(PLACES))]
        PLACES[place](path, rng)
        return place
    if drawn < 0.003 + reader.share and reader.crafted:
        words = list(reader.crafted)[rng.integers(len(reader.crafted))]
        reader.crafted[words](path, rng)
        if rng.random() < 0.7:
            return words
        data, words = path.read_bytes(), f"{words}, mutated"
    else:
        data, words = reader.good[rng.integers(len(reader.good))], "mutated"
    path.write_bytes(mutate(data, rng, reader.good[rng.integers(len(reader.good))]))
    return words
