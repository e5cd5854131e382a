"""The benchmark: what it measures is right, what it says is true, and it never loses rows."""

import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from doubles import device as device_double
from threadpoolctl import threadpool_limits

from accelnn.backend import CupyBackend, NumpyBackend, why_not
from accelnn.bench import cases, growth, machine, notes, pages, report, runner, timing, trainings
from accelnn.bench.records import Record, Report, Skip, TrainingRecord, crossings
from accelnn.bench.trainings import TRAININGS, TrainingCase
from accelnn.cli import bench as command
from accelnn.cli.bench import GPU_TRAININGS, main
from accelnn.cli.console import console
from accelnn.gpus import Gpu
from accelnn.kernels import loops
from accelnn.network import Network, Parameters

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGES = [*REPOSITORY.glob("README*.md"), *REPOSITORY.glob("*/*.md")]
# the fields of schema 1, which readers of the JSON rely on
RECORD_FIELDS = {
    *("case", "implementation", "backend", "device", "dtype", "threads", "size", "status"),
    *("reason", "seconds", "seconds_min", "seconds_max", "repeats", "compile_seconds"),
    *("transfer_seconds", "end_to_end_seconds", "gb_per_s", "gflop_per_s", "share_of_limit"),
    "max_rel_error",
}
TRAINING_FIELDS = RECORD_FIELDS | {
    *("solver", "precision", "epochs", "epochs_measured", "optimizer", "batch_size", "steps"),
    *("data", "final_cost", "cost_difference", "train_accuracy", "test_accuracy"),
}


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """Limits that need no measuring, and no rests: these tests are not about speed."""
    limits = {"stream_gb_per_s": 20.0, "matmul_gflop_per_s": 50.0}
    limits["matmul_float32_gflop_per_s"] = 100.0
    monkeypatch.setattr(machine, "limits", lambda *_args, **_options: dict(limits))
    monkeypatch.setattr(timing, "REST", 0.0)
    with threadpool_limits(1):  # two threads that wait for one another are slow beside other work
        yield


@pytest.fixture
def whole(monkeypatch):
    """Time for whole trainings, each once."""
    monkeypatch.setattr(command, "QUICK", (1, 0.1, 60.0, 1.0))


def bench(*arguments, capsys):
    """Exit status and records of one run."""
    status = main([*arguments, "--quick", "--json", "-"])
    return status, strict_json(capsys.readouterr().out)["records"]


def strict_json(text):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def by_implementation(records):
    return {record["implementation"]: record for record in records}


def train(case, *names, capsys):
    """Exit status and records of one training."""
    arguments = ("train", "--case", case, "--implementation", *names)
    status, records = bench(*arguments, capsys=capsys)
    assert [record["implementation"] for record in records] == list(names)
    return status, records


def case_of(name, limits=()):
    return TrainingCase(name, TRAININGS[name], "float64", dict(limits))


def shorten(monkeypatch, name, epochs):
    training = TRAININGS[name]
    recipe = training.recipe.changed(epochs=epochs)
    monkeypatch.setitem(TRAININGS, name, dataclasses.replace(training, recipe=recipe))


# --------------------------------------------------------------------------------------------
# records


def test_operations_are_recorded_with_every_field(capsys):
    status, records = bench("ops", "--size", "15", "33", capsys=capsys)
    assert status == 0
    assert len(records) == 5 * 2 * 6
    for record in records:
        assert set(record) == RECORD_FIELDS
        assert record["size"] in ({"n": 15}, {"n": 33})
        if record["implementation"] == "cupy":
            assert record["status"] == "skipped"
            assert "CuPy" in record["reason"]
            continue
        assert record["status"] == "ok"
        assert 0 < record["seconds_min"] <= record["seconds"] <= record["seconds_max"]
        assert 1 <= record["repeats"] <= 3
        assert record["max_rel_error"] < 1e-13
        assert (record["gb_per_s"] is None) == (record["case"] == "matmul")
        if record["case"] == "dot":
            moved = 8 * (2 * record["size"]["n"] + 1)
            assert record["gb_per_s"] == pytest.approx(moved / record["seconds"] / 1e9)
        assert (record["gflop_per_s"] is None) == (record["case"] != "matmul")
        assert (record["compile_seconds"] is None) == ("numba" not in record["implementation"])
        # what fits the cache is not limited by the memory's rate
        assert (record["share_of_limit"] is None) == (record["case"] != "matmul")


@pytest.mark.usefixtures("whole")
def test_a_training_is_recorded_with_every_field_and_the_same_outcome_for_all(capsys):
    names = ("numba", "notes", "numpy", "accelnn")
    status, records = train("planar", *names, capsys=capsys)
    assert status == 0
    for record in records:
        assert set(record) == TRAINING_FIELDS
        assert (record["status"], record["data"]) == ("ok", "real")
        assert record["epochs"] == record["epochs_measured"] == 2000
        assert record["max_rel_error"] < 1e-12
        assert record["final_cost"] == pytest.approx(records[0]["final_cost"], rel=1e-9)
        assert abs(record["cost_difference"]) < 1e-9
        assert (record["optimizer"], record["batch_size"], record["steps"]) == ("sgd", None, 2000)
        assert record["train_accuracy"] == pytest.approx(0.9, abs=0.02)
    assert by_implementation(records)["numpy"]["solver"] == "direct"


def test_mini_batches_are_trained_whole_and_set_against_their_products(monkeypatch, capsys):
    shorten(monkeypatch, "minibatch-1024-sgd", epochs=2)
    names = ("numpy", "accelnn", "products")
    status, records = train("minibatch-1024-sgd", *names, capsys=capsys)
    assert status == 0
    for record in records:
        assert set(record) == TRAINING_FIELDS
        assert (record["status"], record["dtype"]) == ("ok", "float32")
        assert record["steps"] == 2 * 4  # 4,000 digits
        assert record["epochs_measured"] == 2
        assert (record["final_cost"] is None) == (record["implementation"] == "products")
        assert record["precision"] == "float32"


def test_one_training_of_several_seeds_reports_their_mean_accuracy(monkeypatch, capsys):
    shorten(monkeypatch, "digits-mlp", epochs=1)
    monkeypatch.setattr(command, "QUICK", (5, 0.1, 60.0, 1.0))
    _, [record] = train("digits-mlp", "accelnn", capsys=capsys)
    assert record["repeats"] == 5
    found = re.fullmatch(r"test accuracy of 5 seeds (\d+\.\d+)% to (\d+\.\d+)%", record["reason"])
    least, most = (float(text) / 100 for text in found.groups())
    assert least < record["test_accuracy"] < most


def test_a_training_in_sample_space_has_no_rate():
    case = case_of("planar", {"numpy": {"matmul_gflop_per_s": 50.0}})
    contestant = case.prepare("numpy", seconds=1.0, repeat=1)
    for implementation, solver, rated in (
        ("accelnn", "gram-jitted", False),
        ("accelnn-cupy", "gram", False),
        ("torch-gram", "eager", False),
        ("accelnn", "jitted", True),
        ("numpy", "direct", True),
    ):
        contestant.name, contestant.facts = implementation, {"solver": solver}
        contestant.done = case.recipe.epochs
        record = case.record(implementation)
        record.backend = "numpy"
        record.set_times([1e-3])
        contestant.finish(record)
        assert record.in_sample_space is not rated, implementation
        has_rate = record.gflop_per_s is not None
        assert has_rate is (record.share_of_limit is not None) is rated, implementation


@pytest.mark.usefixtures("whole")
def test_an_implementation_that_ends_at_a_higher_cost_is_wrong(monkeypatch, capsys):
    right = notes.model

    def idle(X, Y, named, activations, epochs, rate, lambd):
        return right(X, Y, named, activations, max(1, epochs - 1), rate, lambd)

    monkeypatch.setattr(notes, "model", idle)
    status, records = train("planar", "notes", "numpy", capsys=capsys)
    assert status == 1
    assert [record["status"] for record in records] == ["wrong", "ok"]
    assert "exceeds that of numpy" in records[0]["reason"]
    assert records[0]["seconds"] is None


def test_growth_records_every_solver_and_what_auto_picked(monkeypatch, capsys):
    small = [growth.growing("features", n, (n, 4, 1), 30, epochs=40) for n in (5, 50)]
    monkeypatch.setitem(growth.GROWTHS, "growth-features", small)
    status, records = bench("growth", "--case", "growth-features", capsys=capsys)
    assert status == 0
    assert len(records) == 2 * (len(growth.SOLVERS) + 1)
    auto = [record for record in records if record["implementation"] == "auto"]
    assert {record["solver"] for record in auto} <= set(growth.SOLVERS)
    assert {record["size"]["value"] for record in records} == {5, 50}
    assert {record["max_rel_error"] < 1e-12 for record in records} == {True}
    main(["growth", "--case", "growth-features", "--quick"])
    output = capsys.readouterr().out
    assert "| picked" in output
    assert "* fastest: " in output


def test_a_long_job_is_measured_in_part_and_says_so(capsys):
    _, records = bench(
        "--case", "matmul", "planar", "--size", "400", "--implementation", "python", capsys=capsys
    )
    product, training = records
    assert re.fullmatch(r"\d+ of 400 rows", product["reason"])
    assert training["reason"] == f"{int(training['epochs_measured']):,} of 2,000 epochs"
    assert training["final_cost"] is training["train_accuracy"] is None
    # 64 million turns of a Python loop, scaled: it did not take seconds
    assert product["seconds"] > 1


def test_a_training_is_run_whole_if_there_is_time_for_it_else_in_equal_parts(monkeypatch):
    contestant = case_of("planar").prepare("numpy", seconds=1.0, repeat=3)
    monkeypatch.setattr(contestant, "advance", lambda epochs: 1e-3 * epochs)
    for seconds, parts in ((7.0, []), (3.0, [666, 667, 667]), (1.5, [500] * 3)):
        contestant.seconds = seconds
        assert contestant._plan() == parts
    case = case_of("digits", {"numpy": {}})
    contestant = case.prepare("python", seconds=1.0, repeat=3)
    contestant.run()
    record, m = case.record("python"), contestant.m
    record.set_times([contestant.measure()], contestant.scale)
    contestant.finish(record)
    assert 1 <= m < 100
    assert record.reason.endswith(f"on {m} of 4,000 examples")
    assert record.epochs_measured == pytest.approx(contestant.done * m / 4000)
    assert record.is_scaled


@pytest.mark.usefixtures("double")
def test_cupy_rows_are_timed_on_the_device_with_transfers_apart(capsys):
    status, records = bench(
        *("--case", *cases.OPERATIONS, "planar", "--size", "15", "--implementation", "cupy"),
        capsys=capsys,
    )
    assert status == 0
    assert [record["status"] for record in records] == ["ok"] * 6
    for record in records:
        assert (record["backend"], record["device"]) == ("cupy", "device double")
        assert record["threads"] is None
        assert record["transfer_seconds"] > 0
        assert record["compile_seconds"] is not None
        # end to end of a training is its upload and its seconds
        assert (record["end_to_end_seconds"] is None) == (record["case"] == "planar")


@pytest.mark.usefixtures("double")
def test_end_to_end_is_from_inputs_on_the_host_to_the_result_on_it(monkeypatch):
    case = cases.OperationCase("outer", 40, "float64", {"cupy": {"stream_gb_per_s": 1.0}})
    contestant = case.prepare("cupy", seconds=1.0, repeat=3)
    contestant.run()
    assert contestant.error() < 1e-15
    record = case.record("cupy")
    record.set_times([contestant.measure() for _ in range(3)])
    assert np.isnan(contestant.out).all()  # nothing came back yet
    uploads = device_double.Log.uploads
    contestant.upload_run_download()
    a, b = contestant.inputs
    np.testing.assert_array_equal(contestant.out, np.outer(a, b))
    assert device_double.Log.uploads - uploads == 2
    # three measurements of a short job, one of a long one
    times = {contestant.move: [0.01, 0.03, 0.02], contestant.upload_run_download: [0.5]}
    monkeypatch.setattr(cases, "stopwatch", lambda run, _: iter(times[run]).__next__)
    contestant.finish(record)
    assert (record.transfer_seconds, record.end_to_end_seconds) == (0.02, 0.5)


@pytest.mark.usefixtures("double", "whole")
def test_what_auto_picks_on_the_gpu_stands_beside_the_direct_solver(monkeypatch, capsys):
    shorten(monkeypatch, "planar", epochs=20)
    status, records = train("planar", "numpy", "cupy", "accelnn-cupy", capsys=capsys)
    assert status == 0
    assert [record["backend"] for record in records] == ["numpy", "cupy", "cupy"]
    assert records[1]["solver"] == "direct"
    assert records[2]["device"] == "device double"
    for record in records:
        assert (record["status"], record["precision"]) == ("ok", "float64")
        assert abs(record["cost_difference"]) < 1e-12


def small_for_gpu(precision):
    """A training for GPUs that is none."""
    random = np.random.default_rng(0)
    X, labels = random.standard_normal((60, 12)), random.integers(0, 3, 60)
    X, Y = X.astype(np.float32), np.eye(3, dtype=np.float32)[labels]
    drawn = trainings.datasets.Dataset(X[:40].T, Y[:40].T, X[40:].T, Y[40:].T, tuple("abc"), "d")
    training = trainings._large(precision, band=0.01)
    recipe = dataclasses.replace(
        training.recipe,
        net=Network([12, 8, 3], output="softmax"),
        data=lambda **_: drawn,
        epochs=3,
        learning_rate=0.1,
        batch_size=20,
    )
    return dataclasses.replace(training, recipe=recipe, examples=40)


@pytest.mark.usefixtures("double", "whole")
def test_a_training_for_gpus_has_its_share_of_the_rate_in_its_precision(monkeypatch, capsys):
    monkeypatch.setitem(TRAININGS, "minibatch-4096-8192", small_for_gpu("float32"))
    status, records = train("minibatch-4096-8192", "cupy", "accelnn-cupy", capsys=capsys)
    assert status == 0
    for record in records:
        assert (record["status"], record["precision"], record["data"]) == ("ok", "float32", "drawn")
        assert record["steps"] == 3 * 2
        assert record["final_cost"] > 0
        # limits are those of known_machine
        assert record["share_of_limit"] == pytest.approx(record["gflop_per_s"] / 100.0)


@pytest.mark.usefixtures("double")
def test_a_solver_that_cannot_do_a_training_is_skipped_with_the_reason(monkeypatch, capsys):
    case = "minibatch-4096-8192-bfloat16"
    monkeypatch.setitem(TRAININGS, case, small_for_gpu("bfloat16"))
    for message, status in (
        ("solver='direct' cannot do this: of bfloat16", "skipped"),
        ("NaN in X", "failed"),
    ):

        def fit(*_arguments, message=message, **options):
            assert options["precision"] == "bfloat16"
            raise ValueError(message)

        monkeypatch.setattr(trainings.accelnn, "fit", fit)
        _, [record] = train(case, "cupy", capsys=capsys)
        assert record["status"] == status
        assert message in record["reason"]


def test_trainings_for_gpus_are_skipped_without_one_and_nothing_is_drawn(monkeypatch, capsys):
    def drawn(*_sizes):
        raise AssertionError("a quarter of a gigabyte for nothing")

    monkeypatch.setattr(trainings, "_drawn", drawn)
    names = [name for name, training in TRAININGS.items() if training.for_gpu]
    assert len(names) == 3
    status, records = bench("train", "--case", *names, capsys=capsys)
    assert status == 0
    assert {record["status"] for record in records} == {"skipped"}
    assert {record["implementation"] for record in records} == {"cupy", "accelnn-cupy"}
    assert all("CuPy" in record["reason"] for record in records)


def test_the_data_for_gpus_has_ten_classes_and_its_examples_lie_contiguous():
    drawn = trainings._drawn(50, 4096, 10)
    assert drawn.X_train.shape == (4096, 50)
    assert drawn.X_train.T.flags.c_contiguous
    assert drawn.X_train.dtype == np.float32
    assert {*drawn.Y_train} == {*range(10)}
    assert drawn.X_test.shape[1] == 1000
    trainings._drawn.cache_clear()


def test_json_has_no_nan_and_all_parts_and_is_read_again(tmp_path, capsys):
    file = tmp_path / "results.json"
    main(["ops", "--case", "dot", "--size", "15", "--quick", "--json", str(file)])
    content = strict_json(file.read_text())
    assert set(content) == {
        *("schema", "machine", "versions", "limits", "records", "crossovers", "warm_up_seconds")
    }
    assert (content["schema"], content["crossovers"]) == (1, [])
    assert content["machine"]["cores"] >= 1
    assert content["versions"]["numpy"] == np.__version__
    shown = capsys.readouterr().out
    assert "Operations" in shown
    assert list(tmp_path.iterdir()) == [file]
    assert main(["report", str(file)]) == 0
    assert capsys.readouterr().out == shown


def test_json_that_cannot_be_written_is_an_error_after_the_table(monkeypatch, tmp_path, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "old.json").write_text("old")
    arguments = ["ops", "--case", "dot", "--size", "15", "--quick"]
    assert main([*arguments, "--json", str(tmp_path / "old.json")]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"\| dot +\| 15 \| numpy", out)
    assert err == f"error: --json {tmp_path / 'old.json'}: [Errno 28] No space left on device\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.json", "old")]


def test_numbers_that_are_not_finite_become_null():
    record = Record("dot", "numpy", {"n": 1}, "float64", "numpy", seconds=math.inf)
    record.max_rel_error = math.nan
    written = strict_json(Report({}, {}, {"numpy": {"x": -math.inf}}, [record]).to_json())
    assert written["limits"] == {"numpy": {"x": None}}
    assert written["records"][0]["seconds"] is written["records"][0]["max_rel_error"] is None


# --------------------------------------------------------------------------------------------
# implementations and cases from outside


def test_an_implementation_of_the_operations_is_one_row(monkeypatch, capsys):
    def einsum(_case, inputs, out):
        return lambda: np.einsum("i,j", *inputs, out=out), out

    monkeypatch.setitem(cases.IMPLEMENTATIONS, "einsum", einsum)
    arguments = ("--case", "outer", "--size", "15", "--implementation", "einsum")
    status, [record] = bench(*arguments, "--dtype", "float32", capsys=capsys)
    assert (status, record["status"], record["dtype"]) == (0, "ok", "float32")
    assert 0 <= record["max_rel_error"] < 1e-6


@pytest.mark.usefixtures("whole")
def test_an_implementation_of_the_trainings_is_one_row(monkeypatch, capsys):
    def descent(job, params, epochs, _seed, m):
        for _ in range(epochs):
            gradients = job.recipe.net.gradients(params, job.X[:, :m], job.Y[:, :m])
            flat = params.flat - job.recipe.learning_rate * gradients.flat
            params = Parameters(flat, params.layers)
        return params, {}

    monkeypatch.setitem(trainings.IMPLEMENTATIONS, "descent", descent)
    status, [_, mine] = train("planar", "numpy", "descent", capsys=capsys)
    assert status == 0
    assert mine["max_rel_error"] < 1e-12
    assert abs(mine["cost_difference"]) < 1e-9


def test_a_case_is_one_row(monkeypatch, capsys):
    halved = dataclasses.replace(TRAININGS["planar"].recipe, epochs=3)
    monkeypatch.setitem(TRAININGS, "mine", trainings.Training(halved))
    square = dataclasses.replace(
        cases.OPERATIONS["elementwise"], vectorised=lambda xp, a, _, out: xp.multiply(a, a, out=out)
    )
    monkeypatch.setitem(cases.OPERATIONS, "square", square)
    arguments = ("--case", "mine", "square", "--size", "9", "--implementation", "numpy")
    status, records = bench(*arguments, capsys=capsys)
    assert status == 0
    assert {record["case"]: record["status"] for record in records} == {
        "mine": "ok",
        "square": "ok",
    }


# --------------------------------------------------------------------------------------------
# wrong, failed, interrupted


def test_a_wrong_result_is_shown_as_wrong_not_timed_and_the_exit_status_says_so(
    monkeypatch, capsys
):
    monkeypatch.setattr(loops, "dot", lambda a, b: 1.001 * sum(map(float, np.multiply(a, b))))
    status = main(["ops", "--case", "dot", "--size", "15", "--quick"])
    output = capsys.readouterr().out
    assert status == 1
    assert output.count("WRONG") == 3  # two rows, and the remark
    assert "exceeds" in output
    _, records = bench("ops", "--case", "dot", "--size", "15", capsys=capsys)
    found = by_implementation(records)
    assert (found["python"]["status"], found["python"]["seconds"]) == ("wrong", None)
    assert found["numpy"]["status"] == "ok"
    monkeypatch.setattr(loops, "outer", lambda _a, _b, _out: None)  # never written
    arguments = ("--case", "outer", "--size", "9", "--implementation", "python")
    status, [record] = bench(*arguments, capsys=capsys)
    assert (status, record["status"], record["max_rel_error"]) == (1, "wrong", None)


def test_a_wrong_training_step_is_found(monkeypatch, capsys):
    right = notes.BACKWARD["relu"]
    monkeypatch.setitem(notes.BACKWARD, "tanh", lambda dA, Z: 1.001 * right(dA, Z))
    status, records = train("planar", "notes", "numpy", capsys=capsys)
    assert status == 1
    assert [record["status"] for record in records] == ["wrong", "ok"]


def test_a_failure_at_once_or_later_is_reported_and_the_others_go_on(monkeypatch, capsys):
    right = notes.model
    for good in (0, 1):
        calls = []

        def breaks(*arguments, good=good, calls=calls):
            calls.append(arguments)
            if len(calls) > good:
                raise MemoryError("no room")
            return right(*arguments)

        monkeypatch.setattr(notes, "model", breaks)
        status, records = train("planar", "notes", "numpy", capsys=capsys)
        assert status == 1
        assert [record["status"] for record in records] == ["failed", "ok"]
        assert records[0]["reason"] == "MemoryError: no room"
        assert len(calls) == good + 1


def test_sizes_that_do_not_fit_the_memory_are_skipped_and_the_rest_is_right(capsys):
    arguments = ("ops", "--case", "dot", "outer", "--size", "15", "1000000")
    status, records = bench(*arguments, capsys=capsys)
    assert status == 0
    by_size = {(r["case"], r["size"]["n"]): r for r in records if r["implementation"] == "numpy"}
    assert by_size["dot", 1_000_000]["status"] == by_size["outer", 15]["status"] == "ok"
    too_large = [r for r in records if r["case"] == "outer" and r["size"]["n"] == 1_000_000]
    assert {record["status"] for record in too_large} == {"skipped"}
    [reason] = {r["reason"] for r in too_large if r["implementation"] != "cupy"}
    assert re.fullmatch(
        r"outer\(1,000,000\) needs 43\.7 TiB of memory, [\d,.]+ [GT]iB are free", reason
    )


def test_a_size_is_judged_before_its_arrays_take_memory(monkeypatch):
    case = cases.OperationCase("outer", 1000, "float64", {})
    needed = cases._bytes_needed(case.operation, 1000, "float64", "numpy")
    free = [needed / cases.HEADROOM + 1, 0]
    monkeypatch.setattr(NumpyBackend, "memory", lambda _: (free.pop(0), 2**40))
    for implementation in ("numba", "numpy"):
        case.prepare(implementation, seconds=0.1, repeat=1)
    assert free == [0]


def test_the_memory_a_size_needs_covers_what_is_allocated():
    for name in cases.OPERATIONS:
        for dtype in ("float64", "float32"):
            n = 1_500_000 if name in ("dot", "elementwise") else 1_500
            case = cases.OperationCase(name, n, dtype, {})
            needed = cases._bytes_needed(case.operation, n, dtype, "numpy")
            case.prepare("numpy", seconds=1.0, repeat=1)  # imports and caches
            cases._inputs.cache_clear()
            cases._reference.cache_clear()
            tracemalloc.start()
            contestants = []
            for implementation in ("numba", "numba-parallel", "numpy"):
                contestants.append(case.prepare(implementation, seconds=0.5, repeat=1))
                contestants[-1].error()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert 0.3 * needed < peak <= needed + 2**20, (name, dtype)


def test_an_interrupt_keeps_the_rows_measured_so_far(monkeypatch, capsys):
    measured = []
    real = timing.alternate

    def interrupted(measures, times, repeat, seconds, threaded):
        if measured:
            real(measures, times, 1, seconds, threaded)
            raise KeyboardInterrupt
        measured.append(real(measures, times, repeat, seconds, threaded))

    monkeypatch.setattr(runner, "alternate", interrupted)
    monkeypatch.setattr(command, "QUICK", (3, 5.0, 0.3, 0.05))  # time for three
    status, records = bench("ops", "--case", "dot", "--size", "15", "33", "99", capsys=capsys)
    assert status == 130
    repeats = [r["repeats"] for r in records if r["implementation"] == "numpy"]
    assert repeats[0] > repeats[1] == 1
    assert {r["size"]["n"] for r in records} == {15, 33}


def test_an_interrupt_before_the_first_measurement_is_recorded_as_such(monkeypatch, capsys):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "alternate", interrupted)
    status, records = bench("ops", "--case", "dot", "--size", "15", capsys=capsys)
    assert status == 130
    assert {r["reason"] for r in records if r["implementation"] != "cupy"} == {
        "interrupted before it was measured"
    }
    monkeypatch.setattr(command, "warm_up", interrupted)
    assert bench("train", capsys=capsys) == (130, [])


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_leaves_table_and_json(tmp_path):
    file = tmp_path / "rows.json"
    program = (
        "from accelnn.bench import machine\n"
        "machine.limits = lambda *a, **k: {'stream_gb_per_s': 1.0, 'matmul_gflop_per_s': 1.0}\n"
        "from accelnn.cli.bench import main\n"
        f"raise SystemExit(main(['ops', '--size', '15', '16', '17', '--json', {str(file)!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted" in errors
    records = strict_json(file.read_text())["records"]
    if any(record["status"] == "ok" for record in records):
        assert "Operations" in output


def test_no_row_is_started_when_the_time_is_up(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    right = cases.OperationCase.prepare

    def slow(self, implementation, seconds, repeat):
        now[0] += 50
        return right(self, implementation, seconds, repeat)

    monkeypatch.setattr(cases.OperationCase, "prepare", slow)
    names = ("python", "numba", "numpy")
    status, records = bench(
        *("ops", "--case", "dot", "--size", "15", "16", "--implementation", *names),
        *("--within", "60"),
        capsys=capsys,
    )
    assert status == 0
    assert [record["status"] for record in records] == ["ok", "ok", *["skipped"] * 4]
    assert records[-1]["reason"] == "the time was up before its turn"


# --------------------------------------------------------------------------------------------
# the command line


def test_wrong_arguments_end_at_once_with_what_was_expected(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    for arguments, message in (
        (["--case", "conv"], "--case conv: expected one of dot, outer"),
        (["train", "--case", "dot"], "--case dot: expected one of cat-logistic"),
        (["ops", "--implementation", "torch"], "--implementation torch: expected one of python"),
        (["ops", "--implementation", "notes"], "--implementation notes: expected one of python"),
        (["--size", "0"], "argument --size: invalid"),
        (["--repeat", "x"], "argument --repeat: invalid"),
        (["train", "--size", "15"], "--size is for operations"),
        (["--json", "/nonexistent/folder/x.json"], "there is no folder /nonexistent/folder"),
        (["everything"], "invalid choice: 'everything'"),
        (["gpu"], "gpu: no GPU can be used here: "),
        (["--within", "0"], "argument --within: invalid"),
        (["report"], "the following arguments are required: FILE"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
    for arguments, message in (
        (["report", "/nonexistent.json"], "no such file"),
        (["report", str(tmp_path / "other.json")], "not a result of accelnn bench --json"),
        (["report", *STORED, "--chart", "x.svg", "--case", "dot"], "no training dot was timed"),
        (["report", *STORED, "--chart", "nowhere/x.svg"], "there is no folder nowhere"),
        (["report", *STORED, "--chart", "x.gif"], "to end in .png, .pdf or .svg"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_a_backend_that_is_none_ends_at_once(monkeypatch, capsys):
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy:one")
    with pytest.raises(SystemExit):
        main(["ops"])
    assert "ACCELNN_BACKEND: unknown backend 'cupy:one'" in capsys.readouterr().err


def test_of_two_gpus_the_chosen_one_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", device_double.Module(devices=2))
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy:1")
    arguments = ("--case", "dot", "planar", "--size", "15", "--implementation", "cupy")
    _, records = bench(*arguments, capsys=capsys)
    assert {record["device"] for record in records} == {"device double (cupy:1)"}
    assert machine.describe()["gpu"]["index"] == 1


@pytest.mark.usefixtures("double")
def test_the_gpus_run_is_in_float32_and_sets_it_against_cpu_and_peers(monkeypatch, capsys):
    monkeypatch.setattr(runner, "alternate", lambda *_: None)
    arguments = ("gpu", "--case", *cases.OPERATIONS, "--size", "15", "33")
    _, records = bench(*arguments, capsys=capsys)
    assert {record["dtype"] for record in records} == {"float32"}
    assert {r["implementation"] for r in records} == {"numba-parallel", "numpy", "cupy"}
    for case, names in GPU_TRAININGS.items():
        known = TrainingCase(case, TRAININGS[case], "float32", {}, True, True).implementations
        assert set(names) <= set(known)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_gpu_says_what_a_python_or_the_machine_lacks(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    expected = {python: f"{python} lacks accelnn or pytest: {python} -m pip install"}
    if why_not() is not None:
        expected[sys.executable] = "make gpu: no GPU can be used here: "
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    for path, message in expected.items():
        command_line = ["make", "gpu", f"GPU_PYTHON={path}"]
        result = subprocess.run(
            command_line, cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stdout == ""


def test_a_pipe_gets_plain_text_and_standard_error_the_progress():
    result = subprocess.run(
        [sys.executable, "-m", "accelnn.bench", "ops", "--case", "dot", "--size", "15", "--quick"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in result.stdout
    assert "Measured limits of the CPU: memory" in result.stdout
    assert re.search(r"\| dot +\| 15 \| numpy", result.stdout)
    assert "Traceback" not in result.stderr


def test_the_suites_for_pytest_benchmark_run():
    options = ("-q", "--benchmark-disable", "-p", "no:cacheprovider")
    selected = ("-k", "(dot and 15) or planar", str(REPOSITORY / "benchmarks"))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *selected], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
    assert re.search(r"\d+ passed", result.stdout)


# --------------------------------------------------------------------------------------------
# short and full runs


def planned(*arguments):
    """What a run would measure: by case and size, its implementations."""
    parser = command._parser()
    options = parser.parse_args([*arguments, "--dtype", "float64"])
    return {str(case): names for case, names in command._plan(parser, options, {})}


def test_a_short_run_measures_a_selection_and_a_full_one_everything(monkeypatch, capsys):
    short = planned()
    assert len(short) == 2 * len(cases.OPERATIONS) + 4
    assert {"dot(15)", "matmul(1,000)", "cat-logistic", "cat-2layer", "planar", "digits"} < {*short}
    assert short["dot(15)"] == ["python", "numba", "numba-parallel", "numpy", "cupy"]
    assert short["digits"][:5] == ["python", "numba", "notes", "numpy", "accelnn"]
    assert planned("ops").keys() | planned("train").keys() == short.keys()
    full = planned("--full")
    assert {*TRAININGS} < {*full}
    for name, operation in cases.OPERATIONS.items():
        assert {f"{name}({n:,})" for n in cases.sizes(operation)} < {*full}
    assert full["dot(15)"] == list(cases.IMPLEMENTATIONS)
    monkeypatch.setattr(command, "_measure", lambda *_: True)
    assert main([]) == 0
    assert "--full measures more" in capsys.readouterr().out
    main(["--full"])
    assert "--full" not in capsys.readouterr().out


def test_naming_something_measures_all_there_is_of_it():
    whole_batches = {name for name, one in TRAININGS.items() if not one.recipe.batch_size}
    for arguments, expected in (
        (("--case", "cat-4layer"), {"cat-4layer"}),
        (("--case", "gdot", "--size", "7"), {"gdot(7)"}),
        (("ops", "--size", "100"), {f"{name}(100)" for name in cases.OPERATIONS}),
        (("train", "--implementation", "notes"), whole_batches),
    ):
        assert planned(*arguments).keys() == expected
    assert "python-lists" in planned("--case", "gdot", "--size", "7")["gdot(7)"]


def test_compiled_solvers_are_warmed_up_first_and_for_the_dtypes_of_the_trainings_only(
    monkeypatch, capsys
):
    warmed = []
    monkeypatch.setattr(command, "warm_up", lambda dtype, **_: warmed.append(dtype) or 12.34)
    monkeypatch.setattr(command, "run_case", lambda *_: warmed.append("measured"))
    main(["train"])
    assert warmed[0] == "float64"
    assert set(warmed[1:]) == {"measured"}
    assert "accelnn.warm_up('float64') compiled or loaded its solvers in 12.3 s" in (
        capsys.readouterr().out
    )
    warmed.clear()
    main(["ops"])
    main(["train", "--implementation", "numpy"])
    assert set(warmed) == {"measured"}
    warmed.clear()
    capsys.readouterr()
    main(["growth", "--json", "-"])
    assert warmed[:2] == ["float32", "float64"]
    seconds = strict_json(capsys.readouterr().out)["warm_up_seconds"]
    assert seconds == {"float32": 12.34, "float64": 12.34}


# --------------------------------------------------------------------------------------------
# tables

MACHINE = {
    "processor": "P",
    "cores": 2,
    "memory_bytes": 2**30,
    "last_level_cache_bytes": 2**20,
    "gpu": None,
}


def report_of(*records, gpu=None, limits=None):
    return Report(MACHINE | {"gpu": gpu}, {}, limits or {}, list(records))


def plain(*records, width=None, **options):
    """What is shown of the records, in a pipe or in a terminal of this width."""
    file = io.StringIO()
    if width:
        file.isatty = lambda: True
    to = console(file)
    if width:
        to.width = width
    report.show(report_of(*records, **options), to)
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


def row(implementation, seconds, n=1_000, case="dot", **fields):
    record = Record(case, implementation, {"n": n}, "float64", "numpy", status="ok", **fields)
    record.set_times([seconds])
    return record


def training_row(case, implementation, seconds=0.123, backend="numpy", size=(), **fields):
    size = {"layers": [9, 1], **dict(size)}
    given = {"status": "ok", "threads": 2, "final_cost": 0.123456, "test_accuracy": 0.934} | fields
    record = TrainingRecord(case, implementation, size, "float32", backend, **given)
    record.set_times([seconds])
    return record


def test_speed_ups_are_shown_over_the_python_loop_and_over_numpy():
    text = plain(row("python", 3.0), row("numpy", 0.01), row("numba", 0.02))
    lines = {line.split("|")[3].strip(): line for line in text.splitlines() if "1,000" in line}
    assert [cell.strip() for cell in lines["numpy"].split("|")[-3:-1]] == ["300", "1"]
    assert [cell.strip() for cell in lines["numba"].split("|")[-3:-1]] == ["150", "0.5"]


def test_figures_have_no_more_digits_than_the_measurements_and_fitting_units():
    for seconds, times in ((99.6, "100"), (131_915, "132,000"), (31.4, "31"), (0.00314, "0.0031")):
        text = re.sub(r"\| +", "| ", plain(row("python", seconds), row("numpy", 1.0)))
        assert re.search(rf"\| {re.escape(times)} +\|", text), times
    for seconds, time_ in (
        *((3e-9, "3 ns"), (1.5e-5, "15 µs"), (0.25, "250 ms")),
        *((12.34, "12.3 s"), (2e3, "2,000 s"), (2e4, "5.56 h")),
    ):
        assert time_ in plain(row("numpy", seconds))
    assert "4,321 GB/s" in plain(row("cupy", 1.0, gb_per_s=4321.4))
    assert "788 TFLOP/s" in plain(row("cupy", 1.0, gflop_per_s=788_123.0))


def test_a_table_fits_its_terminal():
    records = [
        row(name, 0.123, gb_per_s=12.3, share_of_limit=0.5, max_rel_error=1e-16, threads=2)
        for name in ("python-lists", "python", "numba-parallel", "numpy")
    ]
    for width in (66, 80, 100, 200):
        text = plain(*records, width=width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert "numba-parallel" in text
        assert "123 ms" in text
        left_out = "Not shown at this width: spread" in text
        assert left_out == (width < 200)
        assert (text.count("spread") == 1) == left_out  # else in the heading and in the legend
        assert "× python" in text
        assert "numba-parallel: compiled, on all cores" in " ".join(text.split())


def test_the_tables_of_trainings_fit_their_terminal():
    names = ("numpy", "accelnn", "torch", "torch-compile", "torch-gram", "sklearn")
    rows = [training_row("cat-logistic", name, solver="MLPClassifier sgd") for name in names]
    batches = {"batch_size": 1024, "steps": 80, "solver": "MLPClassifier adam"}
    rows += [training_row("minibatch-1024-adam", name, **batches) for name in (*names, "products")]
    for name in ("direct", "jitted", "gram", "gram-jitted", "fused", "auto"):
        size = {"along": "examples", "value": 5}
        grown = {"size": size, "epochs": 300, "epochs_measured": 16, "solver": "gram-jitted"}
        rows.append(training_row("growth-depth", name, **grown))
    for width in (80, 120):
        text = plain(*rows, width=width)
        tables = text[text.index("Trainings") : text.index("* fastest")]
        assert "…" not in tables
        assert "1.54 ms" in tables  # a step
        assert "torch-compile" in tables
        for line in tables.splitlines():
            assert len(line) <= width or "Gains" in line or "=" in line


def sized(case, implementation, n, seconds, end_to_end=None):
    record = row(implementation, seconds, n, case)
    record.end_to_end_seconds = end_to_end
    return record


def on_both(gpu_seconds, end_to_end, cpu=lambda _: 1.0):
    """Rows of dot on CPU and GPU by their n."""
    return [
        record
        for n, seconds in gpu_seconds.items()
        for record in (
            sized("dot", "numpy", n, cpu(n)),
            sized("dot", "cupy", n, seconds, end_to_end),
        )
    ]


def test_the_gpu_wins_from_the_size_at_which_the_powers_of_n_cross():
    # 1 ns for each element on the CPU, 20 us at the GPU whatever n is, 1 ms with the transfers
    sizes = (10, 1_000, 100_000, 10_000_000)
    rows = on_both(dict.fromkeys(sizes, 2e-5), 1e-3, cpu=lambda n: n * 1e-9)
    rows += [sized("dot", "numba", n, 2e-9 * n) for n in sizes]
    [found] = crossings(rows)
    assert found == {
        "case": "dot",
        "dtype": "float64",
        "smallest": 10,
        "largest": 10_000_000,
        "resident": {"size": 20_000, "bound": "=", "against": "numpy"},
        "end_to_end": {"size": 1_000_000, "bound": "=", "against": "numpy"},
    }
    # as fast is not faster; a loss at a larger size counts
    [found] = crossings(on_both({10: 0.5, 50: 0.5, 100: 0.5}, 1.0))
    assert found["resident"] == {"size": 10, "bound": "<", "against": "numpy"}
    assert found["end_to_end"] == {"size": 100, "bound": ">", "against": "numpy"}
    [found] = crossings(on_both({1: 2.0, 10: 0.5, 100: 2.0, 1_000: 0.5}, 9.0))
    assert found["resident"]["size"] == 316


def test_a_crossover_needs_three_sizes_that_both_sides_have():
    skipped = Record("dot", "cupy", {"n": 10}, "float64", "cupy")
    cpu = [sized("dot", "numpy", n, 1.0) for n in (10, 100, 1_000, 10_000)]
    two = [sized("dot", "cupy", n, 0.5, 0.5) for n in (100, 1_000)]
    assert crossings([*cpu, skipped]) == crossings([*cpu, skipped, *two]) == []
    [found] = crossings([*cpu, skipped, *two, sized("dot", "cupy", 10_000, 0.5, 0.5)])
    assert (found["smallest"], found["largest"]) == (100, 10_000)
    assert crossings([training_row("planar", "cupy")]) == []


GPU = Gpu(0, "NVIDIA H200", "9.0", 139 * 2**30, 140 * 2**30, 132, 60 * 2**20, "13.0")
H200 = {"stream_gb_per_s": 4321.0, "matmul_gflop_per_s": 51_234.0}
H200 |= {"stream_copy_gb_per_s": 4321.0, "matmul_bfloat16_gflop_per_s": 788_000.0}


def test_the_tables_of_a_gpu_fit_their_terminal():
    rows = []
    for case in cases.OPERATIONS:
        for n in (15, 1_000, 2**28):
            rows.append(sized(case, "numba-parallel", n, n * 3e-10))
            rows.append(sized(case, "numpy", n, n * 2e-10))
            rows.append(sized(case, "cupy", n, 1.2e-5 + n * 3e-12, 1e-4 + n * 1e-9))
    for record in rows:
        record.gb_per_s, record.share_of_limit, record.max_rel_error = 4123.0, 0.954, 1e-7
    names = ("cupy", "accelnn-cupy", "torch-cuda", "torch-cuda-graph", "torch-cuda-compile")
    for case, batch_size in (("cat-2layer", None), ("minibatch-4096-8192-bfloat16", 8192)):
        for i, name in enumerate((*names, "jax-cuda")):
            more = {"steps": 100, "batch_size": batch_size, "solver": "gram-jitted"}
            more |= {"precision": "bfloat16" if batch_size else "float32", "share_of_limit": 0.87}
            place = "cuda" if i > 1 else "cupy"
            rows.append(training_row(case, name, 0.01 * (i + 1), place, **more))
    stored = dataclasses.asdict(GPU) | {"sm_mhz": 345}  # older results have more fields
    for width in (80, 120):
        text = plain(*rows, width=width, gpu=stored, limits={"cupy": H200})
        assert "NVIDIA H200, 139.0 GiB free of 140.0 GiB, compute capability 9.0, CUDA 13.0" in text
        assert "copying memory 4,321 GB/s, matrix product 51.2 TFLOP/s" in " ".join(text.split())
        assert "…" not in text
        tables = text[text.index("Operations") : text.index("Gains")]
        assert "minibatch-4096-8192-bfloat16" in tables
        assert "torch-cuda-compile" in tables
        assert "87 %" in tables or width == 80
        lines = [line for line in tables.splitlines() if "resident: with the arrays" not in line]
        assert max(map(len, lines)) <= width
        crossing = [line for line in lines if line.lstrip().startswith("elementwise")][-1]
        assert re.search(r"480,000 .*> 268,435,456 .*15 to 268,435,456", crossing)
        gains = "cat-2layer, on the GPU: cupy is 3 times as fast as torch-cuda, 4 times as fast as"
        assert gains in text


def test_the_vector_unit_is_shown_if_the_result_has_it(monkeypatch):
    assert "P, 2 cores, 1 GiB" in plain(row("numpy", 1.0))
    monkeypatch.setitem(MACHINE, "vector_unit", "AVX512")
    assert "P, 2 cores with AVX512, 1 GiB" in plain(row("numpy", 1.0))


def test_scaled_and_unstable_rows_and_stand_ins_are_remarked():
    noisy = row("numpy", 1.0)
    noisy.seconds_max = 2.0
    scaled = row("python", 1.0, reason="3 of 1,000 rows")
    text = plain(scaled, noisy, training_row("cat-2layer", "numpy", data="stand-in"))
    assert "~1 s" in text
    assert "dot(1,000): python 3 of 1,000 rows" in text
    assert "1 of 3 rows are unstable" in text
    assert "stand-in" in text


# --------------------------------------------------------------------------------------------
# stored results

STORED = [str(RESULTS / "amd-epyc-2-cores-short.json")]


def test_every_stored_result_is_read_and_shown(capsys):
    for path in sorted(RESULTS.glob("*.json")):
        stored = Report.read(path)
        assert len(stored.records) == len(json.loads(path.read_text())["records"])
        assert main(["report", str(path)]) == 0
        assert "Measured limits" in capsys.readouterr().out, path
        assert main(["report", str(path), "--markdown"]) == 0
        assert capsys.readouterr().out.count("\n| ---") >= 1, path


def test_markdown_has_the_stored_times(capsys):
    main(["report", *STORED, "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert "| gdot(5,000) | ~3.94 s | 25.5 ms | 13.6 ms | **7.66 ms** | 74.3 % |" in lines
    assert "| --- | ---: | ---: | ---: | ---: | ---: |" in lines
    [trained] = [line for line in lines if "| cat-2layer | ~15.9 h |" in line]
    assert "~11.2 s | **117 ms** | 0.017628 | 100 % / 74 % |" in trained
    assert [line for line in lines if re.match(r"\| cat-2layer \| 488,000 × .* 117 ms", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_tables_of_the_pages_are_those_of_the_stored_results(page):
    assert pages.refreshed(page) == page.read_text(encoding="utf-8"), (
        f"python -m accelnn.bench.pages {page} writes the tables again"
    )


def test_a_page_is_refreshed_in_place_and_a_wrong_mark_is_refused(tmp_path):
    page, file = tmp_path / "page.md", Path(os.path.relpath(STORED[0], tmp_path))
    text = "above\n\n<!-- table: {} {} -->\nold\n<!-- end -->\n\nbelow\n"
    page.write_text(text.format(file, "operations gdot(15) dot(15)"))
    subprocess.run([sys.executable, "-m", "accelnn.bench.pages", str(page)], check=True)
    refreshed = page.read_text()
    assert refreshed.startswith("above\n\n<!-- table: ")
    assert refreshed.endswith("|  |\n<!-- end -->\n\nbelow\n")
    assert re.findall(r"^\| (\w+\(.*?\)) ", refreshed, re.MULTILINE) == ["dot(15)", "gdot(15)"]
    assert "old" not in refreshed
    for section, message in (
        ("operation", "no section operation: expected one of"),
        ("operations dot(16)", r"has no row dot\(16\)"),
        ("growth", "has no"),
    ):
        page.write_text(text.format(file, section))
        with pytest.raises(ValueError, match=message):
            pages.refreshed(page)


def test_the_chart_shows_every_implementation_of_one_run(tmp_path):
    pytest.importorskip("matplotlib")
    for suffix, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        path = tmp_path / f"chart{suffix}"
        assert main(["report", *STORED, "--chart", str(path)]) == 0
        assert path.read_bytes().startswith(begin)
    text = (tmp_path / "chart.svg").read_text()
    for label in ("Python loops", "the notes' NumPy", "117 ms", "~51.4 s", "(438 ×)", "cat-2layer"):
        assert f"<!-- {label}" in text or label in text, label
    path = tmp_path / "planar.svg"
    assert main(["report", *STORED, "--chart", str(path), "--case", "planar"]) == 0
    assert "planar" in path.read_text()


# --------------------------------------------------------------------------------------------
# timing, cases, machine


def test_a_stopwatch_returns_the_seconds_of_one_run():
    assert 0.01 <= timing.stopwatch(lambda: time.sleep(0.01), NumpyBackend())() < 0.1
    assert timing.stopwatch(lambda: None, NumpyBackend())() < 1e-4


def test_measurements_alternate_forth_and_back_within_their_time(monkeypatch):
    order, times = [], {"a": [], "b": []}

    def measure(name):
        order.append(name)
        return float(len(order))

    measures = {name: lambda name=name: measure(name) for name in times}
    timing.alternate(measures, times, 3, seconds=10)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [1, 4, 5], "b": [2, 3, 6]}
    clock = iter(np.arange(0, 1, 0.02))  # a measurement takes 0.02 s
    monkeypatch.setattr(timing.time, "perf_counter", clock.__next__)
    times = {"slow": []}
    timing.alternate({"slow": lambda: 0.02}, times, 5, seconds=0.03)
    assert len(times["slow"]) == 2


def test_sizes_go_from_the_notes_15_to_beyond_the_last_cache():
    for operation in cases.OPERATIONS.values():
        sizes = cases.sizes(operation)
        assert sizes[0] == 15
        assert sizes == sorted(sizes)
        assert operation.elements(sizes[-1]) * 8 > machine.last_level_cache()


@pytest.mark.usefixtures("double")
def test_a_gpu_adds_sizes_between_and_beyond_as_far_as_its_memory_reaches(monkeypatch):
    monkeypatch.setattr(NumpyBackend, "memory", lambda _: (100 * 2**30, 128 * 2**30))
    for name, operation in cases.OPERATIONS.items():
        monkeypatch.setattr(CupyBackend, "memory", lambda _: (100 * 2**30, 140 * 2**30))
        found = cases.sizes(operation)
        assert found == sorted(found)
        assert {*operation.sizes, *operation.gpu_sizes} < {*found}
        assert operation.elements(found[-1]) >= (2**28 if name != "matmul" else 3 * 2**26)
        monkeypatch.setattr(CupyBackend, "memory", lambda _: (2**30, 2**31))
        small = cases.sizes(operation)
        assert operation.sizes[-1] < small[-1] < found[-1]
        assert operation.elements(small[-1]) * 8 < 2**30 or small[-1] not in operation.gpu_sizes


def test_a_loop_whose_row_takes_too_long_is_left_out():
    case = cases.OperationCase("matmul", 8192, "float64", {})
    with pytest.raises(Skip, match="one of 8,192 rows would take about 17 s"):
        case.prepare("python", seconds=1.0, repeat=3)


def test_work_is_counted_as_on_paper():
    for name, elements, multiplications in (
        ("dot", 2 * 7 + 1, 7),
        ("outer", 2 * 7 + 49, 49),
        ("elementwise", 3 * 7, 7),
        ("gdot", 49 + 2 * 7, 49),
        ("matmul", 3 * 49, 343),
    ):
        operation = cases.OPERATIONS[name]
        assert operation.elements(7) == elements
        assert operation.multiplications(7) == multiplications
    # forward 12288·7 + 7, dW the same, dA of the hidden layer 7; a multiplication and an addition
    assert trainings.operations(Network([12288, 7, 1])) == 2 * (2 * (12288 * 7 + 7) + 7)


def test_all_implementations_take_the_same_steps():
    for name in ("planar", "digits"):
        weights = {}
        for implementation in ("numba", "notes", "numpy"):
            contestant = case_of(name).prepare(implementation, seconds=1.0, repeat=1)
            contestant.restart(1)
            contestant.advance(1)
            contestant.advance(2)
            assert contestant.done == 3
            weights[implementation] = contestant.params.flat
        np.testing.assert_allclose(weights["notes"], weights["numpy"], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(weights["numba"], weights["numpy"], rtol=1e-8, atol=1e-12)
    case = case_of("planar")
    X, Y = case.dataset("float64").X_train, case.dataset("float64").Y_train
    first = case.recipe.first_weights("float64")
    (W1, b1), (W2, b2) = first
    named = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}
    _, costs = notes.model(X, Y, named, ["tanh", "sigmoid"], 201, 0.5)
    assert len(costs) == 3  # every 100 epochs
    assert costs[0] == pytest.approx(case.recipe.net.cost(first, X, Y), rel=1e-12)


def test_the_machine_describes_itself(monkeypatch):
    found = machine.describe()
    assert found["processor"]
    assert found["memory_bytes"] > 2**28
    assert found["last_level_cache_bytes"] >= 2**18
    assert machine.blas_threads() >= 1
    assert machine.versions()["blas"]
    for features, unit in (
        ({"avx": True, "avx2": True, "avx512f": True}, "AVX512"),
        ({"avx": True, "avx2": True, "avx512f": False}, "AVX2"),
        ({"neon": True}, "NEON"),
        ({"sse2": True}, None),
    ):
        monkeypatch.setattr(machine.binding, "get_host_cpu_features", lambda has=features: has)
        assert machine.describe()["vector_unit"] == unit
    machine.last_level_cache.cache_clear()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    assert machine.last_level_cache() == machine.ASSUMED_CACHE
    machine.last_level_cache.cache_clear()


@pytest.mark.usefixtures("double")
def test_the_machine_describes_its_gpu():
    found = machine.describe()["gpu"]
    assert (found["name"], found["memory_bytes"]) == ("device double", 2**31)
    assert machine.versions()["cuda"] == "13.0"
    assert machine.cache_of(CupyBackend()) == 2**20
    assert machine.cache_of(NumpyBackend()) == machine.last_level_cache()


def test_the_limits_of_a_gpu_are_medians_and_its_memorys_rate_is_a_copys(double, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cupy", double)
    monkeypatch.setattr(CupyBackend, "memory", lambda _: (2**20, 2**21))
    monkeypatch.setattr(machine, "stopwatch", lambda _run, _place: iter([0.5, 0.25, 4.0]).__next__)
    found = machine.limits(CupyBackend(), "float32", repeat=3)
    n = 2**20 // 40
    assert found["stream_copy_gb_per_s"] == pytest.approx(2 * n * 8 / 0.5 / 1e9)
    assert found["stream_gb_per_s"] == found["stream_copy_gb_per_s"]
    assert found["matmul_gflop_per_s"] == pytest.approx(2 * 2000**3 / 0.5 / 1e9)


# CUDA_R_... of library_types.h, CUBLAS_COMPUTE_... of cublas_api.h: factors, arithmetic, result
OF_CUBLAS = {
    "float64": (1, 70, 1),
    "float32": (0, 68, 0),
    "tf32": (0, 77, 0),
    "bfloat16": (14, 68, 0),
}


def test_a_product_in_each_precision_is_asked_of_cublas_as_its_headers_say(double, monkeypatch):
    calls = []
    cublas = types.SimpleNamespace(
        CUBLAS_OP_N=0,
        CUBLAS_GEMM_DEFAULT=-1,
        CUBLAS_COMPUTE_64F=70,
        CUBLAS_COMPUTE_32F=68,
        CUBLAS_COMPUTE_32F_FAST_TF32=77,
        gemmEx=lambda *arguments: calls.append(arguments),
    )
    monkeypatch.setattr(double.cuda, "cublas", cublas, raising=False)
    monkeypatch.setattr(double.cuda, "get_cublas_handle", lambda: 7, raising=False)
    for name, number in (("CUDA_R_64F", 1), ("CUDA_R_32F", 0), ("CUDA_R_16BF", 14)):
        monkeypatch.setattr(double.cuda.runtime, name, number, raising=False)
    pointer = property(lambda self: types.SimpleNamespace(ptr=self.wrapped.ctypes.data))
    monkeypatch.setattr(device_double.DeviceArray, "data", pointer, raising=False)
    for name in ("view", "__rshift__"):
        lifted = device_double.lifted(getattr(np.ndarray, name))
        monkeypatch.setattr(device_double.DeviceArray, name, lifted, raising=False)
    for precision, (factor, compute, result) in OF_CUBLAS.items():
        calls.clear()
        run, operations = machine._product_in(CupyBackend(), precision)
        run()
        [(handle, _, _, m, n, k, _, _, a, _, _, b, _, _, _, c, _, arithmetic, algorithm)] = calls
        assert (handle, m, n, k, operations) == (7, 2000, 2000, 2000, 2 * 2000**3)
        expected = (factor, factor, result, compute, -1)
        assert (a, b, c, arithmetic, algorithm) == expected, precision


@pytest.mark.gpu
def test_the_product_by_which_a_precision_is_measured_is_right():
    place = CupyBackend()
    tolerances = {"float64": 1e-12, "float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}
    for precision, tolerance in tolerances.items():
        run, _ = machine._product_in(place, precision)
        dtype = "float64" if precision == "float64" else "float32"
        A, B = (X.get().astype(np.float64) for X in machine._factors(place, dtype))
        expected = B[:16] @ A
        found = run()[:16].get()
        assert found.dtype == dtype
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max(), precision


@pytest.mark.gpu
def test_a_gpu_multiplies_the_faster_the_fewer_bits_there_are(monkeypatch):
    monkeypatch.undo()
    found = machine.limits(CupyBackend(), "float32", 3, ("float32", "tf32", "bfloat16"))
    rates = [found[f"matmul_{name}_gflop_per_s"] for name in ("float32", "tf32", "bfloat16")]
    assert 0 < rates[0] < rates[1] < rates[2]
    assert found["matmul_gflop_per_s"] == pytest.approx(rates[0], rel=0.2)
    assert 0 < found["stream_gb_per_s"] < 20_000


@pytest.mark.gpu
def test_operations_and_a_training_are_measured_on_a_real_gpu(capsys):
    arguments = ("--case", *cases.OPERATIONS, "planar", "--size", "1000", "--dtype", "float32")
    names = ("numpy", "cupy", "accelnn-cupy")
    status, records = bench(*arguments, "--implementation", *names, capsys=capsys)
    assert status == 0
    assert {record["status"] for record in records} == {"ok"}
    for record in records:
        if record["implementation"] == "cupy" and "n" in record["size"]:
            assert 0 < record["seconds"] < record["end_to_end_seconds"]


def test_limits_are_the_best_of_what_was_measured(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(machine, "last_level_cache", lambda: 2**16)
    found = machine.limits(NumpyBackend(), "float64", repeat=1)
    streams = [rate for name, rate in found.items() if re.match(r"stream_\w+_gb", name)]
    assert found["stream_gb_per_s"] == max(streams)
    assert found["matmul_gflop_per_s"] > 1
