"""Trainings in threads and processes of every kind; run as a script by tests/test_concurrency.py.

`python workers.py KIND` exits with an error unless every training is right, in several threads
each, and BLAS has as many threads as before.
"""

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import threadpoolctl

import accelnn
from accelnn.solvers import threads

threads.best_count = lambda *_: 2  # at import, for processes that spawn starts

random = np.random.default_rng(0)
X, Y = random.normal(size=(400, 2000)), random.integers(10, size=2000)
net = accelnn.Network([400, 64, 10], output="softmax")
SOLVERS = ("jitted", "direct")


def train(solver: str, epochs: int = 3) -> np.ndarray:
    given = {"learning_rate": 0.1, "batch_size": 128, "solver": solver}
    return accelnn.fit(net, net.init(), X, Y, epochs=epochs, **given)[0].flat


def blas_threads() -> dict:
    return {one["filepath"]: one["num_threads"] for one in threadpoolctl.threadpool_info()}


def in_threads() -> list:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(train, SOLVERS * 4))


def forked() -> list:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(train, SOLVERS * 2)


def train_many(solver: str) -> list:
    given = {"epochs": 3, "learning_rate": 0.1, "batch_size": 128, "solver": solver}
    both = accelnn.fit_many([net, net], net.init(), X, Y, **given)
    return [params.flat for params, _ in both]


def many_forked() -> list:
    before = train_many("jitted")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(train_many, SOLVERS), before)


def spawned() -> list:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.map(train, SOLVERS)


def joblib_threading() -> list:
    from joblib import Parallel, delayed

    return list(Parallel(4, backend="threading")(delayed(train)(name) for name in SOLVERS * 4))


def joblib_loky() -> list:
    from joblib import Parallel, delayed

    return list(Parallel(2, backend="loky")(delayed(train)(name) for name in SOLVERS))


def forked_while_held(lock) -> list:
    """As if a thread that holds a lock worked on while another forked."""
    receive, send = multiprocessing.Pipe(duplex=False)
    with lock:
        if (child := os.fork()) == 0:
            send.send(train("jitted"))
            os._exit(0)
    try:
        assert receive.poll(15), "the child waits for the lock"
        return [receive.recv()]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def forked_within_a_training() -> list:
    return forked_while_held(threads._pool.running)


def forked_while_loading() -> list:
    return forked_while_held(threads.loading())


if __name__ == "__main__":
    expected, before = train("jitted"), blas_threads()
    for result in globals()[sys.argv[1]]():
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(train("jitted"), expected, rtol=1e-10, atol=1e-12)
    assert before.items() <= blas_threads().items(), (before, blas_threads())
