"""`accelnn predict`: every kind of picture, and everything that can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import accelnn
from accelnn import backend, datasets, models
from accelnn.datasets.dataset import Preprocessing
from accelnn.models import Model

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")

from accelnn import predict as command  # noqa: E402
from accelnn.__main__ import run  # noqa: E402
from accelnn.predict import main, predict  # noqa: E402

SHAPE = (4, 6, 3)
PICTURES = Preprocessing(SHAPE, scale=255.0)


def brightness_model(classes=("dark", "bright"), preprocessing=PICTURES, **source):
    """One that tells by its mean whether a picture is bright."""
    net = accelnn.Network([72, 1])
    params = net.init("zeros")
    params[0][0][...] = 20 / 72
    params[0][1][...] = -10
    return Model(net, params, classes, preprocessing, **source)


def left_half_model():
    """One that tells whether the left half of a picture is brighter than the right."""
    net = accelnn.Network([72, 1])
    params = net.init("zeros")
    weights = np.where(np.arange(6) < 3, 1.0, -1.0)
    params[0][0][...] = np.broadcast_to(weights[:, None], SHAPE).reshape(1, -1)
    return Model(net, params, ("right", "left"), PICTURES)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.h5"
    models.save(brightness_model(), path)
    return str(path)


@pytest.fixture
def bright(tmp_path):
    path = tmp_path / "bright.png"
    Image.new("RGB", (9, 7), "white").save(path)
    return str(path)


@pytest.fixture
def dark(tmp_path):
    path = tmp_path / "dark.png"
    Image.new("RGB", (30, 50), "black").save(path)
    return str(path)


def test_a_picture_is_told_with_its_label_and_its_probability(there, bright, dark):
    model = brightness_model()
    told = predict(model, [bright, dark])
    assert [(t.picture, t.label, t.error) for t in told] == [
        (bright, "bright", None),
        (dark, "dark", None),
    ]
    expected = 1 / (1 + np.exp(-10))  # of the label told, whichever it is
    np.testing.assert_allclose([t.probability for t in told], expected, 1e-5)
    assert backend.backend_of(model.params.flat) is there


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_of_several_outputs_the_largest_is_told(bright, dark, output):
    net = accelnn.Network([72, 3], output=output)
    params = net.init("zeros")
    params[0][0][2] = 1 / 72
    params[0][1][...] = [[-2.0], [0.5], [0.0]]
    told = predict(Model(net, params, ("a", "b", "c"), PICTURES), [bright, dark])
    assert [t.label for t in told] == ["c", "b"]
    X = np.array([[1.0, 0.0]]).repeat(72, axis=0)
    np.testing.assert_allclose(
        [t.probability for t in told], net.forward(params, X).max(axis=0), 1e-12
    )


def test_a_probability_of_a_half_is_the_first_class_as_in_the_notes(bright):
    net = accelnn.Network([72, 1])
    told = predict(Model(net, net.init("zeros"), ("no", "yes"), PICTURES), [bright])
    assert (told[0].label, told[0].probability) == ("no", 0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_says_of_files_what_the_trained_one_says_of_pixels(
    there, tmp_path, random, dtype
):
    pixels = random.integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for picture, file in zip(pixels, files, strict=True):
        Image.fromarray(picture).save(file)
    X = models.apply(PICTURES, there.to_device(pixels.reshape(6, -1)), dtype)
    Y = there.to_device(np.arange(6)[None] % 2, dtype)
    net = accelnn.Network([72, 4, 1])
    params, _ = accelnn.fit(net, net.init(dtype=dtype), X, Y, epochs=50, learning_rate=0.1)
    models.save(Model(net, params, ("even", "odd"), PICTURES), tmp_path / "model.h5")
    told = predict(models.load(tmp_path / "model.h5"), files)
    p = backend.to_host(net.forward(params, X))[0].astype(np.float64)
    assert [t.label for t in told] == [("even", "odd")[int(value > 0.5)] for value in p]
    np.testing.assert_array_equal([t.probability for t in told], np.where(p > 0.5, p, 1 - p))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (6, 4), (1500, 1000)])
def test_pictures_of_any_mode_and_size_are_told(tmp_path, mode, size):
    told = []
    for colour in ("white", "black"):
        picture = Image.new("RGB", size, colour)
        if mode == "I;16":
            picture = Image.new(mode, size, 65535 if colour == "white" else 0)
        elif mode == "LA":
            picture = picture.convert("L").convert("LA")
        else:
            picture = picture.convert(mode)
        path = tmp_path / f"{colour}.{'png' if mode not in ('CMYK', 'YCbCr') else 'tiff'}"
        picture.save(path)
        told += predict(brightness_model(), [path])
    assert [t.label for t in told] == ["bright", "dark"], [t.error for t in told]


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert predict(brightness_model(), [tmp_path / "clear.png"])[0].label == "bright"


@pytest.mark.parametrize(
    ("orientation", "label"),
    list(enumerate(["left", "right", "right", "left", "left", "right", "right", "left"], 1)),
)
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path, orientation, label):
    """What the camera stored is white on the left, or on top where it is to be turned by 90°."""
    picture = Image.new("RGB", (60, 40), "black")
    picture.paste("white", (0, 0, 30, 40) if orientation < 5 else (0, 0, 60, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "camera.jpg", exif=exif)
    told = predict(left_half_model(), [tmp_path / "camera.jpg"])[0]
    assert told.label == label
    assert told.probability > 0.99


def test_more_pictures_than_fit_at_once_are_told_in_their_order(monkeypatch, bright, dark):
    monkeypatch.setattr(command, "AT_ONCE", 2)
    told = predict(brightness_model(), [bright, dark, dark, "absent.png", bright])
    assert [t.label for t in told] == ["bright", "dark", "dark", None, "bright"]
    assert [t.picture for t in told][3:] == ["absent.png", bright]


def test_an_output_that_is_not_a_number_is_an_error_of_its_row(dark):
    net = accelnn.Network([72, 1])
    params = net.init("zeros")
    params[0][0][...] = np.inf  # infinity times the 0 of a black pixel
    predictions = predict(Model(net, params, ("a", "b"), PICTURES), [dark])
    assert "not a number" in predictions[0].error


# ------------------------------------------------------------------------------ the command


def test_the_command_prints_a_row_for_each_picture(model, bright, dark, capsys):
    assert main([model, bright, dark]) == 0
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if ".png" in line]
    assert [row.replace("|", " ").split() for row in rows] == [
        [bright, "bright", "100.00", "%"],
        [dark, "dark", "100.00", "%"],
    ]
    assert "Predicted on numpy (" in out
    assert "float64" in out
    assert "\x1b" not in out
    assert err == ""


def test_a_picture_that_cannot_be_read_is_told_in_its_row_and_the_others_too(
    tmp_path, model, bright, capsys
):
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "bright.png").read_bytes()[:40])
    text = tmp_path / "note.txt"
    text.write_text("no picture")
    pictures = [str(broken), str(tmp_path / "absent.png"), str(text), str(tmp_path), bright]
    assert main([model, *pictures]) == 1
    out, err = capsys.readouterr()
    for picture in pictures[:-1]:
        row = next(line for line in out.splitlines() if f" {picture} " in line)
        assert "FAILED: " in row
    assert sum("100.00 %" in line for line in out.splitlines()) == 1
    assert err == ""


def test_json_goes_to_standard_output_and_the_table_to_standard_error(
    model, bright, tmp_path, capsys
):
    absent = str(tmp_path / "absent.png")
    assert main([model, bright, absent, "--json", "-"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["model"], result["backend"], result["dtype"]) == (model, "numpy", "float64")
    first, second = result["predictions"]
    assert (first["picture"], first["label"], first["error"]) == (bright, "bright", None)
    assert 0.9999 < first["probability"] < 1
    assert (second["label"], second["probability"]) == (None, None)
    assert second["error"]
    assert "100.00 %" in err


def test_json_goes_to_a_file(model, bright, tmp_path, capsys):
    assert main([model, bright, "--json", str(tmp_path / "told.json")]) == 0
    assert json.loads((tmp_path / "told.json").read_text())["predictions"][0]["label"] == "bright"
    assert "100.00 %" in capsys.readouterr().out


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_json_that_cannot_be_written_leaves_the_old_file(
    model, bright, tmp_path, capsys, monkeypatch, failing
):
    path = tmp_path / "told.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    assert main([model, bright, "--json", str(path)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["bright.png", "model.h5", "told.json"]


def test_the_source_of_the_training_data_is_printed_and_in_the_json(tmp_path, bright, capsys):
    path = str(tmp_path / "model.h5")
    models.save(brightness_model(source="pets: 9 pictures"), path)
    assert main([path, bright, "--json", str(tmp_path / "told.json")]) == 0
    out, err = capsys.readouterr()
    assert "Training data: pets: 9 pictures\n" in out
    assert err == ""
    result = json.loads((tmp_path / "told.json").read_text())
    assert (result["data"], result["stand_in"]) == ("pets: 9 pictures", False)


@pytest.mark.filterwarnings("ignore::accelnn.datasets.StandInWarning")
def test_a_model_of_stand_ins_says_so_and_names_the_download(tmp_path, bright, capsys, monkeypatch):
    monkeypatch.delenv("ACCELNN_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    cats = datasets.load_cats()
    net = accelnn.Network([12288, 1])
    parts = (cats.classes, cats.preprocessing, cats.source, cats.stand_in)
    models.save(Model(net, net.init(), *parts), "cats.h5")
    assert main(["cats.h5", bright, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["stand_in"]
    assert "warning: the model was trained on a drawn stand-in for the cat pictures" in err
    assert "accelnn data download cats" in err


def test_ctrl_c_ends_with_130_and_no_traceback(model, bright, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "read_picture", interrupted)
    assert run("predict", [model, bright]) == 130
    assert capsys.readouterr() == ("", "Interrupted.\n")


def test_names_cannot_upset_the_table(tmp_path, capsys):
    path, picture = tmp_path / "model.h5", tmp_path / "[red]\x1b[31m\n.png"
    models.save(brightness_model(classes=("a\x1bb", "[bold]猫")), path)
    Image.new("L", (3, 3), 255).save(picture)
    assert main([str(path), str(picture)]) == 0
    out = capsys.readouterr().out
    assert "[red]?[31m?.png" in out
    assert "[bold]猫" in out
    assert "\x1b" not in out


def test_wrong_arguments_end_with_2(model, bright, tmp_path, capsys):
    for arguments in ([], [model], [model, bright, "--backend", "tpu"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        main([model, bright, "--json", str(tmp_path / "absent" / "told.json")])
    assert end.value.code == 2
    assert "there is no folder" in capsys.readouterr().err


def bad_models():
    numbers = brightness_model(preprocessing=Preprocessing())
    net = accelnn.Network([72, 1], output="linear")
    linear = Model(net, net.init(), (), PICTURES)
    return {
        "absent": (None, "no such file"),
        "foreign": (b"hello", "is not a model saved by accelnn: the model comes first"),
        "csv": (numbers, "the model takes 72 numbers an example, not pictures"),
        "linear": (linear, "the model predicts numbers, not classes"),
    }


@pytest.mark.parametrize("kind", bad_models())
def test_a_bad_model_is_one_line_of_standard_error(tmp_path, bright, capsys, kind):
    content, message = bad_models()[kind]
    path = tmp_path / "bad.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        models.save(content, path)
    assert main([str(path), bright]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {path}")
    assert message in err
    assert err.count("\n") == 1


def test_a_backend_that_cannot_be_used_is_one_line_of_standard_error(
    model, bright, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as where it is not installed
    assert main([model, bright, "--backend", "cupy"]) == 1
    monkeypatch.setenv("ACCELNN_BACKEND", "tpu")
    monkeypatch.setattr(backend, "_current", None)
    assert main([model, bright]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("error: CuPy is not installed: pip install")
    assert "ACCELNN_BACKEND: unknown backend 'tpu'" in err[1]


def test_the_command_runs_as_a_module_without_a_traceback(model, bright, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "accelnn.predict", *arguments], capture_output=True, text=True
        )

    good, bad = run(model, bright), run(str(tmp_path / "absent.h5"), bright)
    assert (good.returncode, good.stderr) == (0, "")
    assert "100.00 %" in good.stdout
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "Traceback" not in bad.stderr


def test_the_predictions_are_not_written_over_the_model_or_a_picture(model, bright, capsys):
    for file in (model, bright):
        before = Path(file).read_bytes()
        with pytest.raises(SystemExit) as end:
            main([model, bright, "--json", file])
        assert end.value.code == 2
        assert f"would overwrite {file}" in capsys.readouterr().err
        assert Path(file).read_bytes() == before


def test_a_folder_is_no_picture_and_says_so(model, bright, tmp_path, capsys):
    assert main([model, bright, str(tmp_path)]) == 1
    assert "FAILED: a folder: pass its pictures" in capsys.readouterr().out
