"""The peers do our job: same steps, same mini-batches; and none of them can hang, crash or outlive
the benchmark.

Stand-ins for a broken package are modules of its name in a folder that the peer's process searches
first.
"""

import contextlib
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
from accelnn.bench import peers, report, timing
from accelnn.bench.peers import PEERS, Peer, PeerError, PeerJob, PeerKind
from accelnn.bench.records import Report, Skip, TrainingRecord
from accelnn.bench.trainings import TRAININGS, TrainingCase
from accelnn.cli import bench as command
from accelnn.cli.bench import main
from accelnn.cli.console import console
from accelnn.install import install_command
from accelnn.network import Network, Parameters
from accelnn.recipes import Recipe

pytestmark = pytest.mark.slow

# nets that differ in what a peer has to do
NETS = {
    "logistic": Network([40, 1], l2=0.5),
    "deep, L2": Network([40, 5, 4, 1], hidden="tanh", l2=0.5),
    "labels": Network([40, 6, 3], hidden="sigmoid"),
    "classes": Network([40, 6, 3], output="softmax"),
    "mixed, linear": Network([40, 5, 4, 2], hidden=["leaky_relu", "relu"], output="linear"),
}
CLASSES = NETS["classes"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "REST", 0.0)
    limits = {"stream_gb_per_s": 20.0, "matmul_gflop_per_s": 50.0}
    monkeypatch.setattr("accelnn.bench.machine.limits", lambda *_args, **_options: dict(limits))
    with threadpool_limits(1):  # two threads that wait for one another are slow beside other work
        yield


def job_of(net=CLASSES, dtype="float64", optimizer="sgd", batch_size=None, m=30, **options):
    random = np.random.default_rng(3)
    X = random.standard_normal((m, net.layers[0])).astype(dtype)
    labels = np.arange(m) % net.layers[-1] if net.layers[-1] > 1 else np.arange(m) % 2
    Y = np.eye(net.layers[-1])[labels] if net.layers[-1] > 1 else labels[:, None]
    recipe = Recipe("", None, net, epochs=1, learning_rate=0.01 if optimizer == "adam" else 0.1)
    recipe = recipe.changed(optimizer=optimizer, batch_size=batch_size, seed=5, **options)
    weights = net.init("scaled", seed=2, dtype=dtype).flat
    return PeerJob(recipe, weights, X, np.ascontiguousarray(Y.astype(dtype)), threads=1)


def ours(job, epochs, seed=5):
    """What `accelnn.fit` makes of the job."""
    recipe, first = job.recipe, Parameters(job.weights, job.net.layers)
    params, _ = accelnn.fit(
        *(job.net, first, job.X.T, job.Y.T),
        epochs=epochs,
        learning_rate=recipe.learning_rate,
        optimizer=recipe.optimizer,
        batch_size=recipe.batch_size,
        solver="direct",
        seed=seed,
    )
    return params.flat


def trained_by(name, job, epochs):
    """The weights that a peer arrives at, here and not in another process: that is quicker."""
    kind = PEERS[name]
    pytest.importorskip(kind.package)
    found = {}
    for way, make in peers._trainers(name, kind, job).items():
        if name == "torch-compile" or way != "compiled":
            trainer = make()
            trainer.restart(job.weights, 5)
            trainer.train(2)  # nothing of this is left after the restart
            trainer.restart(job.weights, 5)
            if name != "sklearn" or job.recipe.optimizer == "sgd":  # `fit` keeps only the weights
                trainer.train(1)
                trainer.train(epochs - 1)
            else:
                trainer.train(epochs)
            found[way] = trainer.weights()
    return found


def bench(*arguments, capsys):
    """Exit status and records of one run, by implementation."""
    status = main([*arguments, "--quick", "--json", "-"])
    records = json.loads(capsys.readouterr().out)["records"]
    return status, {record["implementation"]: record for record in records}


# --------------------------------------------------------------------------------------------
# the same job


@pytest.mark.parametrize("name", ["torch", "torch-gram", "jax", "sklearn"])
def test_full_batch_gradient_descent_takes_our_steps(name):
    trained = 0
    for title, net in NETS.items():
        for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-3)):
            job = job_of(net, dtype)
            try:
                found = trained_by(name, job, 6)
            except Skip:
                assert (name, title) == ("sklearn", "mixed, linear")
                continue
            trained += 1
            expected = ours(job, 6)
            for weights in found.values():
                assert weights.dtype == dtype
                np.testing.assert_allclose(
                    weights, expected, rtol=tolerance, atol=tolerance, err_msg=f"{title} {dtype}"
                )
    assert trained >= 8


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_mini_batches_come_in_our_order_and_optimizers_are_the_same(name):
    for optimizer in ("sgd", "adam"):
        job = job_of(optimizer=optimizer, batch_size=8)  # the last of four has 6
        expected = ours(job, 5)
        for weights in trained_by(name, job, 5).values():
            np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-9, err_msg=optimizer)
        assert np.abs(ours(job, 5, seed=6) - expected).max() > 1e-4  # the order does matter


def test_sklearn_takes_our_steps_if_the_order_does_not_matter():
    # its ε stands elsewhere in Adam's formula
    for optimizer, tolerance in (("sgd", 1e-9), ("adam", 1e-3)):
        job = job_of(optimizer=optimizer)
        for weights in trained_by("sklearn", job, 5).values():
            np.testing.assert_allclose(weights, ours(job, 5), rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's, of its own functions
def test_the_compiled_step_is_ours():
    torch = pytest.importorskip("torch")
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        pytest.skip("no C++ compiler")
    for optimizer, batch_size in (("sgd", None), ("adam", 8)):
        torch._dynamo.reset()
        job = job_of(optimizer=optimizer, batch_size=batch_size)
        for weights in trained_by("torch-compile", job, 4).values():
            np.testing.assert_allclose(weights, ours(job, 4), rtol=1e-9, atol=1e-9)


def test_a_job_that_a_peer_cannot_do_is_skipped_with_the_reason():
    for job, reason in (
        (job_of(Network([9, 5, 4, 1], hidden=["relu", "tanh"])), "one activation for all"),
        (job_of(Network([9, 5, 1], hidden="leaky_relu")), "no leaky_relu"),
        (job_of(Network([9, 5, 1], output="linear")), "no linear output"),
        (job_of(optimizer="momentum"), "by sgd and adam, not momentum"),
    ):
        with pytest.raises(Skip, match=reason):
            trained_by("sklearn", job, 1)
    pytest.importorskip("torch")
    for job, reason in (
        (job_of(batch_size=8), "full-batch"),
        (job_of(m=60), "fewer examples than features"),
    ):
        with pytest.raises(Skip, match=reason):
            trained_by("torch-gram", job, 1)


# --------------------------------------------------------------------------------------------
# on a GPU, as far as that can be tested without one


def test_captured_steps_are_ours_again_and_again(monkeypatch):
    torch = pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    def captured(function):
        """A graph is the function that it was captured from; a real one is warmed up first too."""
        for _ in range(3):
            function()
        return function

    right = torch.optim.Adam

    def adam(groups, capturable=False, **rest):  # on the CPU nothing can be captured
        assert capturable
        return right(groups, **rest)

    monkeypatch.setattr(peer_torch, "captured", captured)
    monkeypatch.setattr(torch.optim, "Adam", adam)
    for optimizer, batch_size in (("sgd", None), ("sgd", 8), ("adam", 8), ("adam", None)):
        job = job_of(optimizer=optimizer, batch_size=batch_size)
        expected = ours(job, 4)
        for way, options in peer_torch.OPTIMIZERS.items():
            trainer = peer_torch.CapturedStep(job, peer_torch.CPU, 1, dict(options))
            for _ in range(2):
                trainer.restart(job.weights, 5)
                trainer.train(1)
                trainer.train(3)
                np.testing.assert_allclose(
                    trainer.weights(), expected, rtol=1e-9, atol=1e-9, err_msg=f"{optimizer} {way}"
                )
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

    job = job_of(dtype="float32", precision="bfloat16")
    trainer = peer_torch.Eager(job, peer_torch.CPU, 1, peer_torch.OPTIMIZERS["foreach"])
    trainer.restart(job.weights, 5)
    trainer.train(4)
    step, expected = trainer.weights() - job.weights, ours(job, 4) - job.weights
    assert step.dtype == np.float32
    error = np.abs(step - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.03  # 8 bits


def test_pytorch_is_asked_for_the_precision():
    torch = pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    for precision, asked in ((None, "highest"), ("float32", "highest"), ("tf32", "high")):
        peer_torch.trainers("torch", job_of(dtype="float32", precision=precision))
        assert torch.get_float32_matmul_precision() == asked
    torch.set_float32_matmul_precision("highest")


def test_pytorch_on_the_gpu_uses_the_one_that_ours_use_or_is_skipped(monkeypatch):
    torch = pytest.importorskip("torch")
    from accelnn.bench import peer_torch

    each = {"plain", "foreach", "fused"}
    expected = {"torch-cuda": each, "torch-cuda-graph": each, "torch-cuda-compile": {"whole step"}}
    job, chosen = replace(job_of(), gpu=1), []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name, ways in expected.items():
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(Skip, match=r"this PyTorch, .*, is built without CUDA"):
            peer_torch.trainers(name, job)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(Skip, match=r"built for CUDA 13.0, finds no GPU"):
            peer_torch.trainers(name, job)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        found = peer_torch.trainers(name, job)
        assert set(found) == ways
        assert {make.args[1] for make in found.values()} == {torch.device("cuda", 1)}
    assert chosen == [1, 1, 1]


def test_a_jax_without_cuda_is_skipped_with_the_reason(monkeypatch):
    jax = pytest.importorskip("jax")

    def none(platform):
        raise RuntimeError(f"Unknown backend {platform}\nand more")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(
        Skip, match=r"no CUDA device here \(RuntimeError: Unknown backend cuda\): pip"
    ):
        trained_by("jax-cuda", job_of(), 1)


def test_jax_computes_in_the_precision_on_the_gpu_that_ours_use(monkeypatch):
    jax = pytest.importorskip("jax")
    from accelnn.bench import peer_jax

    here, set_to = jax.devices("cpu")[0], {}
    monkeypatch.setattr(jax, "devices", lambda _platform: [None, here])
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_to.update({name: value}))
    for precision, products in (
        *((None, "highest"), ("tf32", "TF32_TF32_F32"), ("bfloat16", "BF16_BF16_F32")),
    ):
        job = replace(job_of(dtype="float32", precision=precision), gpu=1)
        peer_jax.trainers("jax-cuda", job)
        assert set_to["jax_default_device"] is here
        assert set_to["jax_default_matmul_precision"] == products
        assert peer_jax.gpu_name(job) == here.device_kind


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["torch-cuda", "torch-cuda-graph", "jax-cuda"])
def test_peers_take_our_steps_on_a_real_gpu(name, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for optimizer, batch_size in (("sgd", None), ("adam", 8)):
        job = job_of(optimizer=optimizer, batch_size=batch_size)
        try:
            found = trained_by(name, job, 5)
        except Skip as reason:
            pytest.skip(str(reason))
        for weights in found.values():
            np.testing.assert_allclose(weights, ours(job, 5), rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------
# in a process of its own


def package(monkeypatch, folder, name, code):
    """A package of this name, found first in this process and in the peers'."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)


def children():
    """The living child processes, without the one that multiprocessing keeps."""
    found = psutil.Process().children()
    return {
        child
        for child in found
        if child.status() != "zombie" and "resource_tracker" not in " ".join(child.cmdline())
    }


# a peer in a file of its own
SGD = """
import os
import numpy as np
print("noise on standard output")

class Sgd:
    def __init__(self, job):
        self.job, self.threads = job, os.environ["OMP_NUM_THREADS"]
    def restart(self, weights, seed):
        self.flat = weights
    def train(self, epochs):
        print("more noise")
    def weights(self):
        return self.flat + self.job.m

def trainers(name, job):
    return {f"{name} on {os.environ['OMP_NUM_THREADS']} threads": lambda: Sgd(job)}

def gpu_name(job):
    return f"GPU {job.gpu}"
"""


def test_a_peer_is_a_file_and_a_row(monkeypatch, tmp_path, capfd):
    package(monkeypatch, tmp_path, "a_peer", SGD)
    for gpu in (False, True):
        monkeypatch.setitem(PEERS, "mine", PeerKind("a_peer", "a_peer", compiles=gpu, gpu=gpu))
        before = dict(os.environ)
        peer = Peer("mine", replace(job_of(), threads=3, gpu=1))
        try:
            assert dict(os.environ) == before
            assert peer.variant == "mine on 3 threads"
            assert peer.device == ("GPU 1" if gpu else None)
            assert (peer.compile_seconds is None) == (not gpu)
            for m, added in ((30, 30), (8, 8), (30, 30)):
                flat, seconds = peer.train(np.zeros(4), epochs=1, seed=0, m=m)
                assert flat.tolist() == [added] * 4
                assert 0 < seconds < 1
        finally:
            peer.close()
    assert capfd.readouterr() == ("", "")


def test_a_peer_trains_from_the_given_weights_again_and_again_and_then_is_gone():
    pytest.importorskip("sklearn")
    job, before = job_of(), children()
    peer = Peer("sklearn", job)
    try:
        assert peer.variant == "MLPClassifier sgd"
        for epochs in (1, 3, 3):
            flat, seconds = peer.train(job.weights, epochs, seed=5, m=30)
            assert 0 < seconds < 10
            np.testing.assert_allclose(flat, ours(job, epochs), rtol=1e-9, atol=1e-12)
    finally:
        peer.close()
    assert children() == before


def test_a_package_that_is_missing_is_skipped_with_how_to_install_it(monkeypatch, tmp_path, capsys):
    code = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    package(monkeypatch, tmp_path, "torch", code)
    arguments = ("train", "--case", "planar", "--implementation", "torch", "numpy")
    status, found = bench(*arguments, capsys=capsys)
    assert status == 0
    assert found["torch"]["status"] == "skipped"
    assert found["torch"]["reason"] == f"torch is not installed: {install_command('peers')}"
    assert found["numpy"]["status"] == "ok"


def test_packages_without_cuda_are_skipped_with_the_reason_and_ours_go_on(capsys):
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("jax")
    if torch.cuda.is_available():
        pytest.skip("there is a usable GPU")
    names = ("torch-cuda", "torch-cuda-graph", "jax-cuda", "numpy")
    arguments = ("train", "--case", "planar", "--implementation", *names)
    status, found = bench(*arguments, capsys=capsys)
    assert status == 0
    assert re.search("built without CUDA|finds no GPU", found["torch-cuda"]["reason"])
    assert found["torch-cuda-graph"]["reason"] == found["torch-cuda"]["reason"]
    assert found["jax-cuda"]["reason"].startswith("JAX has no CUDA device here (")
    assert found["numpy"]["status"] == "ok"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.write(2, b'out of luck\\n'); os.abort()", r"ended with status -6: out of"),
        ("raise ImportError('libcudart.so.99 is missing')", "ImportError: libcudart.so.99"),
        ("import a_module_that_torch_needs", "ModuleNotFoundError: No module named 'a_module"),
        ("print('noise'); 1 / 0", "ZeroDivisionError"),
        ("import time; time.sleep(600)", "torch did not answer within 4 s"),
    ],
)
def test_a_peer_that_breaks_or_hangs_has_failed_and_says_why(monkeypatch, tmp_path, code, reason):
    package(monkeypatch, tmp_path, "torch", code)
    monkeypatch.setattr(peers, "TIMEOUT", 4.0 if "sleep" in code else 60.0)
    before, started = children(), time.monotonic()
    with pytest.raises(PeerError, match=reason):
        Peer("torch", job_of())
    assert time.monotonic() - started < 30
    assert children() == before


def test_a_peer_that_dies_while_it_is_measured_has_failed_and_the_others_go_on(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    right = Peer.train

    def dies(self, *arguments):
        self._process.kill()
        return right(self, *arguments)

    monkeypatch.setattr(Peer, "train", dies)
    arguments = ("train", "--case", "planar", "--implementation", "sklearn", "numpy")
    status, found = bench(*arguments, capsys=capsys)
    assert status == 1
    assert found["sklearn"]["status"] == "failed"
    assert "ended with status -9" in found["sklearn"]["reason"]
    assert found["numpy"]["status"] == "ok"


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_peer_outlives_the_benchmark(ending, tmp_path):
    """Ctrl-C in a terminal reaches the children too; they leave it to the parent."""
    (tmp_path / "torch.py").write_text("import time; time.sleep(600)")
    program = (
        "from accelnn.bench import machine\n"
        "machine.limits = lambda *a, **k: {'stream_gb_per_s': 1.0, 'matmul_gflop_per_s': 1.0}\n"
        "from accelnn.cli.bench import main\n"
        "raise SystemExit(main(['train', '--case', 'planar', '--implementation', 'torch']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started, found = time.monotonic(), []
    while not found and time.monotonic() < started + 30:
        time.sleep(0.2)
        running = psutil.Process(process.pid).children()
        found = [child for child in running if "spawn_main" in " ".join(child.cmdline())]
    time.sleep(3.0)  # it imports the stand-in, which sleeps
    if ending == signal.SIGINT:
        os.killpg(process.pid, ending)
    else:
        process.send_signal(ending)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (130 if ending == signal.SIGINT else -9)
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(found, timeout=10)
    assert found
    assert not alive


def test_a_child_is_limited_to_the_cpu_or_sent_to_the_gpu():
    here, there = peers._environment("jax", 3), peers._environment("jax-cuda", 3)
    assert (here["JAX_PLATFORMS"], there["JAX_PLATFORMS"]) == ("cpu", "cuda")
    assert here["OMP_NUM_THREADS"] == there["OMP_NUM_THREADS"] == "3"
    assert there["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


# --------------------------------------------------------------------------------------------
# in the benchmark


def test_peers_are_measured_beside_ours_and_their_outcomes_compared(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(command, "QUICK", (2, 0.1, 60.0, 1.0))
    training = TRAININGS["minibatch-1024-adam"]
    shorter = replace(training, recipe=training.recipe.changed(epochs=3))
    monkeypatch.setitem(TRAININGS, "minibatch-1024-adam", shorter)
    for case, reason in (("minibatch-1024-adam", "shuffles in its own order"), ("planar", None)):
        arguments = ("train", "--case", case, "--implementation", "sklearn", "accelnn")
        status, found = bench(*arguments, capsys=capsys)
        assert status == 0
        assert {record["status"] for record in found.values()} == {"ok"}
        assert found["sklearn"]["reason"] == reason
        differences = [abs(record["cost_difference"]) for record in found.values()]
        assert max(differences) < (1e-9 if case == "planar" else 1.0)


def test_peers_take_part_in_the_trainings_and_on_the_processors_that_suit_them():
    def names(name, dtype="float64", **options):
        return set(TrainingCase(name, TRAININGS[name], dtype, {}, **options).implementations)

    plain, on_cpu = names("cat-2layer"), {name for name in PEERS if not peers.on_gpu(name)}
    assert not plain & set(PEERS)
    asked = names("cat-2layer", peers=True)
    assert asked - plain == {*on_cpu, "torch-float32", "jax-float32"}
    assert names("minibatch-32-sgd", peers=True) == {
        *("numpy", "accelnn", "cupy", "accelnn-cupy", "products"),
        *("torch", "torch-compile", "jax", "sklearn"),
    }
    assert {*PEERS} < names("planar", peers=True, gpu_peers=True)
    large = "minibatch-4096-8192-tf32"
    assert names(large, "float32", peers=True, gpu_peers=True) == {
        *("cupy", "accelnn-cupy", "jax-cuda"),
        *("torch-cuda", "torch-cuda-compile", "torch-cuda-graph"),
    }
    record = TrainingCase(large, TRAININGS[large], "float32", {}).record("torch-cuda")
    assert (record.backend, record.threads) == ("cuda", None)


def test_gains_of_algorithm_and_implementation_are_shown_apart(capsys):
    rows = []
    for implementation, seconds in (("torch", 8.0), ("torch-gram", 0.5), ("accelnn", 0.1)):
        given = ("cat-2layer", implementation, {"layers": [9, 1]}, "float64", "numpy")
        rows.append(TrainingRecord(*given, status="ok"))
        rows[-1].set_times([seconds])
    machine = {"processor": "P", "cores": 2, "memory_bytes": 2**30, "gpu": None}
    machine["last_level_cache_bytes"] = 2**20
    report.show(Report(machine, {}, {}, rows), console(sys.stdout))
    output = capsys.readouterr().out
    assert re.search(r"cat-2layer: 80 times .* = 16 by the algorithm .* × 5 by its impl", output)
    assert "× torch" in output


def test_a_report_has_the_versions_of_the_packages_that_took_part():
    sklearn = pytest.importorskip("sklearn")
    found = peers.versions(["numpy", "sklearn", "sklearn-float32"])
    assert found == {"scikit-learn": sklearn.__version__}
