"""Your own data: what is read, how it is split, every way that it is wrong, how it is trained."""

import csv
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from helpers.files import damage, refusal, write_hdf5
from PIL import EpsImagePlugin, Image, ImageFile

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array
from accelnn.columns import HostColumns
from accelnn.recipes import own_recipe


def sets(data: datasets.Dataset) -> list[tuple[Array, Array]]:
    """Training, validation and test set, on the host."""
    pairs = [
        (data.X_train, data.Y_train),
        (data.X_validation, data.Y_validation),
        (data.X_test, data.Y_test),
    ]
    return [(backend.to_host(X), backend.to_host(Y)) for X, Y in pairs]


# ------------------------------------------------------------------------------- a picture


def save(path: Path, picture: Array, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture)).save(path, **how)
    return path


COLOURS = np.random.RandomState(3).randint(0, 256, (6, 5, 3)).astype(np.uint8)


def test_a_picture_is_read_as_it_is_or_resized(tmp_path):
    picture = datasets.read_picture(save(tmp_path / "a.png", COLOURS), (6, 5, 3))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, COLOURS)
    path = save(tmp_path / "a.png", np.full((50, 30, 3), 200, np.uint8))
    for shape in ((64, 64, 3), (3, 8, 3), (1, 1, 1), (28, 28, 1)):
        np.testing.assert_array_equal(datasets.read_picture(path, shape), np.full(shape, 200))


# EXIF's values, and how the stored pixels must be turned to stand upright (EXIF 2.3, 4.6.4)
ORIENTATIONS = {
    1: lambda P: P,
    2: lambda P: P[:, ::-1],
    3: lambda P: P[::-1, ::-1],
    4: lambda P: P[::-1],
    5: lambda P: P.swapaxes(0, 1),
    6: lambda P: np.rot90(P, -1),
    7: lambda P: P[::-1, ::-1].swapaxes(0, 1),
    8: lambda P: np.rot90(P),
}


def test_the_exif_orientation_is_honoured(tmp_path):
    for orientation, turn in ORIENTATIONS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "a.png", COLOURS, exif=exif)
        read = datasets.read_picture(path, turn(COLOURS).shape)
        np.testing.assert_array_equal(read, turn(COLOURS), f"orientation {orientation}")


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16"]


def test_every_mode_becomes_grey_or_colour(monkeypatch):
    for mode in MODES:
        bright = 65535 if mode.startswith("I") else 255
        pixels = {"I": np.int32, "I;16": np.uint16}.get(mode, np.uint8)
        half = np.full((4, 4), bright, pixels)
        half[:, 2:] = 0
        image = Image.fromarray(half)
        if not mode.startswith("I"):
            image = image.convert("RGBA" if mode == "PA" else "RGB")
            image = image.convert("P" if "P" in mode else mode).convert(mode)
        assert image.mode == mode
        monkeypatch.setattr(Image, "open", lambda *_, image=image, **__: image.copy())
        for channels in (1, 3):
            picture = datasets.read_picture(__file__, (4, 4, channels))
            assert picture[:, :2].min() > 250, (mode, channels)
            assert picture[:, 2:].max() < 5, (mode, channels)


def test_16_bits_keep_their_greys(tmp_path):
    greys = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
    path = save(tmp_path / "a.png", greys)
    np.testing.assert_array_equal(
        datasets.read_picture(path, (1, 5, 1))[:, :, 0], [[0, 0, 1, 156, 255]]
    )


def test_what_is_transparent_becomes_white(tmp_path):
    black = np.zeros((1, 3, 4), np.uint8)
    black[0, :, 3] = 0, 128, 255
    for name, form in (("a.png", {}), ("a.webp", {"lossless": True})):
        picture = datasets.read_picture(save(tmp_path / name, black, **form), (1, 3, 1))
        np.testing.assert_allclose(picture[0, :, 0], [255, 127, 0], atol=1)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.save(tmp_path / "a.gif", transparency=0)
    picture = datasets.read_picture(tmp_path / "a.gif", (1, 2, 1))
    assert picture[0, 0, 0] == 255
    assert picture[0, 1, 0] < 5


def test_damaged_pictures_are_value_errors_that_name_the_file(tmp_path):
    for form in ("png", "jpeg", "gif", "bmp", "webp", "tiff"):
        path = tmp_path / f"a.{form}"
        Image.fromarray(np.repeat(COLOURS, 20, 0)).save(path, form)
        whole = path.read_bytes()
        for keep in (0, 10, 40, len(whole) // 2):
            path.write_bytes(whole[:keep])
            message = refusal(datasets.read_picture, path, (8, 8, 3))
            assert message.startswith(f"{path}: not a whole picture"), (form, keep)
        path.write_bytes(whole)
        places = range(min(300, len(whole)))
        damage(path, lambda path=path: datasets.read_picture(path, (8, 8, 3)), places, 60)


def test_postscript_is_never_given_to_ghostscript(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("was started"))
    for name in ("a.png", "a.eps"):
        (tmp_path / name).write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        )
        message = refusal(datasets.read_picture, tmp_path / name, (8, 8, 3))
        assert f"{name}: not a whole picture (cannot identify" in message


def png(width: int, height: int, chunks: tuple = (), kind: int = 6) -> bytes:
    """A PNG of black pixels, which takes little space."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)), *chunks]
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[kind])
    deflate = zlib.compressobj()
    data = b"".join(map(deflate.compress, (row for _ in range(height)))) + deflate.flush()
    parts += [(b"IDAT", data), (b"IEND", b"")]
    whole = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_takes_much_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("was decoded"))
    path = tmp_path / "a.png"
    for width, height in ((7100, 7100), (1, 10**6), (10**6, 1), (20_000, 9000)):
        path.write_bytes(png(width, height, kind=0))
        message = refusal(datasets.read_picture, path, (64, 64, 3))
        says = (
            f"{path}: a picture in PNG: found {width} x {height} pixels, expected at most 50 mill"
        )
        assert message.startswith(says) or "decompression bomb" in message, message
    for form, most in (("webp", 24), ("jpeg", 40)):
        Image.new("RGB", (6400, 6400)).save(path, form, progressive=True, method=0)
        message = refusal(datasets.read_picture, path, (64, 64, 3))
        assert f"found 6400 x 6400 pixels, expected at most {most} million" in message


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's peak memory")
def test_a_phones_largest_photographs_are_read_in_less_than_500_mb(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph = Image.new("RGB", (8000, 6000), (10, 200, 90))
    photograph.save(tmp_path / "a.jpg", exif=turned)
    (tmp_path / "a.png").write_bytes(png(8000, 6000))
    code = """import re, sys
from accelnn import datasets
print(datasets.read_picture(sys.argv[1], (64, 64, 3)).mean(axis=(0, 1)).round().tolist())
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])"""
    for name, colour in (("a.jpg", [10, 200, 90]), ("a.png", [255, 255, 255])):
        command = [sys.executable, "-c", code, tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        read, peak = done.stdout.splitlines()
        np.testing.assert_allclose(json.loads(read), colour, atol=2)
        assert int(peak) < 500_000, name


def test_bombs_in_the_texts_and_the_profile_of_a_png_are_value_errors(tmp_path):
    path, bomb = tmp_path / "a.png", zlib.compress(bytes(2**27))
    for chunk in ((b"zTXt", b"a\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb)):
        path.write_bytes(png(2, 2, (chunk,)))
        message = refusal(datasets.read_picture, path, (8, 8, 3))
        assert "not a whole picture (Decompressed data too large" in message, chunk[0]


def test_what_is_no_picture_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match="a.jpg: not a whole picture .*cannot identify"):
        datasets.read_picture(tmp_path / "a.jpg", (8, 8, 3))
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="a.tiff: .*no known range"):
        datasets.read_picture(tmp_path / "a.tiff", (8, 8, 3))
    with pytest.raises(FileNotFoundError, match="absent.png"):
        datasets.read_picture(tmp_path / "absent.png", (8, 8, 3))
    with pytest.raises(ValueError, match="expected pictures of 1 or 3 channels, got 4"):
        datasets.read_picture(tmp_path / "a.jpg", (8, 8, 4))


# ------------------------------------------------------------------------ folders of pictures


def write_pictures(folder: Path, **counts: int) -> Path:
    """Pictures of one grey each, all different: 10 for the first, 11 for the second, ..."""
    grey = 10
    for name, count in counts.items():
        for number in range(count):
            save(folder / name / f"{number}.png", np.full((3 + number, 4, 3), grey, np.uint8))
            grey += 1
    return folder


def test_folders_of_pictures_become_classes_each_split_in_proportion(tmp_path, there):
    folder = write_pictures(tmp_path, dog=10, cat=20, bird=3)
    data = datasets.load_images(folder, size=5, validation=0.2, test=0.1)
    assert data.classes == ("bird", "cat", "dog")
    assert {a.dtype for a in (data.X_train, data.X_validation, data.X_test)} == {
        np.dtype(there.default_dtype)
    }
    assert [X.shape for X, _ in sets(data)] == [(75, 22), (75, 7), (75, 4)]
    assert {Y.dtype for _, Y in sets(data)} == {np.dtype(np.int64)}
    counts = [np.bincount(Y).tolist() for _, Y in sets(data)]
    assert counts == [[1, 14, 7], [1, 4, 2], [1, 2, 1]]
    greys = np.rint(np.hstack([X for X, _ in sets(data)]) * 255)
    assert (greys == greys[:1]).all()
    order = np.argsort(greys[0])
    np.testing.assert_array_equal(greys[0][order], np.arange(10, 43))  # each once
    labels = np.hstack([Y for _, Y in sets(data)])[order]
    np.testing.assert_array_equal(labels, [2] * 10 + [1] * 20 + [0] * 3)
    assert astuple(data.preprocessing) == ((5, 5, 3), 0.0, 255.0)
    assert data.source == f"{folder}, split by seed 0"
    assert not data.stand_in


def test_the_seed_and_the_shares_choose_the_split(tmp_path):
    folder = write_pictures(tmp_path, a=6, b=6)
    data = datasets.load_images(folder, size=2, validation=0.2, test=0.5, seed=3)
    assert data.Y_test.shape == (1, 6)
    assert data.Y_test.sum() == 3
    again = datasets.load_images(folder, size=2, validation=0.2, test=0.5, seed=3)
    other = datasets.load_images(folder, size=2, validation=0.2, test=0.5, seed=4)
    np.testing.assert_array_equal(data.X_train, again.X_train)
    assert not np.array_equal(data.X_train, other.X_train)
    most = datasets.load_images(folder, 2, validation=0.01, test=0.98)
    assert [Y.shape for _, Y in sets(most)] == [(1, 2), (1, 2), (1, 8)]


def test_a_set_of_share_0_is_left_out(tmp_path):
    folder = write_pictures(tmp_path, a=2, b=2)
    data = datasets.load_images(folder, 2, validation=0, test=0)
    assert data.X_test.shape == (12, 0)
    assert data.X_validation is data.Y_validation is None
    data = datasets.load_images(folder, 2, validation=0)
    assert data.X_test.shape == data.X_train.shape == (12, 2)
    data = datasets.load_images(folder, 2, test=0)
    assert data.X_validation.shape == data.X_train.shape == (12, 2)
    assert data.X_test.shape == (12, 0)


def test_what_systems_leave_in_folders_is_left_alone(tmp_path):
    write_pictures(tmp_path, a=3, b=3)
    for name in (".DS_Store", "a/.DS_Store", "a/Thumbs.db", "b/desktop.ini", "README.txt"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / ".git").mkdir()
    assert datasets.load_images(tmp_path, size=2).classes == ("a", "b")


def test_folders_that_cannot_be_classes_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        datasets.load_images(tmp_path / "absent")
    says = f"{tmp_path}: expected two folders or more, one for each class, got"
    assert refusal(datasets.load_images, tmp_path) == f"{says} none"
    write_pictures(tmp_path, a=3)
    assert refusal(datasets.load_images, tmp_path) == f"{says} a"
    with pytest.raises(NotADirectoryError, match="0.png: a file, not a folder: for a table use"):
        datasets.load_images(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    says = f"{tmp_path / 'b'}: no readable picture: add some, or remove the folder"
    assert refusal(datasets.load_images, tmp_path) == says
    (tmp_path / "b" / "notes.txt").unlink()
    write_pictures(tmp_path, b=2)
    says = f"{tmp_path}: the class 'b' has 2 of the examples, expected 3 or more"
    assert says in refusal(datasets.load_images, tmp_path)


def test_a_file_that_is_no_picture_is_skipped_with_a_warning(tmp_path):
    write_pictures(tmp_path, a=3, b=3)
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "b" / "more").mkdir()
    (tmp_path / "c").symlink_to("c")
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "b" / "loop").symlink_to("loop")
    names = "c, a/notes.txt, a/pipe, b/loop, b/more$"
    with pytest.warns(UserWarning, match=f"skipped 5 files .*: {names}") as warned:
        data = datasets.load_images(tmp_path, size=2)
    assert warned[0].filename == __file__
    assert sum(X.shape[1] for X, _ in sets(data)) == 6
    for number in range(7):
        (tmp_path / "b" / f"half {number}.png").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"skipped 12 files .*half 1.png, \.\.\.$"):
        datasets.load_images(tmp_path, size=2)


def test_wrong_arguments_are_errors(tmp_path):
    write_pictures(tmp_path, a=2, b=2)
    for shares in ((-0.1, 0.15), (0.15, -0.1), (1, 0), (0, 1), (0.5, 0.5), (float("nan"), 0)):
        message = refusal(datasets.load_images, tmp_path, 4, *shares)
        assert message.startswith("expected validation and test as shares"), shares
        assert message.endswith(f"got {shares[0]} and {shares[1]}")
    message = refusal(datasets.load_images, tmp_path, size=0)
    assert message == "expected a size of 1 pixel or more, got 0"


# -------------------------------------------------------------------------------- your HDF5


def hdf5_fields(m: int = 10) -> dict[str, Array]:
    pixels = np.random.RandomState(m).randint(0, 256, (m, 4, 6, 3))
    return {
        "train_set_x": pixels.astype(np.uint8),
        "train_set_y": np.arange(m) % 3,
        "list_classes": np.array([b"dog", b"cat", b"bird"]),
    }


def test_hdf5_without_a_test_set_is_split(tmp_path, there):
    path = write_hdf5(tmp_path / "pets.h5", hdf5_fields(30))
    data = datasets.load_hdf5(path, validation=0.2, test=0.3)
    assert [X.shape for X, _ in sets(data)] == [(72, 15), (72, 6), (72, 9)]
    assert data.classes == ("dog", "cat", "bird")
    assert data.X_train.dtype == there.default_dtype
    assert astuple(data.preprocessing) == ((4, 6, 3), 0.0, 255.0)
    assert data.source == f"{path}, split by seed 0"
    together = np.hstack([X for X, _ in sets(data)]).T
    stored = hdf5_fields(30)["train_set_x"].reshape(30, -1) / 255
    np.testing.assert_allclose(together[np.lexsort(together.T)], stored[np.lexsort(stored.T)], 1e-6)


def test_hdf5_with_a_test_set_validates_on_a_share_of_the_training_set(tmp_path):
    train, test = hdf5_fields(9), hdf5_fields(4)
    fields = train | {"test_set_x": test["train_set_x"], "test_set_y": test["train_set_y"]}
    data = datasets.load_hdf5(write_hdf5(tmp_path / "pets.h5", fields))
    np.testing.assert_array_equal(data.X_test, test["train_set_x"].reshape(4, -1).T / 255)
    np.testing.assert_array_equal(data.Y_test, [0, 1, 2, 0])
    np.testing.assert_array_equal(np.sort(data.Y_validation), [0, 1, 2])
    together = np.hstack([data.X_train, data.X_validation]).T
    stored = train["train_set_x"].reshape(9, -1) / 255
    np.testing.assert_allclose(together[np.lexsort(together.T)], stored[np.lexsort(stored.T)])
    assert "6 training, 3 validation, 4 test examples" in data.sizes


TEST_SET = {"test_set_x": np.zeros((2, 4, 6, 3), np.uint8), "test_set_y": np.array([0, 1])}


WRONG_HDF5 = [
    ({"train_set_x": None}, "train_set_x: found only the keys"),
    ({"train_set_x": np.zeros((10, 72), np.uint8)}, r"of shape \(m, h, w, c\) with m, h, w, c"),
    ({"train_set_x": np.zeros((10, 4, 6, 3))}, "found float64 .* expected uint8"),
    ({"train_set_y": np.zeros(9, int)}, r"train_set_y: .*\(9,\), expected .* \(10,\)"),
    ({"train_set_y": np.full(10, 3)}, r"found the label 3, expected labels in 0\.\.2"),
    ({"train_set_y": np.arange(10) % 2}, "the class 'bird' has 0 of the examples"),
    ({"train_set_y": np.arange(10) // 9 * 2}, "the class 'cat' has 0"),
    ({"list_classes": np.array([1, 2])}, r"found int64 .* expected bytes_ of shape \(n,\)"),
    ({"train_set_x": np.zeros((10, 4, 6, 2), np.uint8)}, "2 channels, expected 1 .grey. or 3 .red"),
    ({"list_classes": np.array([b"a", b"b\0c", b"d"])}, r"the class 'b.x00c' has a control char"),
    ({"list_classes": np.array([b"cat"]), "train_set_y": np.zeros(10, int)}, "got only cat"),
    ({"test_set_x": TEST_SET["test_set_x"]}, "test_set_y: found only the keys"),
    ({"test_set_y": TEST_SET["test_set_y"]}, "test_set_x: found only the keys"),
    (TEST_SET | {"test_set_x": np.zeros((2, 4, 4, 3), np.uint8)}, r"of shape \(k, 4, 6, 3\)"),
    (TEST_SET | {"test_set_y": np.array([0, -1])}, "test_set_y: found the label -1"),
]


def test_an_hdf5_file_that_is_absent_or_wrong_is_named(tmp_path):
    path = tmp_path / "pets.h5"
    with pytest.raises(FileNotFoundError, match="pets.h5: no such file: write it as"):
        datasets.load_hdf5(path)
    path.write_text("cat, dog")
    assert f"{path}: not a whole HDF5 file" in refusal(datasets.load_hdf5, path)
    for fields, says in WRONG_HDF5:
        write_hdf5(path, hdf5_fields() | fields)
        message = refusal(datasets.load_hdf5, path)
        assert re.search(says, message), (list(fields), says, message)
        assert message.startswith(f"{path}: ")


def test_data_without_room_on_the_device_keeps_all_three_sets_on_the_host(
    tmp_path, double, monkeypatch
):
    path = write_hdf5(tmp_path / "pets.h5", hdf5_fields(30))
    monkeypatch.setattr(double.cuda.runtime, "memGetInfo", lambda: (2**10, 2**30))
    with pytest.warns(RuntimeWarning, match="stays on the host"):
        data = datasets.load_hdf5(path)
    with accelnn.use("numpy"):
        expected = datasets.load_hdf5(path, dtype="float32")
    for X, Y, whole, labels in (
        (data.X_train, data.Y_train, expected.X_train, expected.Y_train),
        (data.X_validation, data.Y_validation, expected.X_validation, expected.Y_validation),
        (data.X_test, data.Y_test, expected.X_test, expected.Y_test),
    ):
        assert isinstance(X, HostColumns)
        np.testing.assert_array_equal(np.asarray(X), whole)
        np.testing.assert_array_equal(np.asarray(Y), accelnn.one_hot(labels, 3))


# --------------------------------------------------------------------------------- your CSV


def write_csv(path: Path, *rows: object) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_table_is_standardised_by_its_training_part(tmp_path, there):
    values = np.random.RandomState(0).randn(40, 3) * [1, 100, 0.01] + [5, 0, -3]
    rows = [[a, "yes" if b > 0 else "no", b, c] for a, b, c in values.tolist()]
    path = write_csv(tmp_path / "a.csv", ["a", "ill", "b", "c"], *rows)
    data = datasets.load_csv(path, "ill")
    assert data.classes == ("no", "yes")
    X_train = backend.to_host(data.X_train)
    assert X_train.dtype == there.default_dtype
    tolerance = 1e-6 if there.default_dtype == "float32" else 1e-12
    np.testing.assert_allclose(X_train.mean(axis=1), 0, atol=tolerance)
    np.testing.assert_allclose(X_train.std(axis=1), 1, tolerance)
    pre = data.preprocessing
    assert pre.image_shape is None
    assert type(pre.shift) is type(pre.scale) is np.ndarray
    raw = np.hstack([X for X, _ in sets(data)]).T.astype(float) * pre.scale + pre.shift
    np.testing.assert_allclose(np.sort(raw, axis=0), np.sort(values, axis=0), 1e-4, 1e-4)
    np.testing.assert_array_equal(np.hstack([Y for _, Y in sets(data)])[0], raw[:, 1] > 0)
    assert data.source == f"{path}, split by seed 0"


def test_a_constant_feature_is_only_shifted(tmp_path):
    rows = [[0.1, i, i % 2] for i in range(14)]  # 0.1 is not what the mean of many 0.1 rounds to
    data = datasets.load_csv(write_csv(tmp_path / "a.csv", ["c", "x", "y"], *rows), "y")
    assert data.preprocessing.scale[0] == 1
    np.testing.assert_allclose(data.X_train[0], 0, atol=1e-15)
    np.testing.assert_allclose(data.X_test[0], 0, atol=1e-15)


def test_a_feature_too_small_to_be_squared_is_only_shifted(tmp_path):
    for small in (5e-324, 1e-310, 1e-200):
        rows = [[i * small, i, i % 2] for i in range(14)]
        path = write_csv(tmp_path / "a.csv", ["c", "x", "y"], *rows)
        data = datasets.load_csv(path, "y")
        assert data.preprocessing.scale[0] == 1
        assert all(np.isfinite(X).all() for X, _ in sets(data))


def test_classes_are_sorted_as_numbers_where_all_are(tmp_path):
    def classes(*names: object) -> tuple[str, ...]:
        rows = [[1, name] for name in names for _ in range(3)]
        return datasets.load_csv(write_csv(tmp_path / "a.csv", ["x", "y"], *rows), "y").classes

    assert classes(10, 9, -1) == ("-1", "9", "10")
    assert classes("10", "9", "b") == ("10", "9", "b")
    assert classes("猫", "chien") == ("chien", "猫")


def test_spreadsheets_marks_blank_lines_quotes_and_spaces_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"y", "x"\r\n"a", 1\r\n\r\na,"2"\r\nb , 3\r\nb,4\r\n')
    data = datasets.load_csv(path, "y", test=0)
    assert data.classes == ("a", "b")
    assert data.X_train.shape == (1, 2)


HEADER = "expected a header with 'y' (the target) and features, separated by commas, got"
MEASUREMENTS = "x,y\n" + "".join(f"1,{i / 7}\n" for i in range(200))
WRONG_TABLES = [
    ("", f": {HEADER} an empty file"),
    ("x,y\n", ": expected examples below the header, got none"),
    ("x,z\n1,a\n", f"{HEADER} 'x', 'z'"),
    ("x;y\n1;a\n", f"{HEADER} 'x;y'"),
    ("y,y\n1,a\n", f"{HEADER} 'y', 'y'"),
    ("y\na\n", f"{HEADER} 'y'"),
    (MEASUREMENTS, "column 'y' has 200 different values in 200 rows: the target takes classes"),
    ("x,y\n1,a\n2\n", "line 3: expected 2 cells, got 1"),
    ("x,y\n1,a\n2,b,c\n", "line 3: expected 2 cells, got 3"),
    ("x,z,y\n1,2,a\n1,two,a\n", "line 3, column 'z': expected a finite number, got 'two'"),
    ("x,y,z\n1,a,2\n1,a,\n", "line 3, column 'z': expected a finite number, got ''"),
    ("x,y\n1,a\nNaN,a\n", "line 3, column 'x': expected a finite number, got 'NaN'"),
    ("x,y\n-inf,a\n", "line 2, column 'x': expected a finite number, got '-inf'"),
    ("x,y\n1e300,a\n", "line 2, column 'x': expected a finite number, got '1e300'"),
    ("x,y\n1,a\n1, \n", "line 3, column 'y': no class"),
    ("x,y\n1,nan\n", "line 2, column 'y': no class"),
    ("x,y\n1,a\n2,a\n", ": expected two classes or more, got only a"),
    ("x,y\n1,a\n2,a\n3,\x1b[2J\n", ": the class '\\x1b[2J' has a control character: rename it"),
    ("x,y\n1,a\n2,a\n3,b\n", ": the class 'b' has 1 of the examples, expected 3"),
    ('x,y\n1,"a\n', "not CSV"),
    ("x,y\n1,\xe9\n", "not text in UTF-8"),
]


def test_a_table_that_is_absent_or_wrong_is_an_error_that_says_where(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(FileNotFoundError, match="a.csv: no such file: name a table"):
        datasets.load_csv(path, "y")
    for text, says in WRONG_TABLES:
        path.write_bytes(text.encode("latin-1"))
        message = refusal(datasets.load_csv, path, "y")
        assert says in message, (text, message)
        assert message.startswith(f"{path}: ")


def test_features_of_one_name_are_all_read(tmp_path):
    rows = [[i, 2 * i, i % 2] for i in range(8)]
    data = datasets.load_csv(write_csv(tmp_path / "a.csv", ["x", "x", "y"], *rows), "y")
    assert data.X_train.shape[0] == 2


def test_an_index_as_the_first_column_is_a_warning(tmp_path):
    rows = [[i, i % 3, "ab"[i % 2]] for i in range(12)]
    path = write_csv(tmp_path / "a.csv", ["", "x", "y"], *rows)
    with pytest.warns(UserWarning, match=r"a\.csv: the first column counts the rows") as warned:
        datasets.load_csv(path, "y")
    assert warned[0].filename == __file__
    write_csv(path, ["", "x", "y"], *([2 * i, *rest] for i, *rest in rows))
    datasets.load_csv(path, "y")


# ------------------------------------------------------------------------------ how it is trained


def three_classes(tmp_path: Path, random: np.random.Generator, m: int = 300) -> datasets.Dataset:
    """A table with a class in each of three rings, which no line separates."""
    radius, angle = random.uniform(0, 3, m), random.uniform(0, 6.28, m)
    rows = zip(radius * np.cos(angle), radius * np.sin(angle), radius.astype(int), strict=True)
    return datasets.load_csv(write_csv(tmp_path / "rings.csv", ["x", "y", "ring"], *rows), "ring")


def test_the_recipe_for_own_data_fits_the_data(tmp_path, random):
    data = three_classes(tmp_path, random)
    recipe = own_recipe(data)
    assert recipe.net == accelnn.Network([2, 100, 3], output="softmax")
    assert recipe.validation[0] is data.X_validation
    assert recipe.data() is data
    many = own_recipe(datasets.blobs(m=12_000, classes=3))
    assert many.net.layers == (2, 128, 64, 3)
    assert many.batch_size > recipe.batch_size
    two = datasets.load_images(write_pictures(tmp_path / "pets", cat=3, dog=3), size=4)
    assert own_recipe(two, ()).net == accelnn.Network([48, 1])
    assert own_recipe(two, (20, 7, 5)).net == accelnn.Network([48, 20, 7, 5, 1])
    two = datasets.load_images(tmp_path / "pets", size=4, validation=0)
    assert own_recipe(two).validation is own_recipe(two).patience is None


def test_the_recipe_for_own_data_trains_well_and_stops_by_itself(tmp_path, random):
    data = three_classes(tmp_path, random)
    recipe = own_recipe(data)
    params, history = recipe.train(data)
    assert recipe.net.accuracy(params, data.X_test, data.Y_test) > 0.9
    assert history.stopped


def test_a_recipe_is_minimised_or_descends_with_its_decay(tmp_path, random):
    data = three_classes(tmp_path, random)
    recipe = own_recipe(data, (4,)).changed(epochs=5, optimizer="sgd", batch_size=None)
    _, history = recipe.changed(method="TNC").train(data, "float32")
    assert (history.solver, history.dtype) == ("minimize", "float32")
    given = recipe.net, recipe.first_weights(), data.X_train, data.Y_train
    slowing = accelnn.optimizers.inverse_decay(0.5, 1.0)
    expected, _ = accelnn.fit(*given, epochs=5, learning_rate=slowing, seed=recipe.seed)
    recipe = recipe.changed(learning_rate=0.5, decay=1.0, validation=None, patience=None)
    params, _ = recipe.train(data)
    np.testing.assert_array_equal(params.flat, expected.flat)
