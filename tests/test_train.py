"""`accelnn train`: every recipe, your own data, the files it writes, and what it refuses."""

import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import accelnn
from accelnn import batches, datasets, models, plots, predict, recipes, tables, train
from accelnn.__main__ import main as accelnn_command
from accelnn.cli import results as cli_results
from accelnn.files import write_whole
from accelnn.recipes import RECIPES
from accelnn.solvers import SOLVERS, threads
from accelnn.tours import FIGURES, TOURS

pytestmark = pytest.mark.filterwarnings("default::accelnn.datasets.StandInWarning")


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch, tmp_path):
    """Neither this machine's data nor its user's cache is found."""
    monkeypatch.delenv("ACCELNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    """The trainings in the JSON of a run that must succeed."""
    assert train.main([*map(str, arguments), "--json", "results.json"]) == 0
    with open("results.json") as file:
        return json.load(file)["trainings"]


# --------------------------------------------------------------------------------------------
# recipes


@pytest.mark.slow
def test_every_recipe_trains_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name, recipe in RECIPES.items():
        results = run(name, "--epochs", 3, "--plot", f"{name}.png", "--save", f"{name}.h5")
        assert [r["label"] for r in results] == [label for label, _ in recipe.trainings()]
        output = capsys.readouterr().out
        assert "final cost" in output
        assert "backend numpy on" in output
        pictures = [tmp_path / file for file in re.findall(r"picture: (\S+)", output)]
        assert pictures, name
        for picture in pictures:
            with Image.open(picture) as image:
                assert min(image.size) > 200, picture
        saved = re.findall(r"model: (\S+)", output)
        assert len(saved) == len(results), name
        assert models.load(tmp_path / saved[0]).net.layers == tuple(results[0]["net"]["layers"])


def test_trainings_to_compare_give_what_each_gives_alone():
    for name in ("circles", "football"):
        recipe = replace(RECIPES[name], epochs=30)
        with warnings.catch_warnings(action="ignore"):  # drawn data stands in for football's
            data = recipe.data()
        alone = [(label, one.train(data)[1].costs) for label, one in recipe.trainings()]
        together = [(one["label"], one["costs"]) for one in run(name, "--epochs", 30)]
        assert together == alone, name
    sizes, options = (20, 1, 5), ("--epochs", 30, "--validation", 0.2)
    together = run("planar", "--compare-hidden", *sizes, *options)
    for size, found in zip(sizes, together, strict=True):
        [alone] = run("planar", "--hidden", size, *options)
        assert found["label"].startswith(f"{size} hidden unit")
        assert found | {"label": "", "seconds": 0} == alone | {"seconds": 0}


@pytest.mark.slow
def test_a_tour_prints_and_a_tour_that_draws_is_drawn(tmp_path, capsys):
    assert train.main(["computation-graph"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
    pytest.importorskip("matplotlib")
    for name in FIGURES:
        assert train.main([name, "--plot", "tour.png"]) == 0
        assert capsys.readouterr().out.endswith("picture: tour.png\n")
        with Image.open(tmp_path / "tour.png") as image:
            assert min(image.size) > 200


def test_list_names_every_recipe_and_tour(capsys):
    assert train.main(["--list"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in (*RECIPES, *TOURS))


def test_the_flower_reaches_its_published_accuracy():
    [result] = run("planar")
    assert 0.89 <= result["final_accuracy"] <= 0.91
    assert result["epochs"] == list(range(0, 2000, 20))


@pytest.mark.slow
def test_the_circles_give_the_published_figures():
    results = {r["label"]: r for r in run("circles")}
    scaled = results["1/sqrt(n)"]
    assert round(scaled["costs"][0], 3) == 0.696
    assert (scaled["final_accuracy"], scaled["test_accuracy"]) == (0.99, 0.94)
    zeros = results["zeros"]
    assert (zeros["final_accuracy"], zeros["test_accuracy"]) == (0.5, 0.5)
    assert results["large (x10)"]["costs"][0] > 100
    scaled = run("circles", "--epochs", 14001)[2]
    assert scaled["epochs"][100] == 14000
    assert round(scaled["costs"][100], 3) == 0.131


@pytest.mark.slow
def test_learning_rates_give_the_published_figures(real_data):
    results = run(
        *("cat-logistic", "--data", real_data, "--epochs", 1500),
        *("--learning-rate", 0.01, 0.001, 0.0001),
    )
    accuracies = [(round(r["final_accuracy"], 4), r["test_accuracy"]) for r in results]
    assert accuracies == [(0.9952, 0.68), (0.89, 0.64), (0.6842, 0.36)]


def test_regularisation_is_compared_on_the_football_data(real_data):
    results = run("football", "--data", real_data, "--epochs", 300)
    assert [r["net"]["l2"] for r in results] == [0, 0.7, 0, 0]
    kept = [[1, 1], [1, 1], [0.86, 0.86], [0.6, 1, 0.8]]
    assert [r["net"]["keep_prob"] for r in results] == kept


def test_options_change_the_recipe():
    rate, seed = ("--learning-rate", 0.3), ("--seed", 5)
    [result] = run("planar", "--epochs", 250, *rate, *seed, "--dtype", "float32")
    assert (result["learning_rate"], result["seed"], result["dtype"]) == (0.3, 5, "float32")
    assert result["epochs"] == list(range(0, 250, 2))
    assert result["epochs_run"] == 250


@pytest.mark.slow
def test_hidden_gives_the_sizes_of_the_hidden_layers():
    for recipe, sizes, layers, hidden in (
        ("planar", "6", [2, 6, 1], ["tanh"]),
        ("planar", "6,3", [2, 6, 3, 1], ["tanh", "tanh"]),
        ("cat-logistic", "20,7,5", [12288, 20, 7, 5, 1], ["relu"] * 3),
        ("digits-minibatch", "30", [784, 30, 10], ["relu"]),
    ):
        [result] = run(recipe, "--hidden", sizes, "--epochs", 2)
        assert (result["net"]["layers"], result["net"]["hidden"]) == (layers, hidden)
    # neither weights of zero, which cannot learn, nor scales for another number of layers
    for recipe in (RECIPES["cat-logistic"], RECIPES["planar"]):
        resized = recipe.with_hidden((6, 3))
        assert (resized.init, resized.scale) == ("scaled", None)
    assert RECIPES["planar"].with_hidden((6,)).scale == RECIPES["planar"].scale
    compared = run("circles", "--hidden", "3", "--epochs", 2)
    assert [r["net"]["layers"] for r in compared] == [[2, 3, 1]] * 4


@pytest.mark.slow
def test_one_hidden_layer_of_several_sizes_is_compared():
    for recipe in ("planar", "circles", "cat-logistic"):
        results = run(recipe, "--compare-hidden", 1, 3, "--epochs", 5)
        assert [r["net"]["layers"][1:] for r in results] == [[1, 1], [3, 1]]
        assert [r["label"] for r in results] == ["1 hidden unit", "3 hidden units"]


@pytest.mark.slow
def test_a_recipe_is_minimised_by_either_method_or_trained_by_gradient_descent(capsys):
    [tnc] = run("digits", "--epochs", 5)
    assert "minimised by TNC, without a validation set\n" in capsys.readouterr().out
    [lbfgs] = run("digits", "--epochs", 5, "--method", "L-BFGS-B")
    [descent] = run("digits", "--epochs", 5, "--learning-rate", 2)
    [asked] = run("digits", "--epochs", 5, "--method", "descent")
    assert [r["method"] for r in (tnc, lbfgs, descent)] == ["TNC", "L-BFGS-B", None]
    assert [r["solver"] for r in (tnc, lbfgs)] == ["minimize", "minimize"]
    assert (tnc["learning_rate"], descent["learning_rate"]) == (None, 2)
    assert descent["solver"] in SOLVERS
    assert asked["costs"] == descent["costs"]
    assert "macro average" in capsys.readouterr().out
    [flower] = run("planar", "--method", "TNC", "--epochs", 400)
    assert flower["final_accuracy"] > 0.8
    for option in ("--solver direct", "--batch-size 500", "--validation 0.1"):
        [result] = run("digits", "--epochs", 1, *option.split())
        assert result["method"] is None, option


@pytest.mark.slow
def test_adam_on_mini_batches_learns_the_digits(capsys):
    [result] = run("digits-minibatch", "--dtype", "float32", "--seed", 3)
    assert (result["optimizer"], result["batch_size"]) == ("adam", 128)
    assert result["epochs"] == list(range(10))  # every epoch is recorded
    assert result["test_accuracy"] > 0.9
    assert "adam at 0.001 on batches of 128, solver " in capsys.readouterr().out


@pytest.mark.slow
def test_every_solver_can_be_chosen_and_trains_alike(capsys):
    [direct] = run("planar", "--epochs", 150, "--solver", "direct")
    capsys.readouterr()
    for solver in SOLVERS:
        [result] = run("planar", "--epochs", 150, "--solver", solver)
        assert (result["solver"], result["reason"]) == (solver, "asked for")
        assert f"sgd at 0.5, solver {solver}\n" in capsys.readouterr().out
        assert result["final_cost"] == pytest.approx(direct["final_cost"], rel=1e-9), solver


@pytest.mark.slow
def test_compiled_mini_batches_of_adam_are_those_of_numpy():
    options = ("digits-minibatch", "--epochs", 2, "--batch-size", 500, "--validation", 0.1)
    [compiled, direct] = [run(*options, "--solver", name)[0] for name in ("jitted", "direct")]
    assert (compiled["solver"], direct["solver"]) == ("jitted", "direct")
    for costs in ("costs", "validation_costs"):
        np.testing.assert_allclose(compiled[costs], direct[costs], rtol=1e-7)


def test_the_optimizer_is_the_one_asked_for():
    first_step = {}
    for name in ("sgd", "momentum", "adam"):
        [result] = run("planar", "--epochs", 1, "--optimizer", name, "--learning-rate", 1e-4)
        assert result["optimizer"] == name
        first_step[name] = result["costs"][0] - result["final_cost"]
    # momentum's first average has a tenth of the gradient in it
    assert first_step["momentum"] == pytest.approx(0.1 * first_step["sgd"], rel=0.02)
    assert first_step["adam"] > first_step["sgd"]


@pytest.mark.slow
def test_another_kind_of_optimizer_brings_a_learning_rate_that_suits_it():
    [adam] = run("digits", "--epochs", 2, "--optimizer", "adam")
    assert adam["learning_rate"] == 0.001
    [momentum] = run("planar", "--epochs", 2, "--optimizer", "momentum")
    assert momentum["learning_rate"] == RECIPES["planar"].learning_rate
    [sgd] = run("digits-minibatch", "--epochs", 1, "--optimizer", "sgd")
    assert sgd["learning_rate"] == 0.1
    [given] = run("planar", "--epochs", 2, "--optimizer", "adam", "--learning-rate", 0.3)
    assert given["learning_rate"] == 0.3


def test_the_learning_rate_decays_as_in_the_notes():
    options = ("--epochs", 2, "--learning-rate", 0.5, "--batch-size", 400, "--seed", 4)
    [result] = run("planar", *options, "--decay", 3)
    assert result["decay"] == 3
    recipe, data = RECIPES["planar"].changed(seed=4), datasets.flower()
    given = recipe.net, recipe.first_weights(), data.X_train, data.Y_train
    _, expected = accelnn.fit(*given, epochs=2, learning_rate=lambda epoch: [0.5, 0.125][epoch])
    assert result["final_cost"] == pytest.approx(expected.final_cost, rel=1e-12)


@pytest.mark.slow
def test_verbose_shows_the_net_and_why_a_solver_was_chosen(capsys):
    run("planar", "--epochs", 5)
    assert "(" not in capsys.readouterr().out.split("solver ")[1].split("\n")[0]
    [result] = run("planar", "--epochs", 5, "--verbose")
    output = capsys.readouterr().out
    assert f"solver {result['solver']} ({result['reason']})\n" in output
    assert "net [2, 4, 1] of tanh and sigmoid, first weights normal" in output
    [result] = run("digits", "--epochs", 5, "--verbose")
    assert f"{result['reason']}\n" in capsys.readouterr().out


def test_a_share_of_a_recipes_examples_is_watched_and_not_learned_from(capsys):
    [result] = run("circles", "--validation", 0.2, "--epochs", 250)[2:3]
    assert len(result["validation_costs"]) == len(result["costs"]) == 125
    recipe, data = RECIPES["circles"], datasets.circles()
    (X, Y), watched = batches.split((data.X_train, data.Y_train), 0.2, recipe.seed)
    params, expected = accelnn.fit(
        recipe.net, recipe.first_weights(), X, Y, epochs=250, learning_rate=0.01
    )
    assert result["final_cost"] == pytest.approx(expected.final_cost, rel=1e-9)
    assert result["final_accuracy"] == recipe.net.accuracy(params, X, Y)
    assert result["final_validation_accuracy"] == recipe.net.accuracy(params, *watched)
    assert result["test_accuracy"] == recipe.net.accuracy(params, data.X_test, data.Y_test)
    [heading] = [line for line in capsys.readouterr().out.splitlines() if "epochs" in line]
    assert re.search(r"epochs \W+ final cost .* train .* validation .* test", heading)


def test_a_narrow_table_leaves_out_columns(monkeypatch, capsys):
    for columns, left_out in ((100, ()), (80, ("time",)), (68, ("time", "epochs"))):
        monkeypatch.setenv("COLUMNS", str(columns))
        run("football", "--validation", 0.2, "--epochs", 2)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        [heading] = [line for line in lines if "final cost" in line]
        for name in ("epochs", "train", "validation", "test", "time"):
            assert (f" {name} " in heading) == (name not in left_out), (columns, name)


@pytest.mark.slow
def test_patience_counts_epochs_and_ends_each_training_of_a_comparison_by_itself(capsys):
    results = run(
        *("circles", "--epochs", 300, "--batch-size", 32, "--optimizer", "momentum"),
        *("--validation", 0.2, "--patience", 2),
    )
    zeros = results[0]
    assert zeros["stopped"].startswith("patience")
    assert zeros["epochs_run"] < 300
    for result in results:
        lowest = min(result["validation_costs"])
        assert result["final_validation_cost"] <= lowest * (1 + 1e-9)
    output = " ".join(capsys.readouterr().out.split())
    stopped = f"stopped after {zeros['epochs_run']} epochs: no lower validation cost for 2 epochs"
    best = zeros["epochs"][zeros["validation_costs"].index(zeros["final_validation_cost"])]
    assert f"zeros: {stopped}; the weights of epoch {best} are scored and saved" in output
    assert re.search(rf"zeros \W+{zeros['epochs_run']} ", output)


def test_a_line_that_holds_for_all_trainings_is_printed_once(capsys):
    run("football", "--epochs", 2, "--solver", "direct")
    assert capsys.readouterr().out.count("solver direct") == 1
    run("circles", "--epochs", 2, "--learning-rate", 0.1, 0.2)
    captured = capsys.readouterr()
    assert "learning rate 0.1: sgd at 0.1" in captured.out
    assert "learning rate 0.2: sgd at 0.2" in captured.out
    assert captured.err == ""  # it is no terminal: no progress


def in_terminal(arguments, until, act=lambda _process: None):
    """The exit status and the standard error of a command in a terminal 80 columns wide; `act` is
    called with the process when `until` appears."""
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "accelnn", *map(str, arguments)],
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
                if until is not None and until in shown:
                    act(process)
                    until = None
        except OSError:  # the terminal's other end is closed: the process has ended
            pass
        process.wait(timeout=60)
    os.close(ours)
    return process.returncode, re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()


@pytest.mark.slow
def test_a_bar_shows_percentage_costs_and_time_in_a_terminal():
    options = ("--validation", 0.1, "--epochs", 200, "--solver", "direct")
    status, shown = in_terminal(["train", "planar", *options], None)
    assert status == 0
    assert re.search(r"planar .* 100% cost \d\.\d{4}, validation .*\(.*%\) 0:00:0\d", shown)
    status, shown = in_terminal(["train", "football", *options], None)
    assert status == 0
    assert re.search(r"trainings .* 100% 4 of 4 0:00:0\d", shown)
    status, shown = in_terminal(["train", "digits", "--epochs", 10], None)
    assert status == 0
    assert re.search(r"digits .* 100% cost \d\.\d{4} 0:00", shown)


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every call of the functions that draw, by the function's name."""
    pytest.importorskip("matplotlib")
    calls = {}
    for name in ("costs", "comparison", "misclassified", "hidden_layer", "pictures"):
        real = getattr(plots, name)

        def record(*arguments, name=name, real=real, **options):
            calls[name] = inspect.signature(real).bind(*arguments, **options).arguments
            return real(*arguments, **options)

        monkeypatch.setattr(plots, name, record)
    return calls


@pytest.mark.slow
def test_the_validation_costs_are_drawn_beside_the_costs(drawn):
    options = ("--epochs", 2, "--validation", 0.1, "--plot", "x.png")
    [result] = run("cat-logistic", *options)
    curves = drawn["costs"]["curves"]
    assert list(curves) == ["training", "validation"]
    assert curves["validation"] == (result["epochs"], result["validation_costs"])
    run("cat-logistic", *options, "--learning-rate", 0.01, 0.001)
    curves = drawn["costs"]["curves"]
    assert list(curves)[:2] == ["learning rate 0.01", "learning rate 0.01, validation"]


@pytest.mark.slow
def test_every_picture_names_its_training_and_says_if_its_data_are_stand_ins(drawn, capsys):
    run("circles", "--epochs", 2, "--plot", "x.png")
    assert drawn["comparison"]["title"] == "circles"
    run("digits", "--epochs", 2, "--plot", "x.png", "--compare-hidden", 2, 3)
    assert drawn["costs"]["title"] == "digits"
    assert drawn["hidden_layer"]["title"] == "digits: 3 hidden units"
    capsys.readouterr()
    run("cat-2layer", "--epochs", 2, "--plot", "x.png", "--show", 7)
    assert drawn["misclassified"]["title"] == "cat-2layer, drawn stand-ins, test set"
    assert drawn["pictures"]["title"] == "cat-2layer, drawn stand-ins"
    assert re.search(r"\npicture 7: (non-)?cat, predicted (non-)?cat", capsys.readouterr().out)
    run("cat-2layer", "--epochs", 2, "--show", 7, "--compare-hidden", 2, 3)
    assert re.search(r"\n3 hidden units picture 7: (non-)?cat", capsys.readouterr().out)


@pytest.mark.usefixtures("double")
def test_a_recipe_trains_on_the_device():
    [result] = run("planar", "--epochs", 20, "--dtype", "float64")
    assert (result["backend"], result["device"]) == ("cupy", "device double")
    with accelnn.use("numpy"):
        [host] = run("planar", "--epochs", 20)
    np.testing.assert_allclose(result["costs"], host["costs"], rtol=1e-12)


# --------------------------------------------------------------------------------------------
# your own data


@pytest.fixture
def pictures(tmp_path):
    """Red and blue pictures of several sizes, a folder each."""
    random = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2)):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 90, (20 + i, 30, 3)).astype(np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{i}.png")
    return tmp_path / "mine"


def test_pictures_are_trained_saved_and_predicted(pictures, capsys):
    [result] = run("--images", pictures, "--hidden", 5, "--save", "mine.h5")
    assert result["net"]["layers"] == [64 * 64 * 3, 5, 1]
    assert result["final_accuracy"] == 1
    capsys.readouterr()
    files = [str(pictures / name / "0.png") for name in ("red", "blue")]
    assert predict.main(["mine.h5", *files]) == 0
    output = capsys.readouterr().out
    assert re.search(r"red/0.png\W+red", output)
    assert re.search(r"blue/0.png\W+blue", output)


@pytest.fixture
def flowers(tmp_path):
    """The options for a table of three species."""
    random = np.random.default_rng(0)
    rows = ["width,height,species"]
    for species, centre in (("a", 0), ("b", 5), ("c", 10)):
        rows += [f"{x},{1000 * x},{species}" for x in random.normal(centre, 0.5, 20)]
    (tmp_path / "flowers.csv").write_text("\n".join(rows))
    return ("--csv", "flowers.csv", "--target", "species")


def test_a_table_is_split_three_ways_each_named_for_what_it_is(flowers, capsys):
    shares = ("--validation", 0.2, "--test", 0.3)
    [result] = run(*flowers, "--hidden", "8", *shares, "--save", "m.skops")
    output = capsys.readouterr().out
    sets = "sets: 2 features, 3 classes, 30 training, 12 validation, 18 test examples"
    assert f"data: flowers.csv, split by seed 0\n{sets}\n" in output
    assert "net [2, 8, 3]\n" in output
    data = datasets.load_csv("flowers.csv", "species", validation=0.2, test=0.3)
    model = tables.load("m.skops")
    sets = {
        "final_accuracy": (data.X_train, data.Y_train),
        "final_validation_accuracy": (data.X_validation, data.Y_validation),
        "test_accuracy": (data.X_test, data.Y_test),
    }
    scaling = data.preprocessing
    for name, (X, Y) in sets.items():
        rows = pd.DataFrame(X.T * scaling.scale + scaling.shift, columns=["width", "height"])
        assert result[name] == model.score(rows, np.array(data.classes)[Y])
        assert f" {result[name]:.2%} " in output
    assert model[0].source == "flowers.csv"
    assert len(result["validation_costs"]) == len(result["costs"])
    assert result["stopped"] is None or result["stopped"].startswith("patience")
    assert result["net"]["layers"] == [2, 8, 3]
    assert result["net"]["output"] == "softmax"
    assert result["final_accuracy"] > 0.95


def test_the_error_without_a_target_names_the_columns(flowers, capsys):
    assert_refused(" ".join(flowers[:2]), "COLUMN, one of width,height,species\n", capsys)


def test_the_seed_in_the_results_reproduces_split_weights_and_batches(flowers):
    def trained(*seed):
        [result] = run(*flowers, "--epochs", 3, *seed)
        names = ("data", "seed", "costs", "validation_costs", "final_cost", "test_accuracy")
        with open("results.json") as file:
            result["data"] = json.load(file)["data"]
        return {name: result[name] for name in names}

    default = trained()
    assert default == trained("--seed", default["seed"])
    assert "seed 0" in default["data"]
    other = trained("--seed", 1)
    assert (other["seed"], other["data"]) == (1, default["data"].replace("seed 0", "seed 1"))
    assert other["costs"] != default["costs"]


def test_a_table_is_trained_on_all_of_it_and_by_other_nets(flowers):
    [whole] = run(*flowers, "--validation", 0, "--test", 0, "--epochs", 2)
    assert (whole["validation_costs"], whole["test_accuracy"]) == ([], None)
    [deep] = run(*flowers, "--hidden", "8,4", "--epochs", 2, "--optimizer", "sgd")
    assert (deep["net"]["layers"], deep["learning_rate"]) == ([2, 8, 4, 3], 0.1)
    compared = run(*flowers, "--compare-hidden", 2, 3, "--epochs", 2)
    assert [r["net"]["layers"] for r in compared] == [[2, 2, 3], [2, 3, 3]]


def test_a_table_is_minimised_on_all_that_is_not_for_the_test(flowers, capsys):
    [result] = run(*flowers, "--method", "TNC", "--epochs", 10)
    assert (result["validation_costs"], result["learning_rate"]) == ([], None)
    output = capsys.readouterr().out
    assert "3 classes, 51 training, 9 test examples" in output
    assert "minimised by TNC, without a validation set" in output
    assert "| evaluations |" in output


def test_the_help_has_the_defaults_for_own_data(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    smaller, larger = re.search(r"By default (.*) 10,000 training examples (.*)", words).groups()
    for m, described in ((60, smaller), (12_000, larger)):
        recipe = recipes.own_recipe(datasets.blobs(m=m, classes=3))
        hidden = ",".join(map(str, recipe.net.layers[1:-1]))
        assert f"--hidden {hidden}" in described
        assert f"at most {recipe.epochs} epochs in batches of {recipe.batch_size}" in described
    assert f"{recipe.optimizer} at {recipe.learning_rate}" in smaller


def test_scores_by_class_are_of_a_single_training_or_verbose(flowers, capsys):
    compare = (*flowers, "--compare-hidden", 2, 3, "--epochs", 2)
    single, verbose = (*flowers, "--epochs", 2), (*compare, "--verbose")
    for arguments, count in ((single, 1), (compare, 0), (verbose, 2)):
        run(*arguments)
        assert capsys.readouterr().out.count("on the test set") == count


def test_an_hdf5_file_is_trained(tmp_path, capsys):
    random = np.random.default_rng(0)
    labels = np.arange(20) % 2
    bright = 160 * labels[:, None, None, None].astype(np.uint8)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["train_set_x"] = random.integers(0, 90, (20, 8, 8, 3), np.uint8) + bright
        file["train_set_y"] = labels
        file["list_classes"] = np.array([b"dark", b"bright"])
    capsys.readouterr()
    [result] = run("--hdf5", "mine.h5", "--validation", 0.3, "--hidden", 9, "--epochs", 300)
    assert result["net"]["layers"] == [192, 9, 1]
    assert result["final_accuracy"] == 1
    output = capsys.readouterr().out
    assert "192 features (colour pictures of 8 x 8), 2 classes, " in output
    assert "on the test set" in output


def test_a_title_in_a_picture_of_your_own_data_is_the_file(flowers, drawn):
    run(*flowers, "--epochs", 2, "--hidden", 1, "--plot", "x.png")
    assert drawn["comparison"]["title"] == "flowers.csv"
    assert list(drawn["comparison"]["trainings"]) == ["1 hidden unit"]


# --------------------------------------------------------------------------------------------
# what goes wrong


USAGE = {  # what the error says, by the command's arguments
    "": "expected one of RECIPE",
    "planar --csv x.csv": "expected one of RECIPE",
    "nope": "unknown recipe nope: expected a name from --list",
    "numpy-basics --epochs 3": "--epochs does nothing for numpy-basics",
    "numpy-basics --plot x.png": "--plot does nothing for numpy-basics",
    "planar --optimizer rmsprop": "argument --optimizer",
    "planar --solver magic": "argument --solver",
    "planar --method newton": "argument --method",
    "planar --batch-size 1.5": "expected an integer from 1 to 2**32 - 1, got '1.5'",
    "planar --patience 0": "expected an integer from 1 to 2**32 - 1, got '0'",
    "planar --seed 4294967296": "expected an integer from 0 to 2**32 - 1",
    "planar --epochs -1": "argument --epochs",
    "planar --decay 0": "argument --decay",
    "planar --learning-rate nan": "argument --learning-rate",
    "planar --validation nan": "argument --validation",
    "--images . --test 1": "argument --test",
    "planar --data .": "--data does nothing for planar",
    "planar --target y": "--target does nothing for planar",
    "planar --test 0.1": "--test does nothing for planar",
    "--images . --data .": "--data does nothing for your own data",
    "--csv x.csv": "--csv needs --target COLUMN",
    "--parquet x.parquet": "--parquet needs --target COLUMN",
    "--images . --target y": "--target goes with --csv or --parquet",
    "--images . --folds 5": "--folds goes with --csv or --parquet",
    "planar --task regression": "--task does nothing for planar",
    "--csv x.csv --target y --task ranking": "argument --task",
    "--csv x.csv --target y --folds 1": "expected an integer from 2",
    "--csv x.csv --target y --folds 5 --save x.skops": "--save does nothing with --folds",
    "--csv x.csv --target y --save x.h5": "a table's model is a .skops file, such as x.skops",
    "planar --keep-prob 0": "argument --keep-prob",
    "planar --l2 -1": "argument --l2",
    "planar --class-weight 3": "argument --class-weight",
    "planar --hidden 2,": "expected an integer from 1 to 2**32 - 1, got ''",
    "planar --hidden 2 3": "sizes with commas, such as --hidden 8,8",
    "--hidden 8 8 --csv x.csv": "sizes with commas, such as --hidden 8,8",
    "planar 3": "unrecognized arguments: 3",
    "planar --compare-hidden 2 --hidden 2": "goes neither with --hidden",
    "planar --compare-hidden 2 --learning-rate 1 2": "nor with several",
    "planar --save nowhere/x.h5": "there is no folder nowhere",
}


def assert_refused(arguments, message, capsys):
    """The options are refused before anything is loaded."""
    with pytest.raises(SystemExit) as end:
        train.main(arguments.split())
    assert end.value.code == 2, arguments
    assert message in capsys.readouterr().err, arguments


def test_options_that_make_no_sense_end_at_once(capsys):
    for arguments, message in USAGE.items():
        assert_refused(arguments, message, capsys)


def test_no_file_is_written_over_the_data_or_another(tmp_path, capsys):
    for folder in ("sub", "pets/cat"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("t.csv", "v.h5", "pets/cat/1.png"):
        (tmp_path / file).write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to("t.csv")
    (tmp_path / "hard.h5").hardlink_to(tmp_path / "t.csv")
    table = "--csv t.csv --target y"
    for arguments, message in {
        f"{table} --save t.csv": "--save t.csv is the same file as --csv t.csv",
        f"{table} --json ./t.csv": "--json t.csv is the same file as --csv",
        f"{table} --plot link.png": "--plot link.png is the same file as --csv",
        "--csv link.png --target y --save hard.h5": "--save hard.h5 is the same file as --csv",
        "--hdf5 v.h5 --save v.h5": "--save v.h5 is the same file as --hdf5 v.h5",
        "--images pets --save pets/cat/1.png": "--save pets/cat/1.png is in the folder --images",
        "planar --save x --json x": "--json x is the same file as --save x",
        "planar --json x.png --plot sub/../x.png": "--plot sub/../x.png is the same file as --js",
    }.items():
        assert_refused(arguments, message, capsys)
    assert (tmp_path / "t.csv").read_bytes() == b"mine"


ERRORS = {  # what the error says, by the command's arguments
    "cat-2layer --data nowhere": "nowhere",
    "football --hidden 3": "'dropout by layer' has layers of its own",
    "planar --show 3": "--show needs pictures",
    "cat-2layer --show 999": "expected a training picture in 0..208",
    "football --method TNC": "dropout, keep 0.86: expected keep_prob=1",
    "planar --patience 3": "patience watches the validation cost",
    "circles --patience 3": "zeros: patience watches the validation cost",
    "circles --solver gram --optimizer adam": "zeros: solver='gram' cannot",
    "planar --solver gram --batch-size 8": "needs full batches",
    "digits-minibatch --solver gram": "needs full batches",
    **{
        f"digits --method TNC {option}": f"{option.split()[0]} is for gradient descent"
        for option in (
            *("--batch-size 8", "--optimizer adam", "--decay 1", "--patience 1"),
            *("--validation 0.1", "--learning-rate 3", "--solver direct"),
        )
    },
    "ex4-weights --data nowhere": "nowhere/ex4data1.mat: no such file",
    "--images nowhere": "nowhere",
    "--csv nowhere.csv --target y": "nowhere.csv",
    "planar --backend cupy": "CuPy",
    "planar --plot x.gif": "x.gif: expected a picture's name to end in .png, .pdf or .svg",
}


def test_errors_are_one_line_before_any_training(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    real = accelnn.fit

    def fit(*args, epochs, **options):
        assert epochs == 0 or name not in ("circles", "football")
        return real(*args, epochs=epochs, **options)

    monkeypatch.setattr(recipes, "fit", fit)
    for arguments, message in ERRORS.items():
        name = arguments.split()[0]
        assert train.main(arguments.split()) == 1, arguments
        *warned, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ")
        assert message in error, arguments
        assert all(line.startswith("warning: ") for line in warned), arguments


def test_without_matplotlib_recipes_train_and_a_plot_is_an_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run("planar", "--epochs", 2)
    assert train.main(["planar", "--epochs", "2", "--plot", "x.png"]) == 1
    assert re.search(r"pip install .*\[plot\]", capsys.readouterr().err)


@pytest.mark.filterwarnings("default")
def test_without_a_gpu_the_environments_choice_is_one_warning_and_the_cpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy")
    assert train.main(["planar", "--epochs", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: ACCELNN_BACKEND=cupy, but CuPy is not installed") == 1
    assert "backend numpy" in captured.out


@pytest.mark.filterwarnings("default")
def test_divergence_is_reported_and_its_json_is_valid(capsys):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    arguments = ["cat-logistic", "--learning-rate", "1e308", "--epochs", "3", "--json", "-"]
    assert train.main(arguments) == 0
    captured = capsys.readouterr()
    assert "diverged" in captured.err
    [result] = json.loads(captured.out, parse_constant=refuse)["trainings"]
    assert result["final_cost"] is None


@pytest.mark.filterwarnings("default")
def test_a_model_that_cannot_be_saved_is_reported_and_the_other_files_are_written(tmp_path, capsys):
    arguments = ["planar", "--epochs", "300", "--learning-rate", "1e308"]
    assert train.main([*arguments, "--save", "m.h5", "--json", "r.json"]) == 1
    assert "error: model m.h5" in capsys.readouterr().err
    assert json.loads((tmp_path / "r.json").read_text())["trainings"][0]["final_cost"] is None
    assert not (tmp_path / "m.h5").exists()


def test_files_that_cannot_be_written_are_refused_before_training(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pictures, long = tmp_path / "m-learning-rate-0.1.h5", "x" * 240
    with h5py.File(pictures, "w") as file:
        for part, m in (("train", 40), ("test", 10)):
            file[f"{part}_set_x"] = np.zeros((m, 8, 8, 3), np.uint8)
            file[f"{part}_set_y"] = np.arange(m) % 2
        file["list_classes"] = np.array([b"a", b"b"])
    before = pictures.read_bytes()
    monkeypatch.setattr(recipes, "fit", lambda *_, **__: pytest.fail("it trains"))
    for arguments, message in (
        (["planar", "--learning-rate", "0.1", "0.2", "--save", f"{long}.h5"], "name too long"),
        (["cat-logistic", "--plot", f"{long}.png"], "name too long"),
        (
            ["--hdf5", str(pictures), "--learning-rate", "0.1", "0.2", "--save", "m.h5"],
            "m-learning-rate-0.1.h5 would overwrite the data: name another file",
        ),
    ):
        assert train.main(arguments) == 1, message
        assert message in capsys.readouterr().err
    assert pictures.read_bytes() == before


def test_what_a_terminal_would_obey_is_not_printed(tmp_path, capsys):
    names = "a\u202ecat", "\u2066dog"
    rows = (f"{i},{-i},{names[i % 2]}" for i in range(60))
    (tmp_path / "\x1b[1m.csv").write_text("\n".join(("a,\x1b[5mb,class", *rows)))
    arguments = ["--csv", "\x1b[1m.csv", "--target", "class", "--epochs", "2"]
    assert train.main(arguments) == 0
    with pytest.raises(SystemExit):
        train.main(arguments[:2])
    assert train.main([*arguments[:3], "absent"]) == 1
    out, err = capsys.readouterr()
    assert "a?cat" in out
    assert "data: ?[1m.csv" in out
    assert "one of a,?[5mb,class" in err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]", out + err)


def test_a_folder_in_a_files_place_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    for option in ("--json", "--save", "--plot"):
        assert_refused(f"planar {option} folder.png", "no regular file", capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_file_that_cannot_be_written_leaves_no_part_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole("text", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def interrupt(monkeypatch, training, epoch):
    """Make Ctrl-C come in the given call of `fit`, at that epoch."""
    real, calls = accelnn.fit, []

    def press(now):
        if now.epoch >= epoch:
            raise KeyboardInterrupt

    def fit(*args, callbacks=(), **options):
        if options["epochs"]:  # it is no check of what can run
            calls.append(options)
        pressed = [press] * (len(calls) == training)
        return real(*args, callbacks=[*callbacks, *pressed], **options)

    monkeypatch.setattr(recipes, "fit", fit)


def test_the_files_are_written_before_anything_is_printed(monkeypatch, tmp_path):
    def broken_pipe(*_):
        raise BrokenPipeError

    monkeypatch.setattr(cli_results.Report, "show", broken_pipe)
    files = ("--save", "m.h5", "--json", "r.json", "--plot", "p.png")
    assert train.main(["planar", "--epochs", "2", *files]) == 1
    assert models.load(tmp_path / "m.h5").net.layers == (2, 4, 1)
    assert json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert (tmp_path / "p.png").exists()


def test_the_model_is_saved_before_the_final_costs_are_formed(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_results, "_as_dict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.main(["planar", "--epochs", "2", "--save", "m.h5", "--json", "r.json"])
    assert models.load(tmp_path / "m.h5").net.layers == (2, 4, 1)


def test_ctrl_c_loses_nothing(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    interrupt(monkeypatch, training=1, epoch=40)
    files = ("--json", "r.json", "--save", "m.h5", "--plot", "p.png")
    assert train.main(["planar", "--validation", "0.1", *files]) == 130
    captured = capsys.readouterr()
    assert captured.err == "Interrupted.\n"
    [result] = json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert (result["stopped"], result["epochs"]) == ("interrupted", [0, 20, 40])
    assert result["costs"][-1] < result["costs"][0]
    assert f"interrupted after {result['epochs_run']} of 2,000 epochs" in captured.out
    model, data = models.load("m.h5"), datasets.flower()
    accuracy = model.net.accuracy(model.params, data.X_test, data.Y_test)
    assert accuracy == result["test_accuracy"]
    assert (tmp_path / "p.png").exists()


def press_together(monkeypatch, place, error):
    """Make one of the trainings of `fit_many` raise an error at epoch 1, on one core."""
    real = accelnn.fit_many

    def fail(now):
        if now.epoch == 1:
            raise error

    def fit_many(nets, *args, **options):
        callbacks = [[fail] * (i == place) for i in range(len(nets))]
        return real(nets, *args, callbacks=callbacks, **options)

    monkeypatch.setattr(recipes, "fit_many", fit_many)
    monkeypatch.setattr(threads, "cores", lambda: 1)


def test_ctrl_c_keeps_the_trainings_before_it_and_begins_none_after(monkeypatch, capsys, tmp_path):
    press_together(monkeypatch, 2, KeyboardInterrupt())
    assert train.main(["circles", "--epochs", "4", "--json", "r.json"]) == 130
    captured = capsys.readouterr()
    assert captured.err == "Interrupted.\n"
    assert "1/sqrt(n): interrupted after 2 of 4 epochs" in captured.out
    trainings = json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert [training["label"] for training in trainings] == ["zeros", "large (x10)", "1/sqrt(n)"]
    assert [training["stopped"] for training in trainings] == [None, None, "interrupted"]


def test_an_error_in_a_training_to_compare_keeps_the_others(monkeypatch, capsys, tmp_path):
    press_together(monkeypatch, 1, MemoryError("no room"))
    assert train.main(["circles", "--epochs", "4", "--json", "r.json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: 1 of 4 trainings failed")
    assert captured.err.endswith("training 2: MemoryError: no room\n")
    trainings = json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert [training["label"] for training in trainings] == ["zeros", "1/sqrt(n)", "He"]
    assert "large (x10)" not in captured.out


def test_ctrl_c_before_the_first_epoch_leaves_no_files(monkeypatch, capsys, tmp_path):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "fit", interrupted)
    assert train.main(["planar", "--json", "r.json"]) == 130
    assert capsys.readouterr() == ("", "Interrupted.\n")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_minimiser_with_what_it_has(monkeypatch, capsys, tmp_path):
    real = accelnn.minimize

    def press(now):
        if now.epoch == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "minimize", lambda *a, **b: real(*a, **b | {"callbacks": [press]}))
    assert train.main(["digits", "--epochs", "20", "--json", "r.json"]) == 130
    [result] = json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert result["final_cost"] < result["costs"][0]
    assert "interrupted after 6 of 20 evaluations" in capsys.readouterr().out


def test_a_real_ctrl_c_saves_and_ends_without_a_traceback(tmp_path):
    arguments = ("train", "planar", "--epochs", 10**7, "--solver", "direct", "--json", "r.json")
    status, shown = in_terminal(
        arguments, b"cost ", lambda process: process.send_signal(signal.SIGINT)
    )
    assert status == 130
    assert "Interrupted." in shown
    assert "Traceback" not in shown
    [result] = json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert result["stopped"] == "interrupted"
    assert 0 < result["epochs_run"] < 10**7


def test_a_second_ctrl_c_ends_at_once(monkeypatch, tmp_path):
    def scoring(*_):
        raise KeyboardInterrupt

    interrupt(monkeypatch, training=1, epoch=40)
    monkeypatch.setattr(cli_results.Result, "test_score", scoring)
    assert accelnn_command(["train", "planar", "--json", "r.json"]) == 130
    assert not (tmp_path / "r.json").exists()


def test_the_command_leaves_no_choice_of_backend_behind():
    import warnings

    shown = warnings.showwarning
    run("planar", "--epochs", 1, "--backend", "auto")
    assert accelnn.backend._current is None
    assert warnings.showwarning is shown


def test_the_command_goes_on_from_its_checkpoint(monkeypatch, capsys, tmp_path):
    arguments = ["planar", "--epochs", "60", "--checkpoint", "run.h5"]
    interrupt(monkeypatch, training=1, epoch=40)
    assert train.main(arguments) == 130
    message = "Interrupted: saved in run.h5; the same command with --resume goes on\n"
    assert capsys.readouterr().err == message
    assert train.main(arguments) == 1
    assert "run.h5 exists: go on from it by resume=True, or --resume" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert train.main([*arguments, "--resume", "--save", "resumed.h5"]) == 0
    assert train.main(["planar", "--epochs", "60", "--save", "whole.h5"]) == 0
    resumed, whole = models.load("resumed.h5"), models.load("whole.h5")
    np.testing.assert_array_equal(resumed.params.flat, whole.params.flat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "planar --resume": "--resume goes with --checkpoint FILE",
        "planar --checkpoint-every 9": "--checkpoint-every goes with --checkpoint FILE",
        "planar --checkpoint r.h5 --checkpoint-every x": 'seconds above 0, or such as "10 epochs"',
        "digits --checkpoint r.h5": "for one training by gradient descent, not for --method TNC",
        "circles --checkpoint r.h5": "for one training by gradient descent, not for 4 trainings",
        "numpy-basics --checkpoint r.h5": "--checkpoint does nothing for numpy-basics",
        "planar --checkpoint no/r.h5": "there is no folder no",
    }.items(),
)
def test_checkpoints_that_cannot_be_are_refused(arguments, message, capsys):
    try:
        status = train.main(arguments.split())
    except SystemExit as refused:
        status = refused.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err
