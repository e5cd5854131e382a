"""The peers do our job: same steps, same mini-batches; and none of them can hang, crash or outlive
the benchmark.

Stand-ins for a package that is broken are modules of its name in a folder that the peer's process
searches first.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_limits

import accelnn
from accelnn.bench import peers, timing, trainings
from accelnn.bench import records as data
from accelnn.bench.__main__ import main
from accelnn.bench.peers import PEERS, Job, Peer, PeerError, Unfit
from accelnn.network import Parameters

# per net, what makes it a job of its own
NETS = {
    "logistic": accelnn.Network([40, 1], l2=0.5),
    "deep, L2": accelnn.Network([40, 5, 4, 1], hidden="tanh", l2=0.5),
    "labels": accelnn.Network([40, 6, 3], hidden="sigmoid"),
    "classes": accelnn.Network([40, 6, 3], output="softmax"),
    "mixed, linear": accelnn.Network([40, 5, 4, 2], hidden=["leaky_relu", "relu"], output="linear"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "REST", 0.0)
    limits = {"stream_gb_per_s": 20.0, "matmul_gflop_per_s": 50.0}
    monkeypatch.setattr("accelnn.bench.machine.limits", lambda *_args, **_options: dict(limits))
    with threadpool_limits(1):  # two threads that wait for one another are slow beside other work
        yield


def job_of(net, dtype="float64", optimizer="sgd", batch_size=None, m=30):
    random = np.random.default_rng(3)
    X = random.standard_normal((m, net.layers[0])).astype(dtype)
    labels = np.arange(m) % net.layers[-1] if net.layers[-1] > 1 else np.arange(m) % 2
    Y = np.eye(net.layers[-1])[labels] if net.layers[-1] > 1 else labels[:, None]
    params = net.init("scaled", seed=2, dtype=dtype)
    return Job(
        layers=net.layers,
        hidden=net.hidden,
        output=net.output,
        l2=net.l2,
        optimizer=optimizer,
        learning_rate=0.01 if optimizer == "adam" else 0.1,
        batch_size=batch_size,
        threads=1,
        weights=params.flat,
        seed=5,
        X=X,
        Y=np.ascontiguousarray(Y.astype(dtype)),
    )


def ours(net, job, epochs):
    """What `accelnn.fit` makes of the job."""
    params, _ = accelnn.fit(
        net,
        Parameters(job.weights, job.layers),
        job.X.T,
        job.Y.T,
        epochs=epochs,
        learning_rate=job.learning_rate,
        optimizer=job.optimizer,
        batch_size=job.batch_size,
        solver="direct",
        seed=job.seed,
    )
    return params.flat


def trained_by(name, job, epochs):
    """The weights that a peer arrives at, here and not in another process: that is quicker."""
    kind = PEERS[name]
    pytest.importorskip(kind.package)
    module = __import__(kind.module, fromlist=["trainers"])
    found = {}
    for way, make in module.trainers(name, job).items():
        if name == "torch-compile" or way != "compiled":
            trainer = make()
            trainer.restart(job.weights, job.seed)
            trainer.train(2)  # begun anew, nothing of this is left
            trainer.restart(job.weights, job.seed)
            if name != "sklearn" or job.optimizer == "sgd":  # its `fit` forgets all but the weights
                trainer.train(1)
                trainer.train(epochs - 1)
            else:
                trainer.train(epochs)
            found[way] = trainer.weights()
    return found


# --------------------------------------------------------------------------------------------
# the same job


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("name", ["torch", "torch-gram", "jax", "sklearn"])
def test_full_batch_gradient_descent_takes_our_steps(name, net, dtype):
    job = job_of(net, dtype)
    try:
        found = trained_by(name, job, 6)
    except Unfit as reason:
        pytest.skip(str(reason))
    expected = ours(net, job, 6)
    for weights in found.values():
        assert weights.dtype == dtype
        tolerance = {"float64": 1e-9, "float32": 1e-3}[dtype]
        np.testing.assert_allclose(weights, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_mini_batches_come_in_our_order_and_optimizers_are_the_same(name, optimizer):
    net = NETS["classes"]
    job = job_of(net, optimizer=optimizer, batch_size=8)  # the last of four has 6
    expected = ours(net, job, 5)
    for weights in trained_by(name, job, 5).values():
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-9)
    other = ours(net, replace(job, seed=6), 5)
    assert np.abs(other - expected).max() > 1e-4  # the order does matter


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_sklearn_takes_our_steps_where_the_order_is_no_matter(optimizer):
    net = NETS["classes"]
    job = job_of(net, optimizer=optimizer)
    tolerance = 1e-3 if optimizer == "adam" else 1e-9  # its ε stands elsewhere in the formula
    for weights in trained_by("sklearn", job, 5).values():
        np.testing.assert_allclose(weights, ours(net, job, 5), rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's, of its own functions
@pytest.mark.parametrize(("optimizer", "batch_size"), [("sgd", None), ("adam", 8)])
def test_the_compiled_step_is_ours(optimizer, batch_size):
    torch = pytest.importorskip("torch")
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        pytest.skip("no C++ compiler")
    torch._dynamo.reset()
    net = NETS["classes"]
    job = job_of(net, optimizer=optimizer, batch_size=batch_size)
    for weights in trained_by("torch-compile", job, 4).values():
        np.testing.assert_allclose(weights, ours(net, job, 4), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (accelnn.Network([9, 5, 4, 1], hidden=["relu", "tanh"]), "one activation for all"),
        (accelnn.Network([9, 5, 1], hidden="leaky_relu"), "no leaky_relu"),
        (accelnn.Network([9, 5, 1], output="linear"), "no linear output"),
    ],
)
def test_sklearn_is_left_out_where_its_job_is_another(net, reason):
    with pytest.raises(Unfit, match=reason):
        trained_by("sklearn", job_of(net), 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"batch_size": 8}, "full-batch"), ({"m": 60}, "fewer examples than features")],
)
def test_sample_space_is_left_out_where_it_is_of_no_use(options, reason):
    with pytest.raises(Unfit, match=reason):
        trained_by("torch-gram", job_of(NETS["classes"], **options), 1)


# --------------------------------------------------------------------------------------------
# in a process of its own


def package_first(monkeypatch, folder, package, code):
    (folder / f"{package}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def children():
    return [child for child in psutil.Process().children() if child.status() != "zombie"]


def test_a_peer_trains_from_the_first_weights_again_and_again_and_then_is_gone():
    pytest.importorskip("sklearn")
    net = NETS["classes"]
    job = job_of(net)
    before = set(children())
    peer = Peer("sklearn", job)
    try:
        assert peer.variant == "MLPClassifier sgd"
        np.testing.assert_allclose(peer.first_step(), ours(net, job, 1), rtol=1e-9, atol=1e-12)
        for _ in range(2):
            peer.restart(job.weights, job.seed)
            assert 0 < peer.train(3) < 10
            np.testing.assert_allclose(peer.weights(), ours(net, job, 3), rtol=1e-9, atol=1e-12)
    finally:
        peer.close()
    assert set(children()) == before


def test_a_package_that_is_missing_is_skipped_with_how_to_install_it(monkeypatch, tmp_path, capsys):
    code = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    package_first(monkeypatch, tmp_path, "torch", code)
    arguments = ("train", "--case", "planar", "--implementation", "torch", "numpy")
    status = main([*arguments, "--quick", "--json", "-"])
    by_name = {r["implementation"]: r for r in json.loads(capsys.readouterr().out)["records"]}
    assert status == 0
    assert by_name["torch"]["status"] == "skipped"
    assert by_name["torch"]["reason"] == "torch is not installed: pip install 'accelnn[peers]'"
    assert by_name["numpy"]["status"] == "ok"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.write(2, b'out of luck\\n'); os.abort()", r"ended with status -6: out of"),
        ("raise ImportError('libcudart.so.99 is missing')", "ImportError: libcudart.so.99"),
        ("import a_module_that_torch_needs", "ModuleNotFoundError: No module named 'a_module"),
        ("print('noise between the answers'); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_peer_that_breaks_has_failed_and_says_why(monkeypatch, tmp_path, code, reason):
    package_first(monkeypatch, tmp_path, "torch", code)
    before = set(children())
    with pytest.raises(PeerError, match=reason):
        Peer("torch", job_of(NETS["classes"]))
    assert set(children()) == before


def test_a_peer_that_hangs_is_ended(monkeypatch, tmp_path):
    package_first(monkeypatch, tmp_path, "torch", "import time; time.sleep(600)")
    monkeypatch.setattr(peers, "TIMEOUT", 1.0)
    with pytest.raises(PeerError, match="torch did not answer within 1 s"):
        Peer("torch", job_of(NETS["classes"]))


def test_a_peer_that_dies_while_it_is_measured_has_failed_and_the_others_go_on(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    right = Peer.train

    def dies(self, epochs):
        self._process.kill()
        return right(self, epochs)

    monkeypatch.setattr(Peer, "train", dies)
    arguments = ("train", "--case", "planar", "--implementation", "sklearn", "numpy")
    status = main([*arguments, "--quick", "--json", "-"])
    by_name = {r["implementation"]: r for r in json.loads(capsys.readouterr().out)["records"]}
    assert status == 1
    assert by_name["sklearn"]["status"] == "failed"
    assert "ended with status -9" in by_name["sklearn"]["reason"]
    assert by_name["numpy"]["status"] == "ok"


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_peer_outlives_the_benchmark(ending, tmp_path):
    (tmp_path / "torch.py").write_text("import time; time.sleep(600)")
    program = (
        "from accelnn.bench import machine\n"
        "machine.limits = lambda *a, **k: {'stream_gb_per_s': 1.0, 'matmul_gflop_per_s': 1.0}\n"
        "from accelnn.bench.__main__ import main\n"
        "raise SystemExit(main(['train', '--case', 'planar', '--implementation', 'torch']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = time.monotonic()
    found = []
    while not found and time.monotonic() < begun + 30:
        time.sleep(0.2)
        found = psutil.Process(process.pid).children()
    time.sleep(1.0)  # it imports what sleeps
    process.send_signal(ending)
    process.communicate(timeout=30)
    assert process.returncode == (130 if ending == signal.SIGINT else -9)
    _, alive = psutil.wait_procs(found, timeout=10)
    assert found
    assert not alive


# --------------------------------------------------------------------------------------------
# in the benchmark


def test_peers_are_measured_beside_ours_and_their_outcomes_compared(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("accelnn.bench.__main__.QUICK", (2, 0.1, 60.0))
    training = replace(trainings.TRAININGS["minibatch-1024-adam"], epochs=3)
    monkeypatch.setitem(trainings.TRAININGS, "minibatch-1024-adam", training)
    status = main(
        [
            *("train", "--case", "minibatch-1024-adam", "planar", "--quick", "--json", "-"),
            *("--implementation", "sklearn", "accelnn"),
        ]
    )
    records = json.loads(capsys.readouterr().out)["records"]
    assert status == 0
    for record in records:
        assert record["status"] == "ok"
        assert record["cost_difference"] is not None
    planar = [record for record in records if record["case"] == "planar"]
    assert max(abs(record["cost_difference"]) for record in planar) < 1e-9
    [shuffled] = [r for r in records if r["case"] != "planar" and r["implementation"] == "sklearn"]
    assert shuffled["reason"] == "shuffles in an order of its own"


def test_all_peers_are_asked_for_at_once_and_float32_ones_where_they_may_be_fastest():
    plain = trainings.TrainingCase("cat-2layer", "float64", {})
    assert not set(plain.implementations) & set(PEERS)
    names = trainings.TrainingCase("cat-2layer", "float64", {}, peers=True).implementations
    assert set(names) - set(plain.implementations) == {*PEERS, "torch-float32", "jax-float32"}
    small = trainings.TrainingCase("minibatch-32-sgd", "float64", {}, peers=True)
    assert set(small.implementations) == {
        *("numpy", "cupy", "accelnn", "products"),
        *("torch", "torch-compile", "jax", "sklearn"),
    }


def test_gains_of_algorithm_and_implementation_are_told_apart(capsys):
    from accelnn.bench import report

    def row(implementation, seconds):
        record = data.TrainingRecord(
            "cat-2layer", implementation, {"layers": [9, 1]}, "float64", "numpy", status="ok"
        )
        data.set_times(record, [seconds])
        return record

    rows = [row("torch", 8.0), row("torch-gram", 0.5), row("accelnn", 0.1)]
    machine = {"processor": "P", "cores": 2, "memory_bytes": 2**30, "gpu": None}
    machine["last_level_cache_bytes"] = 2**20
    report.show(data.Report(machine, {}, {}, rows), report.console(sys.stdout))
    output = capsys.readouterr().out
    assert re.search(r"cat-2layer: 80 times .* = 16 by the algorithm .* × 5 by its impl", output)
    assert "× torch" in output


def test_a_report_tells_the_versions_of_the_packages_that_took_part():
    sklearn = pytest.importorskip("sklearn")
    found = peers.versions(["numpy", "sklearn", "sklearn-float32"])
    assert found == {"scikit-learn": sklearn.__version__}
