"""What test_distributed.py runs under mpiexec: `python -m mpi4py on_processes.py PART`.

Each training runs on one process with all of the data, and on all processes with shares of it.
Process 1 prints a line of JSON for each case: its name and what is wrong, nothing if all is well.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
from mpi4py import MPI

import accelnn
from accelnn import Adam, Network, datasets
from accelnn.distributed import Processes

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
random = np.random.default_rng(0)

# more examples than features; the first of three processes has so few that it has none of a batch
CUTS = {2: (0, 17, 41), 3: (0, 3, 30, 41)}[size]
EXAMPLES = slice(CUTS[rank], CUTS[rank + 1])
X, Y, WEIGHTS = random.standard_normal((5, 41)), random.integers(0, 3, 41), random.random(41)
OTHERS = random.standard_normal((5, 9)), random.integers(0, 3, 9)

# more features than examples
ROWS = {2: (0, 11, 31), 3: (0, 4, 5, 31)}[size]
FEATURES = slice(ROWS[rank], ROWS[rank + 1])
WIDE, LABELS = random.standard_normal((31, 12)), random.integers(0, 3, 12)
OF_WIDE = random.random(12)
OTHERS_WIDE = random.standard_normal((31, 7)), random.integers(0, 3, 7)

PLAIN = Network([5, 6, 3], output="softmax")
DEEP = Network([5, 6, 4, 3], hidden="tanh", output="softmax", l2=0.5)
DROPPING = Network([5, 8, 3], output="softmax", keep_prob=0.7, l2=0.1)

# by name: the net, and the arguments of `fit`
OF_EXAMPLES = {
    "all examples": (DEEP, {}),
    "mini-batches": (DEEP, {"batch_size": 6}),
    "batches of one": (PLAIN, {"batch_size": 1, "validation": 0.3, "learning_rate": 0.05}),
    "in order": (PLAIN, {"batch_size": 4, "shuffle": False}),
    "momentum": (DEEP, {"batch_size": 6, "optimizer": "momentum"}),
    "heavy ball": (DEEP, {"optimizer": "heavyball", "learning_rate": 0.02}),
    "nesterov": (DEEP, {"batch_size": 6, "optimizer": "nesterov", "learning_rate": 0.02}),
    "adam": (DEEP, {"batch_size": 6, "optimizer": Adam(beta1=0.8), "learning_rate": 0.01}),
    "dropout": (DROPPING, {}),
    "dropout in mini-batches": (DROPPING, {"batch_size": 6, "record_every": 3}),
    "weights": (DEEP, {"weights": WEIGHTS}),
    "weights in mini-batches": (DROPPING, {"weights": WEIGHTS, "batch_size": 7, "validation": 0.3}),
    "a validation set": (PLAIN, {"batch_size": 4, "validation": OTHERS}),
    "patience": (PLAIN, {"epochs": 300, "validation": 0.3, "patience": 20, "batch_size": 4}),
    "float32": (DROPPING, {"batch_size": 6, "dtype": "float32"}),
    "a schedule": (PLAIN, {"learning_rate": lambda epoch: 0.1 / (1 + epoch)}),
    "a callback": (PLAIN, {"callbacks": [lambda now: now.epoch == 7 and rank == size - 1]}),
}
OF_FEATURES = {
    "plain": (Network([31, 6, 3], output="softmax"), {}),
    "momentum": (Network([31, 6, 3], output="softmax"), {"optimizer": "momentum"}),
    "L2": (Network([31, 6, 4, 3], output="softmax", l2=0.5), {"optimizer": "nesterov"}),
    "dropout": (Network([31, 6, 3], output="softmax", keep_prob=0.7), {}),
    "weights": (Network([31, 3], output="softmax", l2=0.1), {"weights": OF_WIDE}),
    "a validation set": (Network([31, 6, 3], output="softmax"), {"validation": OTHERS_WIDE}),
    "patience": (
        Network([31, 6, 3], output="softmax"),
        {"epochs": 300, "validation": 0.3, "patience": 10},
    ),
}


def report(name, wrong):
    """Print what is wrong on any process."""
    found = [text for texts in comm.allgather(wrong) for text in texts]
    if rank == 0:
        print(json.dumps([name, found]), flush=True)


def difference(one, many):
    """What differs between two results of `fit`, in a few words."""
    (params, history), (found, of_all) = one, many
    tolerance = 1e-12 if params.dtype == np.float64 else 2e-6
    numbers = ["costs", "validation_costs", "validation_accuracies", "final_cost"]
    numbers += ["final_accuracy", "final_validation_cost", "final_validation_accuracy"]
    pairs = {"weights": (params.flat, found.flat)}
    pairs |= {name: (getattr(history, name), getattr(of_all, name)) for name in numbers}
    states = [each.state.moments if each.state else () for each in (history, of_all)]
    pairs |= {f"moment {i}": pair for i, pair in enumerate(zip(*states, strict=True))}
    wrong = []
    for name, (expected, got) in pairs.items():
        if expected is None or len(np.atleast_1d(expected)) != len(np.atleast_1d(got)):
            wrong += [] if expected is got is None else [f"{name}: {expected}, {got}"]
        elif len(np.atleast_1d(expected)):
            worst = float(np.abs(np.subtract(expected, got)).max())
            wrong += [] if worst < tolerance else [f"{name} by {worst:.2g}"]
    for name in ("solver", "epochs", "epochs_run", "stopped"):
        expected, got = getattr(history, name), getattr(of_all, name)
        wrong += [] if expected == got else [f"{name}: {expected}, {got}"]
    return wrong


def trained(net, data, shares, options):
    """What `fit` returns on one process and on all."""
    options = {"epochs": 20, "learning_rate": 0.1, **options}
    params = net.init("he", seed=2, dtype=options.pop("dtype", "float64"))
    alone = dict(options)
    if "callbacks" in options:
        alone["callbacks"] = [lambda now: now.epoch == 7]
    one = accelnn.fit(net, params, *data, **alone)
    return one, accelnn.fit(net, params, **options | shares, comm=comm)


def examples_case(solver, net, options):
    shares = {"X": X[:, EXAMPLES], "Y": Y[EXAMPLES]}
    if "weights" in options:
        shares["weights"] = WEIGHTS[EXAMPLES]
    if isinstance(options.get("validation"), tuple):
        mine = slice(rank, None, size)
        shares["validation"] = OTHERS[0][:, mine], OTHERS[1][mine]
    return difference(*trained(net, (X, Y), shares, options | {"solver": solver}))


def features_case(solver, net, options):
    shares = {"X": WIDE[FEATURES], "Y": LABELS}
    if isinstance(options.get("validation"), tuple):
        shares["validation"] = OTHERS_WIDE[0][FEATURES], OTHERS_WIDE[1]
    return difference(*trained(net, (WIDE, LABELS), shares, options | {"solver": solver}))


def trainings():
    # three processes on two cores, which they wait for busily, take long
    for solver in ("direct", "jitted")[: 4 - size]:
        for name, (net, options) in OF_EXAMPLES.items():
            report(f"{solver}, {name}", examples_case(solver, net, options))
    for solver in ("auto", "gram", "gram-jitted")[: 5 - size]:
        for name, (net, options) in OF_FEATURES.items():
            report(f"{solver}, features, {name}", features_case(solver, net, options))
    report("cats", cats())
    report("a continued training", continued())
    report("many trainings", many())
    report("threads", [] if Processes(comm).local == (rank, size) else ["wrong local ranks"])


def cats():
    """The notes' cats, or without them stand-ins against one process."""
    with warnings.catch_warnings(action="ignore", category=datasets.StandInWarning):
        data = datasets.load_cats(os.environ.get("ACCELNN_DATA"), dtype="float64")
    net = Network([12288, 7, 1])
    params = net.init("scaled", seed=1)
    mine = slice(12288 * rank // size, 12288 * (rank + 1) // size)
    options = {"epochs": 3000, "learning_rate": 0.0075, "record_every": 2999}
    _, history = accelnn.fit(net, params, data.X_train[mine], data.Y_train, **options, comm=comm)
    if data.stand_in:
        _, alone = accelnn.fit(net, params, data.X_train, data.Y_train, **options)
        expected = alone.costs[-1], alone.final_cost
    else:
        from helpers.published import PUBLISHED

        expected = PUBLISHED["cat-2layer"][:2]
    found = history.costs[-1], history.final_cost
    return [] if np.allclose(found, expected, rtol=0, atol=1e-9) else [f"{found}, {expected}"]


def continued():
    """A training in two halves."""
    options = {"learning_rate": 0.05, "optimizer": "adam", "batch_size": 6, "seed": 3}
    params = DROPPING.init("he", seed=2)
    whole = accelnn.fit(DROPPING, params, X, Y, epochs=8, **options)
    mine = X[:, EXAMPLES], Y[EXAMPLES]
    half, history = accelnn.fit(DROPPING, params, *mine, epochs=4, **options, comm=comm)
    options["state"] = history.state
    rest, _ = accelnn.fit(DROPPING, half, *mine, epochs=4, **options, comm=comm)
    worst = float(np.abs(whole[0].flat - rest.flat).max())
    return [] if worst < 1e-12 else [f"weights by {worst:.2g}"]


def many():
    """Trainings spread over the processes, one of which fails."""
    params, rates = PLAIN.init("he", seed=1), [0.1, 0.05, 0.02, 0.01, 0.005]
    options = {"epochs": 20, "record_every": 5}
    alone = accelnn.fit_many(PLAIN, params, X, Y, learning_rate=rates, **options)
    spread = accelnn.fit_many(PLAIN, params, X, Y, learning_rate=rates, **options, comm=comm)
    wrong = [text for pair in zip(alone, spread, strict=True) for text in difference(*pair)]

    def fails(_):
        raise OSError("no space left")

    callbacks = [(), (fails,), (), (), ()]
    options |= {"learning_rate": 0.1, "callbacks": callbacks, "comm": comm}
    try:
        accelnn.fit_many(PLAIN, params, X, Y, **options)
    except accelnn.TrainingsFailed as error:
        results = [result is not None for result in error.results]
        wrong += [] if results == [True, False, True, True, True] else [str(results)]
        wrong += [] if "training 2: OSError: no space left" in str(error) else [str(error)]
    else:
        wrong.append("nothing failed")
    return wrong


def streamed():
    """Each process reads its part of one file."""
    pixels = np.random.default_rng(1).integers(0, 256, (41, 5), np.uint8)
    path = comm.bcast(tempfile.mkdtemp() if rank == 0 else None) + "/pixels.h5"
    if rank == 0:
        with h5py.File(path, "w") as file:
            file["rows"] = pixels
    comm.Barrier()
    with h5py.File(path) as file:
        stored = accelnn.stored(file["rows"], scale=255)
        for solver in ("direct", "jitted"):
            for name in ("mini-batches", "weights in mini-batches", "dropout in mini-batches"):
                net, options = OF_EXAMPLES[name]
                options = options | {"solver": solver, "shuffle": 4, "learning_rate": 0.01}
                shares = {"X": stored[:, EXAMPLES], "Y": Y[EXAMPLES]}
                if "weights" in options:
                    shares["weights"] = WEIGHTS[EXAMPLES]
                found = trained(net, ((pixels / 255.0).T, Y), shares, options)
                report(f"streamed, {solver}, {name}", difference(*found))


RESUMED = {
    "direct": (DROPPING, {"batch_size": 6, "optimizer": "adam", "learning_rate": 0.01}),
    "jitted": (DEEP, {"batch_size": 6, "validation": 0.3, "patience": 50, "weights": WEIGHTS}),
    "gram": (OF_FEATURES["L2"][0], {"optimizer": "momentum", "validation": 0.3, "patience": 50}),
    "gram-jitted": (OF_FEATURES["dropout"][0], {}),
}


def resumed():
    """A checkpoint of all processes, gone on from by one, and the other way round."""
    folder = Path(comm.bcast(tempfile.mkdtemp() if rank == 0 else None))
    for solver, (net, options) in RESUMED.items():
        wide, weights = solver.startswith("gram"), options.get("weights")
        whole = {"X": WIDE, "Y": LABELS} if wide else {"X": X, "Y": Y, "weights": weights}
        mine = {"X": WIDE[FEATURES]} if wide else {"X": X[:, EXAMPLES], "Y": Y[EXAMPLES]}
        if weights is not None:
            mine["weights"] = weights[EXAMPLES]
        given = {"learning_rate": 0.1, "solver": solver, "record_every": 2, **options, **whole}
        given |= {"net": net, "params": net.init("he", seed=2)}
        expected = accelnn.fit(**given, epochs=20)
        of_all = given | mine | {"comm": comm}
        for name, first, then in (("by one", of_all, given), ("by all", given, of_all)):
            shared = {"checkpoint": folder / f"{solver} {name}.h5", "checkpoint_every": "3 epochs"}
            own = shared | {"checkpoint": folder / f"{rank} {solver} {name}.h5"}
            accelnn.fit(**first, epochs=9, **shared if first is of_all else own)
            comm.Barrier()
            if first is of_all:  # each goes on from a file of its own
                shutil.copy(shared["checkpoint"], own["checkpoint"])
            elif rank == 0:
                shutil.copy(own["checkpoint"], shared["checkpoint"])
            comm.Barrier()
            files = shared if then is of_all else own
            found = accelnn.fit(**then, epochs=20, **files, resume=True)
            report(f"resumed {name}, {solver}", difference(expected, found))
        try:
            accelnn.fit(**of_all | {"seed": 9}, epochs=20, **shared, resume=True)
        except ValueError as error:
            report(f"another seed, {solver}", [] if "seed: 0 in" in str(error) else [str(error)])
        else:
            report(f"another seed, {solver}", ["not refused"])


def on_last(value, other):
    return value if rank == size - 1 else other


def refusals():
    """Wrong arguments, and what every process must then raise."""
    params, mine = PLAIN.init("he", seed=1), {"X": X[:, EXAMPLES], "Y": Y[EXAMPLES]}
    bad = mine["X"].copy()
    bad.flat[:2] = np.nan, np.inf
    wide, last = Network([31, 3], output="softmax"), f"process {size} of {size}"
    features = {"net": wide, "params": wide.init(seed=1), "X": WIDE[FEATURES], "Y": LABELS}
    for name, changes, message in (
        ("values", {"X": on_last(bad, mine["X"])}, f"{last}: X has 2 NaN or infinite values"),
        ("types", {"X": on_last("x", mine["X"])}, f"{last}: expected X as an array"),
        ("labels", {"Y": on_last(mine["Y"] + 9, mine["Y"])}, f"{last}: "),
        ("the same everywhere", {"batch_size": 0}, "expected batch_size as an integer >= 1, got 0"),
        ("options", {"batch_size": on_last(3, 2)}, f"process 1 has 2, {last} 3"),
        ("missing weights", {"weights": on_last(None, WEIGHTS[EXAMPLES])}, "the same weights"),
        ("rows", {"X": X[: on_last(3, 4), EXAMPLES]}, "expected X of shape (5, m_k)"),
        ("solver", {"solver": "gram"}, "processes share out the examples: use the solver 'direct'"),
        ("solver for features", {**features, "solver": "direct"}, "use the solver 'gram'"),
        ("optimizer", {**features, "optimizer": "adam"}, "adam is not linear"),
        ("batches", {**features, "batch_size": 3}, "needs full batches"),
        ("first weights", {"params": PLAIN.init("he", seed=on_last(2, 1))}, f"of {last} differ"),
        ("labels of features", {**features, "Y": np.roll(LABELS, on_last(1, 0))}, "labels Y"),
        ("communicator", {"comm": "world"}, "expected comm as a communicator of mpi4py"),
    ):
        given = {"net": PLAIN, "params": params, **mine, "epochs": 3, "learning_rate": 0.1}
        try:
            accelnn.fit(**given | {"comm": comm} | changes)
        except (ValueError, TypeError, RuntimeError) as error:
            report(name, [] if message in str(error) else [str(error)])
        else:
            report(name, ["not refused"])


def ending(action):
    """A training that `action` ends on the last process, or Ctrl-C on all."""

    def act(now):
        if now.epoch == 5 and rank == 0:
            print("training", flush=True)
        if now.epoch == 5 and rank == size - 1:
            action()

    params = PLAIN.init("he", seed=1)
    options = {"epochs": 10**6, "learning_rate": 1e-6, "batch_size": 8, "record_every": 5}
    mine = X[:, EXAMPLES], Y[EXAMPLES]
    try:
        accelnn.fit(PLAIN, params, *mine, **options, callbacks=[act], comm=comm)
    except accelnn.Interrupted as stopped:
        same = len(set(comm.allgather(stopped.history.epochs_run))) == 1
        if rank == 0:
            print(f"interrupted together: {same}", flush=True)


def differing():
    """Training goes wrong on the last process."""

    def disturb(now):
        if rank == size - 1:
            now.parameters.__self__.trainer.params.flat[0] += 1e-6

    Processes.compare_at_times = lambda self, array: self.compare(array)
    mine = X[:, EXAMPLES], Y[EXAMPLES]
    options = {"epochs": 50, "learning_rate": 0.1, "record_every": 5, "comm": comm}
    try:
        accelnn.fit(PLAIN, PLAIN.init("he", seed=1), *mine, **options, callbacks=[disturb])
    except RuntimeError as error:
        report("differing", [] if f"process {size} of {size}" in str(error) else [str(error)])


def fail():
    raise OSError("the disk is full")


PARTS = {
    "files": lambda: (streamed(), resumed()),
    "trainings": lambda: (trainings(), refusals(), differing()),
    "failing": lambda: ending(fail),
    "killed": lambda: ending(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "interrupted": lambda: ending(lambda: None),
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    PARTS[sys.argv[1]]()
