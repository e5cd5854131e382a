"""`accelnn predict`: every kind of picture, and everything that can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import accelnn
from accelnn import backend, datasets, models
from accelnn.__main__ import run
from accelnn.cli import predict as command
from accelnn.cli.predict import main, predict
from accelnn.datasets import Preprocessing
from accelnn.models import Model

SHAPE = (4, 6, 3)
PICTURES = Preprocessing(SHAPE, scale=255.0)


def brightness_model(classes=("dark", "bright"), preprocessing=PICTURES, **source):
    """A model that calls a picture bright or dark by its mean."""
    net = accelnn.Network([72, 1])
    params = net.init("zeros")
    params[0][0][...] = 20 / 72
    params[0][1][...] = -10
    return Model(net, params, classes, preprocessing, **source)


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


def test_each_picture_gets_its_label_and_its_probability(there, bright, dark):
    model = brightness_model()
    predictions = predict(model, [bright, dark])
    assert [(p.picture, p.label, p.error) for p in predictions] == [
        (bright, "bright", None),
        (dark, "dark", None),
    ]
    expected = 1 / (1 + np.exp(-10))  # of the predicted label
    np.testing.assert_allclose([p.probability for p in predictions], expected, 1e-5)
    assert backend.backend_of(model.params.flat) is there


def test_the_largest_of_several_outputs_is_predicted(bright, dark):
    for output in ("softmax", "sigmoid"):
        net = accelnn.Network([72, 3], output=output)
        params = net.init("zeros")
        params[0][0][2] = 1 / 72
        params[0][1][...] = [[-2.0], [0.5], [0.0]]
        predictions = predict(Model(net, params, ("a", "b", "c"), PICTURES), [bright, dark])
        assert [p.label for p in predictions] == ["c", "b"], output
        X = np.array([[1.0, 0.0]]).repeat(72, axis=0)
        expected = net.forward(params, X).max(axis=0)
        np.testing.assert_allclose([p.probability for p in predictions], expected, 1e-12)


def test_a_probability_of_a_half_is_the_first_class_as_in_the_notes(bright):
    net = accelnn.Network([72, 1])
    (prediction,) = predict(Model(net, net.init("zeros"), ("no", "yes"), PICTURES), [bright])
    assert (prediction.label, prediction.probability) == ("no", 0.5)


def test_a_saved_model_predicts_from_files_what_the_trained_one_predicts_from_pixels(
    there, tmp_path, random
):
    pixels = random.integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for picture, file in zip(pixels, files, strict=True):
        Image.fromarray(picture).save(file)
    net = accelnn.Network([72, 4, 1])
    for dtype in ("float32", "float64"):
        X = models.apply(PICTURES, there.to_device(pixels.reshape(6, -1)), dtype)
        Y = there.to_device(np.arange(6)[None] % 2, dtype)
        params, _ = accelnn.fit(net, net.init(dtype=dtype), X, Y, epochs=50, learning_rate=0.1)
        models.save(Model(net, params, ("even", "odd"), PICTURES), tmp_path / "model.h5")
        predictions = predict(models.load(tmp_path / "model.h5"), files)
        p = backend.to_host(net.forward(params, X))[0].astype(np.float64)
        assert [q.label for q in predictions] == [("even", "odd")[int(value > 0.5)] for value in p]
        expected = np.where(p > 0.5, p, 1 - p)
        np.testing.assert_array_equal([q.probability for q in predictions], expected, dtype)


def test_pictures_are_read_as_in_training(tmp_path):
    """White where they are transparent, upright, of any size: see the tests of `read_picture`."""
    Image.new("RGBA", (1500, 1000), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert predict(brightness_model(), [tmp_path / "clear.png"])[0].label == "bright"


def test_more_pictures_than_fit_at_once_keep_their_order(monkeypatch, bright, dark):
    monkeypatch.setattr(command, "AT_ONCE", 2)
    predictions = predict(brightness_model(), [bright, dark, dark, "absent.png", bright])
    assert [p.label for p in predictions] == ["bright", "dark", "dark", None, "bright"]
    assert [p.picture for p in predictions][3:] == ["absent.png", bright]
    assert predictions[3].error == "No such file or directory"


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


def test_a_picture_that_cannot_be_read_fails_in_its_row_and_no_other(
    tmp_path, model, bright, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "bright.png").read_bytes()[:40])
    (tmp_path / "note.txt").write_text("no picture")
    pictures = [str(broken), str(tmp_path / "absent.png"), "./note.txt", str(tmp_path), bright]
    assert main([model, *pictures]) == 1
    out, err = capsys.readouterr()
    reasons = (
        "not a whole picture (",
        "No such file or directory",
        "not a whole picture (cannot identify",
        "a folder: pass its pictures",
    )
    for picture, reason in zip(pictures[:-1], reasons, strict=True):
        row = next(line for line in out.splitlines() if f" {picture} " in line)
        assert f"FAILED: {reason}" in row
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


def test_json_that_cannot_be_written_leaves_the_old_file(
    model, bright, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "old.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([model, bright, "--json", str(path)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert path.read_text() == "old"


def test_json_goes_to_a_file_with_the_source_of_the_training_data(tmp_path, bright, capsys):
    path = str(tmp_path / "model.h5")
    models.save(brightness_model(source="pets: 9 pictures"), path)
    assert main([path, bright, "--json", str(tmp_path / "new.json")]) == 0
    out, err = capsys.readouterr()
    assert "Training data: pets: 9 pictures\n" in out
    assert err == ""
    assert "100.00 %" in out
    result = json.loads((tmp_path / "new.json").read_text())
    assert (result["data"], result["stand_in"]) == ("pets: 9 pictures", False)
    assert result["predictions"][0]["label"] == "bright"


@pytest.mark.filterwarnings("ignore::accelnn.datasets.StandInWarning")
@pytest.mark.usefixtures("nowhere")
def test_a_model_of_stand_ins_says_so_and_names_the_download(bright, capsys):
    cats = datasets.load_cats()
    net = accelnn.Network([12288, 1])
    parts = (cats.classes, cats.preprocessing, cats.source, cats.stand_in)
    models.save(Model(net, net.init(), *parts), "cats.h5")
    assert main(["cats.h5", bright, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["stand_in"]
    assert "warning: the model was trained on stand-ins: its predictions mean nothing" in err
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
        main([model, bright, "--json", str(tmp_path / "absent" / "new.json")])
    assert end.value.code == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_bad_model_is_one_line_of_standard_error(tmp_path, bright, capsys):
    path = tmp_path / "bad.h5"
    net = accelnn.Network([72, 1], output="linear")
    no_classes = "the model does not classify pictures: use it from Python"
    for content, message in (
        (None, "no such file"),
        (b"hello", "is not a model saved by accelnn: the model comes first"),
        (brightness_model(preprocessing=Preprocessing()), no_classes),
        (Model(net, net.init(), (), PICTURES), no_classes),
    ):
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
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    assert main([model, bright, "--backend", "cupy"]) == 1
    monkeypatch.setenv("ACCELNN_BACKEND", "tpu")
    monkeypatch.setattr(backend, "_current", None)
    assert main([model, bright]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("error: CuPy is not installed: pip install")
    assert err[1].startswith("error: ACCELNN_BACKEND: unknown backend 'tpu'")


def test_the_predictions_are_not_written_over_what_the_command_prints(model, bright, tmp_path):
    """As root, /dev/stdout itself would become a file."""
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    for path in (tmp_path / "o.txt", link):
        command_line = [sys.executable, "-m", "accelnn", "predict", model, bright, "--json", path]
        with (tmp_path / "o.txt").open("w") as file:
            done = subprocess.run(command_line, stdout=file, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert f"--json {path}: standard output or error already goes there" in done.stderr
    assert link.is_symlink()


def test_links_in_a_ring_are_an_error_of_their_row(model, tmp_path, capsys):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert main([model, str(tmp_path / "a"), "--json", str(tmp_path / "new.json")]) == 1
    assert "FAILED: Too many levels of symbolic links" in capsys.readouterr().out


def test_the_predictions_are_not_written_over_the_model_or_a_picture(model, bright, capsys):
    for file in (model, bright):
        before = Path(file).read_bytes()
        with pytest.raises(SystemExit) as end:
            main([model, bright, "--json", file])
        assert end.value.code == 2
        assert f"would overwrite {file}" in capsys.readouterr().err
        assert Path(file).read_bytes() == before
