"""The peers do our job: same steps, same mini-batches; and none of them can hang, crash or outlive
the benchmark.

Stand-ins for a package that is broken are modules of its name in a folder that the peer's process
searches first.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_limits

import accelnn
from accelnn.bench import peers, timing, trainings
from accelnn.bench import records as data
from accelnn.bench.__main__ import main
from accelnn.bench.peers import PEERS, Peer, PeerError, PeerJob, Unfit
from accelnn.cli.console import console
from accelnn.install import install_command
from accelnn.network import Parameters

pytestmark = pytest.mark.slow

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
    return PeerJob(
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
# on a GPU, as far as that can be told without one


@pytest.fixture
def graphs_on_the_cpu(monkeypatch):
    """A graph is the function that it was captured from; like a real one it is warmed up first."""
    pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    def captured(function):
        for _ in range(3):
            function()
        return function

    monkeypatch.setattr(peer_torch, "captured", captured)
    return peer_torch


@pytest.mark.parametrize("options", ["plain", "foreach", "fused"])
@pytest.mark.parametrize(
    ("optimizer", "batch_size"),
    [("sgd", None), ("sgd", 8), ("momentum", 8), ("adam", 8), ("adam", None)],
)
def test_captured_steps_are_ours_again_and_again(
    graphs_on_the_cpu, monkeypatch, optimizer, batch_size, options
):
    import torch

    peer_torch = graphs_on_the_cpu
    net = NETS["classes"]
    job = job_of(net, optimizer=optimizer, batch_size=batch_size)
    given = dict(peer_torch.OPTIMIZERS[options])
    right = torch.optim.Adam

    def adam(groups, capturable=False, **rest):  # on the CPU nothing can be captured
        assert capturable
        return right(groups, **rest)

    monkeypatch.setattr(torch.optim, "Adam", adam)
    trainer = peer_torch.CapturedStep(job, peer_torch.CPU, 1, given)
    expected = ours(net, job, 4)
    for _ in range(2):
        trainer.restart(job.weights, job.seed)
        trainer.train(1)
        trainer.train(3)
        np.testing.assert_allclose(trainer.weights(), expected, rtol=1e-9, atol=1e-9)
    assert sorted(trainer.launches) == ([6, 8] if batch_size else [30])


def test_a_graph_is_warmed_up_on_a_side_stream_before_it_is_captured(monkeypatch):
    torch = pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    log = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def within(what):
        log.append(f"begin {what}")
        yield
        log.append(f"end {what}")

    class Graph:
        def replay(self):
            log.append("replay")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: within(stream.name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: within("capture"))
    launch = peer_torch.captured(lambda: log.append("step"))
    launch()
    assert log == [
        *("side waits for main", "begin side", "step", "step", "step", "end side"),
        *("main waits for side", "begin capture", "step", "end capture", "replay"),
    ]


def test_bfloat16_rounds_the_products_and_not_the_weights():
    pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    net = NETS["classes"]
    job = replace(job_of(net, dtype="float32"), precision="bfloat16")
    trainer = peer_torch.Eager(job, peer_torch.CPU, 1, peer_torch.OPTIMIZERS["foreach"])
    trainer.restart(job.weights, job.seed)
    trainer.train(4)
    step, expected = trainer.weights() - job.weights, ours(net, job, 4) - job.weights
    assert step.dtype == np.float32
    error = np.abs(step - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.03  # 8 bits


@pytest.mark.parametrize(
    ("precision", "asked"), [(None, "highest"), ("float32", "highest"), ("tf32", "high")]
)
def test_pytorch_is_asked_for_the_precision(precision, asked):
    torch = pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    job = replace(job_of(NETS["classes"], dtype="float32"), precision=precision)
    peer_torch.trainers("torch", job)
    assert torch.get_float32_matmul_precision() == asked
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", ["torch-cuda", "torch-cuda-compile", "torch-cuda-graph"])
def test_a_pytorch_without_cuda_is_unfit_and_says_so(name, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Unfit, match=r"this PyTorch, .*, is built without CUDA"):
        trained_by(name, job_of(NETS["classes"]), 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unfit, match=r"built for CUDA 13.0, finds no GPU"):
        trained_by(name, job_of(NETS["classes"]), 1)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("torch-cuda", {"plain", "foreach", "fused"}),
        ("torch-cuda-graph", {"plain", "foreach", "fused"}),
        ("torch-cuda-compile", {"whole step"}),
    ],
)
def test_pytorch_goes_the_ways_of_the_gpu_on_the_one_that_ours_run_on(name, ways, monkeypatch):
    torch = pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    chosen = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    job = replace(job_of(NETS["classes"]), gpu=1)
    found = peer_torch.trainers(name, job)
    assert set(found) == ways
    assert chosen == [1]
    assert {make.args[1] for make in found.values()} == {torch.device("cuda", 1)}


def test_a_jax_without_cuda_is_unfit_and_says_so(monkeypatch):
    jax = pytest.importorskip("jax")

    def none(platform):
        raise RuntimeError(f"Unknown backend {platform}\nand more")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(
        Unfit, match=r"no CUDA device here \(RuntimeError: Unknown backend cuda\): pip"
    ):
        trained_by("jax-cuda", job_of(NETS["classes"]), 1)


@pytest.mark.parametrize(
    ("precision", "products"),
    [(None, "highest"), ("tf32", "TF32_TF32_F32"), ("bfloat16", "BF16_BF16_F32")],
)
def test_jax_computes_in_the_precision_on_the_gpu_that_ours_run_on(
    precision, products, monkeypatch
):
    jax = pytest.importorskip("jax")
    from accelnn.bench import peer_jax

    here, set_to = jax.devices("cpu")[0], {}
    monkeypatch.setattr(jax, "devices", lambda _platform: [None, here])
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_to.update({name: value}))
    job = replace(job_of(NETS["classes"], dtype="float32"), gpu=1, precision=precision)
    peer_jax.trainers("jax-cuda", job)
    assert set_to["jax_default_device"] is here
    assert set_to["jax_default_matmul_precision"] == products
    assert peer_jax.gpu_name(job) == here.device_kind


@pytest.mark.gpu
@pytest.mark.parametrize(("optimizer", "batch_size"), [("sgd", None), ("momentum", 8), ("adam", 8)])
@pytest.mark.parametrize("name", ["torch-cuda", "torch-cuda-graph", "jax-cuda"])
def test_peers_take_our_steps_on_a_real_gpu(name, optimizer, batch_size, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    net = NETS["classes"]
    job = job_of(net, optimizer=optimizer, batch_size=batch_size)
    try:
        found = trained_by(name, job, 5)
    except Unfit as reason:
        pytest.skip(str(reason))
    for weights in found.values():
        np.testing.assert_allclose(weights, ours(net, job, 5), rtol=1e-9, atol=1e-9)


def test_a_child_is_held_to_the_cpu_or_sent_to_the_gpu():
    here, there = peers._environment("jax", 3), peers._environment("jax-cuda", 3)
    assert (here["JAX_PLATFORMS"], there["JAX_PLATFORMS"]) == ("cpu", "cuda")
    assert here["OMP_NUM_THREADS"] == there["OMP_NUM_THREADS"] == "3"
    assert there["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_a_peer_on_the_gpu_tells_which_that_is(monkeypatch):
    class Idle:
        def restart(self, weights, _seed):
            self.now = weights

        def train(self, epochs):
            pass

        def weights(self):
            return self.now

    module = types.ModuleType("a_peer")
    module.trainers = lambda _name, _job: {"idle": Idle}
    module.gpu_name = lambda job: f"GPU {job.gpu}"
    monkeypatch.setitem(sys.modules, "a_peer", module)
    for gpu in (False, True):
        kind = peers.PeerKind("a_peer", "a_peer", compiles=False, gpu=gpu)
        monkeypatch.setitem(PEERS, "a-peer", kind)
        found = peers.Service().prepare("a-peer", replace(job_of(NETS["classes"]), gpu=1))
        assert found == ("idle", None, "GPU 1" if gpu else None)


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
    assert by_name["torch"]["reason"] == f"torch is not installed: {install_command('peers')}"
    assert by_name["numpy"]["status"] == "ok"


def test_packages_without_cuda_are_skipped_with_the_reason_and_ours_go_on(capsys):
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("jax")
    if torch.cuda.is_available():
        pytest.skip("there is a usable GPU")
    names = ("torch-cuda", "torch-cuda-graph", "jax-cuda", "numpy")
    arguments = ("train", "--case", "planar", "--implementation", *names)
    status = main([*arguments, "--quick", "--json", "-"])
    records = json.loads(capsys.readouterr().out)["records"]
    reasons = {r["implementation"]: r["reason"] for r in records if r["status"] == "skipped"}
    assert status == 0
    assert re.search("built without CUDA|finds no GPU", reasons["torch-cuda"])
    assert reasons["torch-cuda-graph"] == reasons["torch-cuda"]
    assert reasons["jax-cuda"].startswith("JAX has no CUDA device here (")
    assert [r["status"] for r in records if r["implementation"] == "numpy"] == ["ok"]


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
    assert shuffled["reason"] == "shuffles in its own order"


def test_all_peers_are_asked_for_at_once_and_float32_ones_where_they_may_be_fastest():
    plain = trainings.TrainingCase("cat-2layer", "float64", {})
    assert not set(plain.implementations) & set(PEERS)
    names = trainings.TrainingCase("cat-2layer", "float64", {}, peers=True).implementations
    on_cpu = {name for name in PEERS if not peers.on_gpu(name)}
    assert set(names) - set(plain.implementations) == {*on_cpu, "torch-float32", "jax-float32"}
    small = trainings.TrainingCase("minibatch-32-sgd", "float64", {}, peers=True)
    assert set(small.implementations) == {
        *("numpy", "accelnn", "cupy", "accelnn-cupy", "products"),
        *("torch", "torch-compile", "jax", "sklearn"),
    }


def test_peers_on_the_gpu_take_part_where_there_is_one():
    everywhere = trainings.TrainingCase("planar", "float64", {}, peers=True, gpu_peers=True)
    assert {*PEERS} < set(everywhere.implementations)
    large = trainings.TrainingCase(
        "minibatch-4096-8192-tf32", "float32", {}, peers=True, gpu_peers=True
    )
    assert set(large.implementations) == {
        *("cupy", "accelnn-cupy", "jax-cuda"),
        *("torch-cuda", "torch-cuda-compile", "torch-cuda-graph"),
    }
    record = large.record("torch-cuda")
    assert (record.backend, record.threads) == ("cuda", None)


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
    report.show(data.Report(machine, {}, {}, rows), console(sys.stdout))
    output = capsys.readouterr().out
    assert re.search(r"cat-2layer: 80 times .* = 16 by the algorithm .* × 5 by its impl", output)
    assert "× torch" in output


def test_a_report_tells_the_versions_of_the_packages_that_took_part():
    sklearn = pytest.importorskip("sklearn")
    found = peers.versions(["numpy", "sklearn", "sklearn-float32"])
    assert found == {"scikit-learn": sklearn.__version__}
