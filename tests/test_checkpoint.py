"""Trainings in files: a resumed one has the bits of one without a break, wherever it was broken."""

import errno
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from helpers.core import refused
from helpers.trainings import NETS, data

import accelnn
from accelnn import Adam, Network, batches, models
from accelnn.backend import to_device, to_host
from accelnn.columns import HostColumns
from accelnn.solvers import jitted
from accelnn.solvers.direct import Direct
from accelnn.training import checkpoint
from accelnn.training.checkpoint import KIND, fingerprint

M = 20
RATES = {"sgd": 0.1, "momentum": 0.1, "heavyball": 0.02, "nesterov": 0.02, "adam": 0.01}
HIDDEN = (
    "seconds",
    "compile_seconds",
    "state",
    "_evaluate",
    "_final",
)  # of a History, apart from numbers


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Killed(BaseException):
    """The process ends, right after it wrote a checkpoint."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 1 with each look at it, as trainers take before each step; writing
    takes no share of the time, and compiled steps come one by one."""
    ticks = itertools.count()
    fake = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)
    monkeypatch.setattr("accelnn.solvers.job.time", fake)
    monkeypatch.setattr("accelnn.training.checkpoint.time", fake)
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)
    monkeypatch.setattr(jitted, "LONGEST_CALL", 1)


@pytest.fixture
def killed(monkeypatch):
    """A function that sets after how many checkpoints the process ends; None for never."""
    write, left = models.write, [None]

    def then_die(*arguments):
        write(*arguments)
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    monkeypatch.setattr(models, "write", then_die)
    return lambda count: left.__setitem__(0, count)


def trained(net=NETS["two layers"], params=None, given=None, m=M, **options):
    """`fit` on the chosen backend."""
    options = {"epochs": 4, "learning_rate": 0.05, "record_every": 1} | options
    params = net.init("scaled", seed=3, dtype="float64") if params is None else params
    X, Y = map(to_device, data(net, m) if given is None else given)
    return accelnn.fit(net, params, X, Y, **options)


def check_same(found, expected):
    """Bits and histories are equal, all but the times."""
    np.testing.assert_array_equal(to_host(found[0].flat), to_host(expected[0].flat))
    one, other = (
        {name: value for name, value in vars(history).items() if name not in HIDDEN}
        for _, history in (found, expected)
    )
    assert one == other
    assert (found[1].final_cost, found[1].final_accuracy) == (
        expected[1].final_cost,
        expected[1].final_accuracy,
    )
    one, other = found[1].state, expected[1].state
    assert (one is None) == (other is None)
    if one is not None:
        assert replace(one, moments=()) == replace(other, moments=())
        for moment, expected_moment in zip(one.moments, other.moments, strict=True):
            np.testing.assert_array_equal(to_host(moment), to_host(expected_moment))


def check_breaks(killed, steps, before=None, **options):
    """A training that ends at its first checkpoint, after 1, 2, ... `steps` steps or so, or so many
    epochs if `before` is a text, goes on exactly, with pauses as often."""
    expected = trained(**options)
    for k in range(1, steps + 1):
        Path("run.h5").unlink(missing_ok=True)
        every = before.format(k) if before else k + 2  # there are up to two looks before a step
        options |= {"checkpoint": "run.h5", "checkpoint_every": every}
        killed(1)
        with suppress(Killed):
            trained(**options)
        killed(None)
        check_same(trained(resume=True, **options), expected)


# --------------------------------------------------------------------------------------------
# the same bits


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_mini_batches_go_on_from_any_step(solver, optimizer, killed):
    """The last batch is short, two layers have dropout."""
    options = {"solver": solver, "optimizer": optimizer, "learning_rate": RATES[optimizer]}
    check_breaks(killed, 13, net=NETS["dropout by layer"], batch_size=7, **options)


WIDE = Network([60, 5, 3], hidden="tanh", output="softmax", l2=0.4)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "heavyball", "nesterov"])
@pytest.mark.parametrize("solver", ["direct", "jitted", "gram", "gram-jitted"])
def test_full_batches_go_on_from_any_step(solver, optimizer, killed):
    options = {"solver": solver, "optimizer": optimizer, "learning_rate": RATES[optimizer]}
    check_breaks(killed, 6, net=WIDE, record_every=2, validation=0.3, epochs=5, **options)
    check_breaks(killed, 6, net=replace(WIDE, keep_prob=0.8), epochs=5, **options)


OWN = data(NETS["two layers"], 11, seed=1)
COURSES = {
    "records far apart": {"record_every": 3, "epochs": 7},
    "validation": {"validation": OWN, "record_every": 2},
    "patience": {
        "validation": 0.3,
        "patience": 2,
        "learning_rate": 3.0,
        "record_every": 1,
        "epochs": 8,
    },
    "callbacks": {"callbacks": [lambda _: None], "record_every": 2},
    "callbacks and validation": {"callbacks": [lambda _: None], "validation": 0.2},
    "a callback that ends it": {"callbacks": [lambda now: now.epoch == 2]},
    "weights": {"weights": np.arange(M) % 4 / 2.0},
    "in order": {"shuffle": False},
    "a schedule": {"learning_rate": lambda epoch: 0.1 / (1 + epoch)},
    "float32": {"params": NETS["two layers"].init("scaled", seed=3, dtype="float32")},
    "one batch": {"batch_size": 64},
    "seed": {"seed": 5, "optimizer": Adam(epsilon=1e-6)},
}


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_every_course_goes_on_from_any_step(solver, course, killed):
    options = {"solver": solver, "batch_size": 7} | COURSES[course]
    steps = 13 if course != "one batch" else 5
    check_breaks(killed, steps, **options)
    check_breaks(killed, 5, before="{} epochs", **options)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_own_permutations_are_passed_again_from_the_start(solver, killed):
    orders = [np.random.default_rng(epoch).permutation(M) for epoch in range(4)]
    check_breaks(killed, 13, shuffle=orders, solver=solver, batch_size=7)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("shuffle", [True, [np.roll(np.arange(M), 3 * n) for n in range(4)]])
def test_a_training_that_continued_another_goes_on(shuffle, killed):
    options = {"optimizer": "adam", "batch_size": 7, "solver": "jitted"}
    params, history = trained(epochs=3, **options)
    check_breaks(killed, 13, params=params, state=history.state, shuffle=shuffle, **options)


def break_after(steps, monkeypatch):
    """Make Ctrl-C come at this look at the clock."""
    looks, real = itertools.count(1), accelnn.solvers.job.Interruption.requested.fget

    def requested(interruption):
        if next(looks) == steps:
            signal.raise_signal(signal.SIGINT)
        return real(interruption)

    monkeypatch.setattr(accelnn.solvers.job.Interruption, "requested", property(requested))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("solver", ["direct", "jitted"])
@pytest.mark.parametrize("record_every", [1, 2])
def test_the_state_after_ctrl_c_within_an_epoch_goes_on(solver, record_every, monkeypatch):
    net = NETS["dropout by layer"]
    options = {"net": net, "solver": solver, "optimizer": "adam", "batch_size": 7}
    options |= {"record_every": record_every}
    expected = trained(**options)
    for k in range(1, 12):
        with monkeypatch.context() as patch:
            break_after(k, patch)
            with pytest.raises(accelnn.Interrupted) as stopped:
                trained(**options)
        params, begun = stopped.value.params, stopped.value.history
        assert begun.state.steps // 3 == begun.epochs_run <= 4
        more = {"epochs": 4 - begun.epochs_run, "state": begun.state}
        ended = trained(params=params, **options | more)
        np.testing.assert_array_equal(ended[0].flat, expected[0].flat)
        if record_every == 1:
            assert begun.costs + ended[1].costs == expected[1].costs
        # An epoch whose first batches were not recorded has no cost.
        assert np.isfinite(ended[1].costs).all()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_ctrl_c_at_any_step_is_resumed(solver, monkeypatch):
    options = {"solver": solver, "optimizer": "adam", "batch_size": 7, "checkpoint": "run.h5"}
    expected = trained(**options)
    for k in range(1, 12):
        Path("run.h5").unlink()
        with monkeypatch.context() as patch:
            break_after(k, patch)
            with pytest.raises(accelnn.Interrupted, match="run.h5 holds it up to epoch") as stopped:
                trained(**options, checkpoint_every=3)
        assert stopped.value.checkpoint == Path("run.h5")
        check_same(trained(**options, resume=True), expected)


def test_a_callback_that_raises_ctrl_c_loses_nothing():
    def press(now):
        if now.epoch == 2:
            raise KeyboardInterrupt

    expected = trained(callbacks=[lambda _: None])
    with pytest.raises(accelnn.Interrupted, match="up to epoch 3"):
        trained(callbacks=[press], checkpoint="run.h5")
    found = trained(callbacks=[lambda _: None], checkpoint="run.h5", resume=True)
    check_same(found, expected)


@pytest.mark.parametrize("solver", ["gram", "gram-jitted", "jitted", "direct"])
def test_more_epochs_go_on_for_longer(solver):
    options = {"net": WIDE, "solver": solver, "checkpoint": "run.h5", "resume": True}
    for epochs in (0, 3, 5):
        found = trained(epochs=epochs, **options)
    check_same(found, trained(net=WIDE, solver=solver, epochs=5))
    with refused("run.h5 holds another training: epochs: 5 begun in run.h5, 4 now"):
        trained(epochs=4, **options)


def test_records_stay_as_far_apart_if_the_default_would_change():
    options = {"checkpoint": "run.h5", "resume": True, "record_every": None}
    trained(epochs=50, **options)
    found = trained(epochs=300, **options)
    assert found[1].epochs == [*range(300)]
    check_same(found, trained(epochs=300, record_every=1))


def test_a_training_that_has_ended_returns_at_once(monkeypatch):
    options = {"checkpoint": "run.h5", "resume": True, "validation": 0.3, "patience": 2}
    options |= {"epochs": 50, "learning_rate": 3.0}
    expected = trained(**options)
    assert expected[1].stopped.startswith("patience")
    before = Path("run.h5").read_bytes()
    monkeypatch.setattr(Direct, "advance", None)
    check_same(trained(**options), expected)
    assert Path("run.h5").read_bytes() == before


def test_callbacks_are_called_once_for_each_record(killed):
    called = []
    options = {"callbacks": [lambda now: called.append(now.epoch)], "checkpoint": "run.h5"}
    options |= {"checkpoint_every": "3 epochs", "record_every": 2, "epochs": 9}
    killed(2)
    with pytest.raises(Killed):
        trained(**options)
    assert called == [0, 2, 4]
    trained(resume=True, **options)
    assert called == [0, 2, 4, 6, 8]


def test_resuming_draws_few_of_the_orders_again(monkeypatch):
    options = {"checkpoint": "run.h5", "resume": True, "batch_size": 10, "record_every": 500}
    options["given"] = data(NETS["two layers"], M)
    trained(epochs=1234, **options)
    drawn, real = [], np.random.default_rng

    def counted(seed=None):
        generator = real(seed)
        permutation = lambda m: drawn.append(m) or generator.permutation(m)  # noqa: E731
        bits = generator.bit_generator
        return SimpleNamespace(permutation=permutation, bit_generator=bits)

    with monkeypatch.context() as patch:
        patch.setattr(batches.np.random, "default_rng", counted)
        found = trained(epochs=1240, **options)
    assert len(drawn) <= batches.MARKED + 6
    check_same(found, trained(epochs=1240, batch_size=10, record_every=500))


def test_a_pause_costs_at_most_a_hundredth(monkeypatch):
    """By a clock that writing takes 2 s of, and a step 1 s."""
    now, written = [0.0], []

    def write(*_):
        written.append(now[0])
        now[0] += 2

    fake = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("accelnn.solvers.job.time", fake)
    monkeypatch.setattr("accelnn.training.checkpoint.time", fake)
    monkeypatch.setattr(models, "write", write)
    second = [lambda _: now.__setitem__(0, now[0] + 1)]
    trained(epochs=700, callbacks=second, checkpoint="run.h5", checkpoint_every=5)
    assert written == [5, 207, 409, 611, 708]


# --------------------------------------------------------------------------------------------
# on devices


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("solver", ["direct", "gram"])
def test_vectorised_code_on_the_device_goes_on(solver, killed):
    options = {"net": WIDE, "solver": solver, "optimizer": "momentum", "learning_rate": 0.1}
    options |= {"validation": 0.3, "patience": 50}
    check_breaks(killed, 4, before="{} epochs", **options)


@pytest.mark.usefixtures("double_with_kernels")
def test_sample_space_in_one_launch_goes_on(killed):
    net = replace(WIDE, keep_prob=0.8)
    options = {"net": net, "solver": "gram-jitted", "optimizer": "momentum", "learning_rate": 0.1}
    check_breaks(killed, 3, before="{} epochs", record_every=2, **options)


@pytest.mark.usefixtures("double_with_cublaslt")
@pytest.mark.parametrize("batch_size", [None, 7])
def test_captured_steps_go_on(batch_size, killed):
    net = NETS["dropout by layer"]
    params = net.init("scaled", seed=3, dtype="float32")
    options = {"net": net, "params": params, "solver": "jitted", "optimizer": "adam"}
    check_breaks(killed, 3, before="{} epochs", batch_size=batch_size, **options)


@pytest.mark.usefixtures("double")
def test_streamed_data_goes_on(killed):
    net = NETS["two layers"]
    given = data(net, M)
    options = {"batch_size": 7, "solver": "direct"}

    def streamed(**more):
        params = net.init("scaled", seed=3, dtype="float64")
        return accelnn.fit(net, params, *given, epochs=4, learning_rate=0.1, **options | more)

    expected = streamed()
    killed(2)
    with pytest.raises(Killed):
        streamed(checkpoint="run.h5", checkpoint_every="1 epoch")
    killed(None)
    check_same(streamed(checkpoint="run.h5", resume=True), expected)


# --------------------------------------------------------------------------------------------
# refusals


OTHERS = {
    "layers": ({"net": Network([5, 6, 5, 1], hidden=("tanh", "sigmoid"))}, r".*\[5, 6, 5, 1\] now"),
    "l2": ({"net": replace(NETS["two layers"], l2=0.5)}, "0.0 in run.h5, 0.5 now"),
    "learning_rate": ({"learning_rate": 0.2}, "0.05 in run.h5, 0.2 now"),
    "optimizer": ({"optimizer": Adam(beta1=0.8)}, r"sgd\(\) in run.h5, adam\(beta1=0.8"),
    "batch_size": ({"batch_size": 8}, "7 in run.h5, 8 now"),
    "seed": ({"seed": 4}, "0 in run.h5, 4 now"),
    "record_every": ({"record_every": 2}, "1 in run.h5, 2 now"),
    "shuffle": ({"shuffle": False}, "True in run.h5, False now"),
    "validation": ({"validation": 0.2}, "None in run.h5, 0.2 now"),
    "solver": ({"solver": "direct"}, "jitted in run.h5, direct now"),
    "weights": ({"weights": np.ones(M)}, r"None in run.h5, float64 \(20,\)"),
    "X": ({"given": data(NETS["two layers"], M, seed=2)}, r"float64 \(5, 20\) #\w+ in run.h5"),
    "dtype": (
        {"params": NETS["two layers"].init("scaled", seed=3, dtype="float32")},
        "float64 in run.h5, float32 now",
    ),
    "params": (
        {"params": NETS["two layers"].init("scaled", seed=4, dtype="float64")},
        r"float64 \(69,\) #\w+ in run.h5",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_with_what_differs(name):
    options = {"batch_size": 7, "solver": "jitted", "checkpoint": "run.h5", "resume": True}
    trained(**options)
    other, found = OTHERS[name]
    with refused(f"run.h5 holds another training: .*{name}: {found}"):
        trained(**options | other)
    trained(**options | {"solver": "auto"})


def test_a_schedule_is_compared_by_the_epochs_done():
    options = {"checkpoint": "run.h5", "resume": True}
    trained(epochs=3, learning_rate=lambda epoch: 0.1 if epoch < 3 else None, **options)
    trained(epochs=4, learning_rate=lambda epoch: 0.1 if epoch < 3 else 0.05, **options)
    with refused("learning_rate: a schedule, 0.05 after 4 epochs .* in run.h5, 0.1 now"):
        trained(epochs=5, learning_rate=0.1, **options)


def test_what_cannot_change_the_result_may_change():
    options = {"checkpoint": "run.h5", "epochs": 3}
    trained(**options)
    options |= {"epochs": 6, "resume": True, "checkpoint_every": "2 epochs", "verbose": "lines"}
    check_same(trained(callbacks=[lambda _: None], **options), trained(epochs=6))


def test_a_checkpoint_is_never_overwritten_unasked():
    trained(checkpoint="run.h5")
    before = Path("run.h5").read_bytes()
    with refused(
        "run.h5 exists: go on from it by resume=True, or --resume; or delete", FileExistsError
    ):
        trained(checkpoint="run.h5")
    assert Path("run.h5").read_bytes() == before


def test_resuming_without_a_file_begins():
    check_same(trained(checkpoint="run.h5", resume=True), trained())


def test_options_need_a_file_and_a_sensible_interval():
    for options in ({"resume": True}, {"checkpoint_every": 5.0}):
        with refused("needs a file: give checkpoint as well"):
            trained(**options)
    for every in (0, -1, np.inf, np.nan, True, None, "10", "0 epochs", "1.5 epochs", "x epochs"):
        with refused('expected checkpoint_every as seconds above 0, or such as "10 epochs"'):
            trained(checkpoint="run.h5", checkpoint_every=every)
    assert not os.listdir()


def test_a_file_that_cannot_be_written_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(Direct, "start", None)
    with refused("there is no folder none", FileNotFoundError):
        trained(checkpoint="none/run.h5")
    Path("folder").mkdir()
    with refused("no regular file", OSError):
        trained(checkpoint="folder")


def test_many_trainings_have_no_checkpoints():
    net = NETS["two layers"]
    for name, value in {"checkpoint": "run.h5", "checkpoint_every": 9.0, "resume": True}.items():
        with refused(f"fit_many takes no {name}: call fit for each training", TypeError):
            accelnn.fit_many(
                net, net.init(), *data(net, M), epochs=1, learning_rate=1.0, **{name: value}
            )


@pytest.mark.parametrize("m", [3, 1000])
def test_a_fingerprint_finds_one_other_number(m):
    X = np.random.default_rng(7).normal(size=(4, m)).astype("float32")
    expected = fingerprint(X)
    assert expected == fingerprint(np.asfortranarray(X)) == fingerprint(X.copy())
    for place in (0, 1, m - 1):
        other = X.copy()
        other[2, place] = np.nextafter(other[2, place], np.float32(9))
        assert fingerprint(other) != expected
    assert fingerprint(X[:, ::-1]) != expected
    streamed = HostColumns.of(X, np.dtype("float32"))
    assert fingerprint(streamed) == fingerprint(HostColumns.of(X.copy(), np.dtype("float32")))
    assert fingerprint(streamed) != fingerprint(HostColumns.of(X + 1, np.dtype("float32")))


def rewritten(**changes):
    """Change fields of run.h5, with a matching SHA-256, as a stranger might."""
    fields, numbers = models.read("run.h5", KIND)
    numbers = changes.pop("numbers", numbers)
    models.write("run.h5", KIND, fields | changes, numbers)


GENERATOR = np.random.default_rng(0).bit_generator.state
HOSTILE = {
    "epochs": (-1, "x", None, 1.5, True),
    "steps": (-1, None, [3]),
    "batches": (-1, "x"),
    "partial": ("x", None, [1]),
    "c": ([1.0], ["x"], 3, None),
    "records": (-1, 10**30, 3, None),
    "best": (True,),
    "best_record": (-1, "x"),
    "lowest": (None, "x"),
    "validated": (None, -1),
    "asked": ("1", -1),
    "dropout": (3, {}, {"bit_generator": "MT19937"}, GENERATOR | {"state": 3}),
    "mark": (3, [1], [-1, GENERATOR], [0, {}], ["x", GENERATOR]),
    "machine": (None, {}, {"steps": 0, "blas": 1, "device": ""}, {"steps": None, "blas": "x"}),
    "seconds": ("x", None),
    "numbers": (np.zeros(3), np.zeros(10**4, "float32")),
    "settings": (None, [], 3),
    "solver": ("none", None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name):
    options = {"checkpoint": "run.h5", "resume": True, "batch_size": 7}
    trained(**options)
    for value in HOSTILE[name]:
        rewritten(**{name: value})
        with refused("run.h5"):
            trained(epochs=9, **options)
        Path("run.h5").unlink()
        trained(**options)


def test_a_damaged_file_is_refused():
    trained(checkpoint="run.h5", batch_size=7)
    whole = Path("run.h5").read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        Path("run.h5").write_bytes(damaged)
        try:  # a bit that means nothing may have changed
            found = trained(checkpoint="run.h5", batch_size=7, resume=True)
        except ValueError as error:
            found = str(error)
        if isinstance(found, str):
            assert found.startswith("run.h5")
        else:
            check_same(found, trained(batch_size=7))
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        Path("run.h5").write_bytes(whole[:size])
        with refused("run.h5"):
            trained(checkpoint="run.h5", batch_size=7, resume=True)


def test_another_kind_of_file_is_refused():
    net = NETS["two layers"]
    accelnn.save(accelnn.Model(net, net.init()), "run.h5")
    with refused("run.h5 is not an accelnn checkpoint"):
        trained(checkpoint="run.h5", resume=True)
    trained(checkpoint="other.h5")
    with refused("other.h5 is not a model saved by accelnn"):
        accelnn.load("other.h5")
    with h5py.File("other.h5") as file:
        assert set(file) == {"weights"}
        json.loads(file.attrs["model"])


def test_another_number_of_threads_is_told(monkeypatch):
    options = {"solver": "jitted", "checkpoint": "run.h5", "resume": True}
    best = "accelnn.solvers.threads.best_count"
    monkeypatch.setattr(best, lambda *_: 2)
    trained(**options)
    monkeypatch.setattr(best, lambda *_: 3)  # it keeps to 2
    check_same(trained(epochs=6, **options), trained(epochs=6, solver="jitted", threads=2))
    monkeypatch.setattr(best, lambda *_: 1)
    with pytest.warns(RuntimeWarning, match="2 threads, .*goes on on .*1 threads.*may differ"):
        trained(epochs=8, **options)


# --------------------------------------------------------------------------------------------
# full disks and signals


def test_a_full_disk_ends_nothing_and_keeps_the_last_good_checkpoint(monkeypatch):
    write, written = models.write_whole, []

    def full(content, path):
        written.append(path)
        if len(written) in (1, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, path)

    monkeypatch.setattr(models, "write_whole", full)
    options = {"checkpoint": "run.h5", "checkpoint_every": "1 epoch"}
    with pytest.warns(RuntimeWarning) as caught:
        found = trained(**options)
    first, second = (str(warning.message) for warning in caught)
    assert first == (
        "run.h5: no checkpoint at epoch 1 ([Errno 28] No space left on device): "
        "there is none yet; the training goes on"
    )
    assert "at epoch 3" in second
    assert "the last one, of epoch 2, is still good" in second
    check_same(found, trained())
    check_same(trained(resume=True, **options), trained())


def test_a_folder_that_vanished_ends_nothing():
    Path("disk").mkdir()

    def gone(now):
        if now.epoch == 2:
            Path("disk/run.h5").unlink()
            os.rmdir("disk")

    options = {"checkpoint": "disk/run.h5", "checkpoint_every": "1 epoch"}
    with pytest.warns(RuntimeWarning, match="there is no folder disk"):
        found = trained(callbacks=[gone], **options)
    check_same(found, trained(callbacks=[lambda _: None]))


SCRIPT = """
import sys, json, numpy as np
import accelnn
from accelnn import datasets
options = json.loads(sys.argv[1])
net = accelnn.Network([2, 4, 1], hidden="tanh", keep_prob=options.pop("keep_prob", 1.0))
data = datasets.flower()
def ready(now):
    if now.epoch == 3:
        print("training", flush=True)
callbacks = [ready] * options.pop("ready", False)
given = net, net.init(seed=1), data.X_train, data.Y_train
params, history = accelnn.fit(*given, checkpoint="run.h5", callbacks=callbacks, **options)
print(params.flat.tobytes().hex(), json.dumps(history.costs))
"""


def child(options, **more):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(options)]
    return subprocess.Popen(arguments, **pipes, **more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_first(number):
    options = {"epochs": 10**8, "learning_rate": 0.1, "record_every": 1, "batch_size": 32}
    options["solver"] = "direct"
    with child(options | {"ready": True}) as process:
        assert process.stdout.readline() == "training\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Interrupted: training interrupted after " in error
    assert "run.h5 holds it up to epoch" in error
    fields, _ = models.read("run.h5", KIND)
    assert fields["epochs"] >= 4
    epochs = fields["epochs"] + 5
    net = Network([2, 4, 1], hidden="tanh")
    flower = accelnn.datasets.flower()
    given = net, net.init(seed=1), flower.X_train, flower.Y_train
    options["epochs"] = epochs
    found = accelnn.fit(*given, **options, checkpoint="run.h5", resume=True)
    check_same(found, accelnn.fit(*given, **options))


def test_without_a_checkpoint_sigterm_ends_the_process(monkeypatch):
    called = []
    monkeypatch.setattr(signal, "signal", lambda number, _: called.append(number))
    trained()
    assert set(called) == {signal.SIGINT}
    trained(checkpoint="run.h5")
    assert set(called) == {signal.SIGINT, signal.SIGTERM}


def test_another_handler_of_sigterm_stays():
    handled = []
    before = signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
    try:
        press = [lambda now: now.epoch == 1 and signal.raise_signal(signal.SIGTERM)]
        trained(checkpoint="run.h5", callbacks=press)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == [1]


def test_a_full_disk_in_a_child_keeps_the_last_good_checkpoint():
    """By the limit of a file's size, which a checkpoint with more records exceeds."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    options = {"epochs": 3000, "learning_rate": 0.1, "record_every": 1}
    with child(options | {"checkpoint_every": "50 epochs"}, preexec_fn=limit) as process:
        output, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "File too large): the last one, of epoch " in error
    epochs = models.read("run.h5", KIND)[0]["epochs"]
    assert 0 < epochs < 3000
    with child(options | {"resume": True}) as process:
        assert process.communicate(timeout=60)[0] == output
    assert os.listdir() == ["run.h5"]


KILLED = {
    "direct, mini-batches, adam": {"solver": "direct", "batch_size": 50, "optimizer": "adam"},
    "jitted, dropout": {"solver": "jitted", "batch_size": 30, "keep_prob": 0.8, "epochs": 3000},
    "direct, momentum": {"solver": "direct", "optimizer": "momentum", "epochs": 6000},
    "gram-jitted": {"solver": "gram-jitted", "optimizer": "nesterov", "epochs": 1500},
    "validation and patience": {
        "solver": "jitted",
        "batch_size": 64,
        "validation": 0.2,
        "patience": 100_000,
        "epochs": 4000,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_process_killed_at_random_moments_goes_on(name):
    options = {"epochs": 1000, "learning_rate": 0.05, "resume": True, "record_every": 10}
    options |= {"checkpoint_every": "7 epochs"} | KILLED[name]
    for _ in range(2):  # the first compiles
        Path("run.h5").unlink(missing_ok=True)
        start = time.monotonic()
        with child(options) as process:
            expected = process.communicate()[0]
        assert process.returncode == 0
        seconds = time.monotonic() - start
    draw, kills, survived = random.Random(name), 0, 0
    Path("run.h5").unlink()
    while kills < 10:
        with child(options) as process:
            time.sleep(draw.uniform(0.2, seconds))
            process.kill()
            output, _ = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            assert output == expected
            survived += 1
            Path("run.h5").unlink()
    with child(options) as process:
        assert process.communicate()[0] == expected
    print(f"{name}: {kills} kills, {survived} trainings ended before")
