"""The course's MATLAB files and your own data: what is read, and every way that it is wrong."""

import csv
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array
from accelnn.columns import HostColumns
from accelnn.datasets import Preprocessing
from accelnn.recipes import own_recipe


def arrays(data: datasets.Dataset) -> list[Array]:
    return [data.X_train, data.Y_train, data.X_test, data.Y_test]


def sets(data: datasets.Dataset) -> list[tuple[Array, Array]]:
    """Training, validation and test set, on the host."""
    pairs = [
        (data.X_train, data.Y_train),
        (data.X_validation, data.Y_validation),
        (data.X_test, data.Y_test),
    ]
    return [(backend.to_host(X), backend.to_host(Y)) for X, Y in pairs]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with no data anywhere in the search order."""
    monkeypatch.delenv("ACCELNN_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write_mat(path: Path, fields: dict[str, Array]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {key: value for key, value in fields.items() if value is not None})
    return path


def football_fields(m: int = 6) -> dict[str, Array]:
    rng = np.random.RandomState(m)
    return {
        "X": rng.randn(m, 2),
        "y": (np.arange(m) % 2)[:, None].astype(np.uint8),
        "Xval": rng.randn(4, 2),
        "yval": np.array([[0], [1], [1], [0]], np.uint8),
    }


def ex4_fields() -> dict[str, Array]:
    rng = np.random.RandomState(0)
    return {"X": rng.rand(5000, 400), "y": np.repeat([10, *range(1, 10)], 500)[:, None]}


def ex4_weights() -> dict[str, Array]:
    rng = np.random.RandomState(1)
    return {"Theta1": rng.randn(25, 401), "Theta2": rng.randn(10, 26)}


# --------------------------------------------------------------------------- every loader


def test_importing_datasets_does_not_import_what_only_some_loaders_need():
    code = (
        "import accelnn.datasets, sys; "
        "sys.exit(bool({'h5py', 'scipy.io', 'PIL', 'pooch', 'requests'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("nowhere")
@pytest.mark.filterwarnings("ignore::accelnn.datasets.StandInWarning")
def test_pictures_come_with_their_shape_and_scale():
    assert astuple(datasets.load_cats().preprocessing) == astuple(
        Preprocessing((64, 64, 3), 0.0, 255.0)
    )
    assert astuple(datasets.load_digits().preprocessing) == astuple(
        Preprocessing((28, 28, 1), 0.0, 255.0)
    )
    assert astuple(datasets.flower().preprocessing) == astuple(Preprocessing())


# ------------------------------------------------------------------------------- football


def test_football_is_read_as_it_is_stored(tmp_path, there):
    fields = football_fields()
    write_mat(tmp_path / "football.mat", fields)
    data = datasets.load_football(tmp_path)
    expected = (fields["X"].T, fields["y"].T, fields["Xval"].T, fields["yval"].T)
    for array, stored in zip(arrays(data), expected, strict=True):
        assert array.dtype == there.default_dtype
        np.testing.assert_allclose(backend.to_host(array), stored, 1e-6)
    assert data.X_train.T.flags.c_contiguous
    assert data.classes == ("red", "blue")
    assert data.source == str(tmp_path / "football.mat")
    assert not data.stand_in
    assert astuple(data.preprocessing) == astuple(Preprocessing())


def test_real_football_is_the_courses(real_data):
    if not (real_data / "football.mat").exists():
        pytest.skip("no football.mat")
    data = datasets.load_football(real_data)
    assert [a.shape for a in arrays(data)] == [(2, 211), (1, 211), (2, 200), (1, 200)]
    assert np.isin(data.Y_train, [0, 1]).all()


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
    with pytest.warns(datasets.StandInWarning, match="this data is a stand-in for the football"):
        data = datasets.load_football(dtype="float32")
    spiral = datasets.spiral(dtype="float32")
    assert data.stand_in
    assert "no football.mat found; to download it: accelnn data download football" in data.source
    assert "spiral" in data.source
    for array, drawn in zip(arrays(data), arrays(spiral), strict=True):
        np.testing.assert_array_equal(array, drawn)


@pytest.mark.usefixtures("nowhere")
def test_a_given_or_named_folder_must_be_right(monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"football.mat: no such file: .* download footb"):
        datasets.load_football(".")
    monkeypatch.setenv("ACCELNN_DATA", "absent")
    with pytest.raises(FileNotFoundError, match="no such folder: name the one with football.mat"):
        datasets.load_football()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("X", None, r"found only the keys \['y', 'Xval', 'yval'\]"),
        (
            "X",
            np.zeros((2, 6)),
            r"found float64 of shape \(2, 6\), expected number of shape \(m, 2",
        ),
        ("X", np.array(["ab"]), r"found <U2 of shape \(1,\)"),
        ("X", np.zeros((0, 2)), r"shape \(0, 2\), expected .* with m > 0"),
        ("X", np.full((6, 2), np.nan), "found NaN or infinity, expected finite numbers"),
        ("y", np.zeros((5, 1)), r"shape \(5, 1\), expected number of shape \(6, 1\)"),
        ("y", np.full((6, 1), 2), r"found the label 2, expected labels in 0\.\.1"),
        ("y", np.full((6, 1), 0.5), "found the label 0.5"),
        ("yval", np.zeros((3, 1)), r"expected number of shape \(4, 1\)"),
    ],
)
def test_wrong_contents_of_a_mat_file_are_named(tmp_path, key, value, says):
    path = write_mat(tmp_path / "football.mat", football_fields() | {key: value})
    with pytest.raises(ValueError, match=says) as error:
        datasets.load_football(tmp_path)
    assert str(error.value).startswith(f"{path}: {key}: found ")
    assert str(error.value).endswith("to download it: accelnn data download football")


def test_damaged_mat_files_are_value_errors(tmp_path):
    path = tmp_path / "football.mat"
    # compressed, as MATLAB writes; in uncompressed ones, a wrong byte can crash SciPy 1.17 itself
    scipy.io.savemat(path, football_fields(), do_compression=True)
    whole, rng = path.read_bytes(), np.random.RandomState(0)
    for contents in (b"", b"<html>404</html>" * 50, whole[:100], whole[:300]):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match="football.mat: "):
            datasets.load_football(tmp_path)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.randint(128, len(whole))] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            datasets.load_football(tmp_path)
        except ValueError:
            continue


def test_a_mat_file_of_another_version_is_named(tmp_path):
    with h5py.File(tmp_path / "football.mat", "w", userblock_size=512) as file:
        file["X"] = np.zeros((6, 2))
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with (tmp_path / "football.mat").open("r+b") as raw:
        raw.write(head)
    with pytest.raises(ValueError, match=r"not a whole MATLAB file \(.*7\.3"):
        datasets.load_football(tmp_path)


# --------------------------------------------------------------------------- exercise 4


@pytest.fixture(scope="module")
def ex4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ex4")
    write_mat(folder / "ex4data1.mat", ex4_fields())
    write_mat(folder / "ex4weights.mat", ex4_weights())
    return folder


def test_ex4_digits_are_the_files_pictures_upright(ex4):
    data = datasets.load_ex4(ex4)
    assert [a.shape for a in arrays(data)] == [(400, 5000), (5000,), (400, 0), (0,)]
    assert data.classes == ("1", "2", "3", "4", "5", "6", "7", "8", "9", "0")
    assert astuple(data.preprocessing) == astuple(Preprocessing((20, 20, 1), 0.0, 255.0))
    stored = ex4_fields()
    upright = stored["X"][7].reshape(20, 20, order="F")
    np.testing.assert_array_equal(data.X_train[:, 7].reshape(20, 20), upright)
    np.testing.assert_array_equal(data.Y_train, stored["y"][:, 0] - 1)
    assert data.X_train.T.flags.c_contiguous


def test_ex4_weights_give_what_the_course_computes_from_the_files(ex4, there):
    """h = g([1, g([1, X] Θ1ᵀ)] Θ2ᵀ), of the files as they are; the class is argmax + 1."""
    data, params = datasets.load_ex4(ex4), datasets.load_ex4_weights(ex4)
    assert backend.backend_of(params.flat) is there
    assert params.dtype == there.default_dtype
    net = accelnn.Network([400, 25, 10], hidden="sigmoid")
    theta, X = ex4_weights(), ex4_fields()["X"]
    ones = np.ones((5000, 1))

    def g(Z: Array) -> Array:
        return 1 / (1 + np.exp(-Z))

    H = g(np.c_[ones, g(np.c_[ones, X] @ theta["Theta1"].T)] @ theta["Theta2"].T)
    Y = np.eye(10)[ex4_fields()["y"][:, 0] - 1]
    J = -np.sum(Y * np.log(H) + (1 - Y) * np.log(1 - H)) / 5000
    targets = there.to_device(Y.T, params.dtype)
    assert net.cost(params, data.X_train, targets) == pytest.approx(
        J, 1e-5 if there.default_dtype == "float32" else 1e-12
    )
    assert datasets.load_ex4_weights(ex4, dtype="float32").dtype == np.float32


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("load", "name"),
    [(datasets.load_ex4, "ex4data1.mat"), (datasets.load_ex4_weights, "ex4weights.mat")],
)
def test_without_exercise_4_the_error_says_where_to_put_it(load, name):
    with pytest.raises(FileNotFoundError, match=f"^{name}: not found: put .* ACCELNN_DATA"):
        load()
    with pytest.raises(FileNotFoundError, match=f"^absent.{name}: no such file: put"):
        load("absent")


def test_ex4_is_found_in_the_named_folder(ex4, nowhere, monkeypatch):
    assert nowhere
    monkeypatch.setenv("ACCELNN_DATA", str(ex4))
    assert datasets.load_ex4().source == str(ex4 / "ex4data1.mat")


def test_wrong_contents_of_exercise_4_are_named(tmp_path):
    small = {"X": np.zeros((3, 400)), "y": np.array([[1], [10], [0]])}
    write_mat(tmp_path / "ex4data1.mat", small)
    with pytest.raises(ValueError, match=r"y: found the label 0, expected labels in 1\.\.10: put"):
        datasets.load_ex4(tmp_path)
    write_mat(tmp_path / "ex4data1.mat", small | {"X": np.zeros((3, 784))})
    with pytest.raises(ValueError, match=r"X: .*\(3, 784\), expected floating of shape \(m, 400\)"):
        datasets.load_ex4(tmp_path)
    write_mat(tmp_path / "ex4weights.mat", ex4_weights() | {"Theta2": np.zeros((10, 25))})
    with pytest.raises(ValueError, match=r"Theta2: .*\(10, 25\), expected .* \(10, 26\): put"):
        datasets.load_ex4_weights(tmp_path)


# ------------------------------------------------------------------------------- a picture


def save(path: Path, picture: Array, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture)).save(path, **how)
    return path


COLOURS = np.random.RandomState(3).randint(0, 256, (6, 5, 3)).astype(np.uint8)


def test_a_picture_of_the_right_size_is_read_as_it_is(tmp_path):
    picture = datasets.read_picture(save(tmp_path / "a.png", COLOURS), (6, 5, 3))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, COLOURS)


@pytest.mark.parametrize("shape", [(64, 64, 3), (3, 8, 3), (1, 1, 1), (28, 28, 1)])
def test_a_picture_gets_the_shape_asked_for(tmp_path, shape):
    path = save(tmp_path / "a.png", np.full((50, 30, 3), 200, np.uint8))
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


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_exif_orientation_is_honoured(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ORIENTATIONS[orientation](COLOURS)
    path = save(tmp_path / "a.png", COLOURS, exif=exif)
    np.testing.assert_array_equal(datasets.read_picture(path, upright.shape), upright)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path, mode, channels, monkeypatch):
    bright = 65535 if mode.startswith("I") else 255
    pixels = {"I": np.int32, "I;16": np.uint16}.get(mode, np.uint8)
    half = np.full((4, 4), bright, pixels)
    half[:, 2:] = 0
    image = Image.fromarray(half)
    if not mode.startswith("I"):
        image = image.convert("RGBA" if mode == "PA" else "RGB").convert(
            "P" if "P" in mode else mode
        )
        image = image.convert(mode)
    assert image.mode == mode
    monkeypatch.setattr(Image, "open", lambda _: image)
    picture = datasets.read_picture(tmp_path, (4, 4, channels))
    assert picture[:, :2].min() > 250
    assert picture[:, 2:].max() < 5


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


@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "bmp", "webp", "tiff"])
def test_damaged_pictures_are_value_errors_that_name_the_file(tmp_path, format):
    path = tmp_path / f"a.{format}"
    Image.fromarray(np.repeat(COLOURS, 20, 0)).save(path, format)
    whole, rng = path.read_bytes(), np.random.RandomState(0)
    for keep in (0, 10, 40, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=rf"a.{format}: not a whole picture"):
            datasets.read_picture(path, (8, 8, 3))
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randint(min(300, len(whole)))] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            datasets.read_picture(path, (8, 8, 3))
        except ValueError:
            continue


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
    assert astuple(data.preprocessing) == astuple(Preprocessing((5, 5, 3), 0.0, 255.0))
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
    with pytest.raises(FileNotFoundError, match="absent"):
        datasets.load_images(tmp_path / "absent")
    with pytest.raises(ValueError, match=f"{tmp_path}: expected two folders or more.* got none"):
        datasets.load_images(tmp_path)
    write_pictures(tmp_path, a=3)
    with pytest.raises(ValueError, match="expected two folders or more.* got a$"):
        datasets.load_images(tmp_path)
    with pytest.raises(NotADirectoryError):
        datasets.load_images(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    with pytest.raises(ValueError, match=r"b: no picture in this class that Pillow can read"):
        datasets.load_images(tmp_path)
    (tmp_path / "b" / "notes.txt").unlink()
    write_pictures(tmp_path, b=2)
    says = f"{tmp_path}: the class 'b' has 2 of the examples, expected 3 or more"
    with pytest.raises(ValueError, match=says):
        datasets.load_images(tmp_path)


def test_a_file_that_is_no_picture_is_skipped_with_a_warning(tmp_path):
    write_pictures(tmp_path, a=3, b=3)
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "b" / "more").mkdir()
    with pytest.warns(UserWarning, match="skipped 2 files .*: a/notes.txt, b/more$") as warned:
        data = datasets.load_images(tmp_path, size=2)
    assert warned[0].filename == __file__
    assert sum(X.shape[1] for X, _ in sets(data)) == 6
    for number in range(7):
        (tmp_path / "b" / f"half {number}.png").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"skipped 9 files .*half 3.png, \.\.\.$"):
        datasets.load_images(tmp_path, size=2)


def test_wrong_arguments_are_errors(tmp_path):
    write_pictures(tmp_path, a=2, b=2)
    for name in ("validation", "test"):
        for share in (-0.1, 1, float("nan")):
            with pytest.raises(ValueError, match=rf"expected {name} as a share in \[0, 1\), got"):
                datasets.load_images(tmp_path, **{name: share})
    with pytest.raises(ValueError, match="leave a share to train on, got 0.5 and 0.5"):
        datasets.load_images(tmp_path, validation=0.5, test=0.5)
    with pytest.raises(ValueError, match="expected a size of 1 pixel or more, got 0"):
        datasets.load_images(tmp_path, size=0)


# -------------------------------------------------------------------------------- your HDF5


def hdf5_fields(m: int = 10) -> dict[str, Array]:
    pixels = np.random.RandomState(m).randint(0, 256, (m, 4, 6, 3))
    return {
        "train_set_x": pixels.astype(np.uint8),
        "train_set_y": np.arange(m) % 3,
        "list_classes": np.array([b"dog", b"cat", b"bird"]),
    }


def write_hdf5(path: Path, fields: dict[str, Array]) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in fields.items():
            if value is not None:
                file[key] = value
    return path


def test_hdf5_without_a_test_set_is_split(tmp_path, there):
    path = write_hdf5(tmp_path / "pets.h5", hdf5_fields(30))
    data = datasets.load_hdf5(path, validation=0.2, test=0.3)
    assert [X.shape for X, _ in sets(data)] == [(72, 15), (72, 6), (72, 9)]
    assert data.classes == ("dog", "cat", "bird")
    assert data.X_train.dtype == there.default_dtype
    assert astuple(data.preprocessing) == astuple(Preprocessing((4, 6, 3), 0.0, 255.0))
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


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"train_set_x": None}, "train_set_x: found only the keys"),
        ({"train_set_x": np.zeros((10, 72), np.uint8)}, r"of shape \(m, h, w, c\) with m, h, w, c"),
        ({"train_set_x": np.zeros((10, 4, 6, 3))}, "found float64 .* expected uint8"),
        ({"train_set_y": np.zeros(9, int)}, r"train_set_y: .*\(9,\), expected .* \(10,\)"),
        ({"train_set_y": np.full(10, 3)}, r"found the label 3, expected labels in 0\.\.2"),
        ({"train_set_y": np.arange(10) % 2}, "the class 'bird' has 0 of the examples"),
        ({"train_set_y": np.arange(10) // 9 * 2}, "the class 'cat' has 0"),
        ({"list_classes": np.array([1, 2])}, r"found int64 .* expected bytes_ of shape \(n,\)"),
        ({"list_classes": np.array([b"cat"]), "train_set_y": np.zeros(10, int)}, "got only cat"),
        ({"test_set_x": TEST_SET["test_set_x"]}, "test_set_y: found only the keys"),
        ({"test_set_y": TEST_SET["test_set_y"]}, "test_set_x: found only the keys"),
        (TEST_SET | {"test_set_x": np.zeros((2, 4, 4, 3), np.uint8)}, r"of shape \(k, 4, 6, 3\)"),
        (TEST_SET | {"test_set_y": np.array([0, -1])}, "test_set_y: found the label -1"),
    ],
)
def test_wrong_contents_of_your_hdf5_are_named(tmp_path, fields, says):
    path = write_hdf5(tmp_path / "pets.h5", hdf5_fields() | fields)
    with pytest.raises(ValueError, match=says) as error:
        datasets.load_hdf5(path)
    assert str(error.value).startswith(f"{path}: ")


def test_hdf5_that_is_absent_or_damaged_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="pets.h5: no such file: write it as"):
        datasets.load_hdf5(tmp_path / "pets.h5")
    (tmp_path / "pets.h5").write_text("cat, dog")
    with pytest.raises(ValueError, match="pets.h5: not a whole HDF5 file"):
        datasets.load_hdf5(tmp_path / "pets.h5")


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


def test_classes_are_sorted_as_numbers_where_all_are(tmp_path):
    def classes(*names: object) -> tuple[str, ...]:
        rows = [[1, name] for name in names for _ in range(3)]
        return datasets.load_csv(write_csv(tmp_path / "a.csv", ["x", "y"], *rows), "y").classes

    assert classes(10, 9, -1) == ("-1", "9", "10")
    assert classes("10", "9", "b") == ("10", "9", "b")
    assert classes("猫", "chien") == ("chien", "猫")


def test_spreadsheets_marks_blank_lines_quotes_and_spaces_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"x", "y"\r\n1, "a"\r\n\r\n"2",a\r\n 3 ,b\r\n4,b\r\n')
    data = datasets.load_csv(path, "y", test=0)
    assert data.classes == ("a", "b")
    assert data.X_train.shape == (1, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty: expected a row of column names"),
        ("x,y\n", "empty: expected examples below"),
        ("x,z\n1,a\n", r"expected one column 'y' .* got the columns 'x', 'z'"),
        ("x;y\n1;a\n", "the header has ; and no comma: save the table with commas"),
        (
            "x,y\n" + "".join(f"1,{i / 7}\n" for i in range(200)),
            "column 'y' has 200 different values in 200 rows: the target takes classes, not meas",
        ),
        ("y,y\n1,a\n", r"expected one column 'y' .* got the columns 'y', 'y'"),
        ("y\na\n", "only the target 'y'"),
        ("x,y\n1,a\n2\n", "line 3: expected 2 cells, got 1"),
        ("x,y\n1,a\n2,b,c\n", "line 3: expected 2 cells, got 3"),
        ("x,z,y\n1,2,a\n1,two,a\n", "line 3, column 'z': expected a finite number, got 'two'"),
        ("x,y,z\n1,a,2\n1,a,\n", "line 3, column 'z': expected a finite number, got ''"),
        ("x,y\n1,a\nNaN,a\n", "line 3, column 'x': expected a finite number, got 'NaN'"),
        ("x,y\n-inf,a\n", "line 2, column 'x': expected a finite number, got '-inf'"),
        ("x,y\n1e300,a\n", "line 2, column 'x': expected a finite number, got '1e300'"),
        ("x,y\n1,a\n1, \n", "line 3, column 'y': no class"),
        ("x,y\n1,nan\n", "line 2, column 'y': no class"),
        ("x,y\n1,a\n2,a\n", "column 'y': expected two classes or more, got only a"),
        ("x,y\n1,a\n2,a\n3,b\n", "column 'y': the class 'a' has 2 of the examples, expected 3"),
        ('x,y\n1,"a\n', "not CSV"),
        ("x,y\n1,\xe9\n", "not text in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_that_says_where(tmp_path, text, says):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says) as error:
        datasets.load_csv(path, "y")
    assert str(error.value).startswith(f"{path}: ")


def test_an_absent_table_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.csv: no such file$"):
        datasets.load_csv(tmp_path / "absent.csv", "y")


def test_an_index_as_the_first_column_is_a_warning(tmp_path):
    rows = [[i, i % 3, "ab"[i % 2]] for i in range(12)]
    path = write_csv(tmp_path / "a.csv", ["", "x", "y"], *rows)
    with pytest.warns(
        UserWarning, match=r"a\.csv: the first column has no name and counts"
    ) as told:
        datasets.load_csv(path, "y")
    assert told[0].filename == __file__
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


def test_without_a_validation_set_nothing_is_watched(tmp_path):
    data = datasets.load_images(write_pictures(tmp_path, a=3, b=3), size=4, validation=0)
    recipe = own_recipe(data)
    assert recipe.validation is recipe.patience is None


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


def test_a_file_in_place_of_a_folder_of_pictures_is_an_error(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["x", "y"])
    with pytest.raises(NotADirectoryError, match="a.csv: a file, not a folder: for a table use"):
        datasets.load_images(path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        datasets.load_images(tmp_path / "nowhere")
