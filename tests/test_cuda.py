"""kernels/gpu/cuda.py: dropout masks, and kernels that compile or do not. The kernels run on the
device double, which builds the same sources for the host, and on a real GPU."""

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from doubles import device as device_double
from helpers.philox import dropout_mask, philox

import accelnn
from accelnn import Network, backend, to_device, to_host
from accelnn.kernels.gpu import cuda

pytestmark = pytest.mark.slow

DTYPES = ("float64", "float32")
SOURCES = sorted(path.name for path in Path(cuda.__file__).parent.glob("*.cu"))


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request):
    """A GPU that runs kernels, simulated or real, chosen as the backend; gives its `cupy`."""
    if request.param == "simulated":
        return request.getfixturevalue("double_with_kernels")
    backend.use("cupy")
    return backend.current().xp


# --------------------------------------------------------------------------------------------
# random numbers

# From the authors' Random123, examples/kat_vectors: counter, key and result of philox4x32-10
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
TRIED = """
extern "C" __global__ void philox_words(const unsigned* counter, const unsigned* key, unsigned* out)
{
    const Words words = {{counter[0], counter[1], counter[2], counter[3]}};
    const Words drawn = philox(words, key[0], key[1]);
    for (int k = 0; k < 4; ++k)
        out[k] = drawn.at[k];
}
extern "C" __global__ void each_dropout(REAL* D, int n, int m, REAL keep, unsigned long long seed,
                                        long long step, int layer)
{
    for (int j = threadIdx.x; j < m; j += blockDim.x)  // by columns, as a solver may go
        for (int i = 0; i < n; ++i)
            D[i * m + j] = dropout(seed, step, layer, (long long)i * m + j, keep);
}
"""


def tried(gpu, name, dtype="float32"):
    options = ("-std=c++17", f"-DREAL={cuda.REAL[np.dtype(dtype)]}")
    return gpu.RawModule(code=cuda.with_common(TRIED), options=options).get_function(name)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_numbers(gpu, counter, key, words):
    assert tuple(map(int, philox(counter, key))) == words
    given = [to_device(np.array(numbers, np.uint32)) for numbers in (counter, key, [0] * 4)]
    tried(gpu, "philox_words")((1,), (32,), tuple(given))
    assert tuple(map(int, to_host(given[2]))) == words


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("seed", "step", "layer"), [(0, 0, 0), (2**40 + 3, 2**33 + 5, 2)])
def test_each_number_of_a_mask_follows_from_its_place(gpu, dtype, seed, step, layer):
    keep = 0.75
    for shape in [(1, 1), (3, 5), (7, 64), (2, 9001)]:
        D, each = (gpu.empty(shape, dtype) for _ in range(2))
        cuda.Philox(seed).draw(D, keep, step, layer)
        expected = dropout_mask(shape, keep, seed, step, layer, dtype)
        np.testing.assert_array_equal(to_host(D), expected, str(shape))
        place = np.dtype(dtype).type(keep), np.uint64(seed), np.int64(step), np.int32(layer)
        sizes = (np.int32(size) for size in shape)
        tried(gpu, "each_dropout", dtype)((1,), (64,), (each, *sizes, *place))
        np.testing.assert_array_equal(to_host(each), expected, str(shape))


def test_masks_keep_their_share_and_do_not_resemble_each_other(gpu):
    masks = []
    for seed, step, layer in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        D = gpu.empty((100, 200), np.float32)
        cuda.Philox(seed).draw(D, 0.7, step, layer)
        masks.append(to_host(D) > 0)
    deviation = (0.7 * 0.3 / 20_000) ** 0.5
    for number, kept in enumerate(masks):
        assert abs(kept.mean() - 0.7) < 5 * deviation
        for other in masks[:number]:
            together = (kept & other).mean()
            assert abs(together - 0.49) < 5 * (0.49 * 0.51 / 20_000) ** 0.5


def test_a_mask_of_a_wrong_kind_is_refused(double_with_kernels):
    D = double_with_kernels.empty((4, 6), np.float32)
    for wrong in (D.T, double_with_kernels.empty(4, np.int32)):
        with pytest.raises(ValueError, match="C-contiguous float32 or float64"):
            cuda.Philox(0).draw(wrong, 0.5, 0, 0)
    cuda.Philox(0).draw(D[:0], 0.5, 0, 0)


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}])
def test_dropout_follows_its_seed_alone(gpu, options):
    assert gpu is not np
    net = Network([5, 8, 6, 3], hidden=("tanh", "relu"), output="softmax", keep_prob=(0.8, 0.5))
    X = to_device(np.random.default_rng(0).normal(size=(5, 20)), "float64")
    Y = to_device(accelnn.one_hot(np.arange(20) % 3, 3))
    first = net.init("he", dtype="float64")

    def costs(solver="direct", seed=0):
        rest = {"epochs": 12, "learning_rate": 0.1, "record_every": 1, "seed": seed}
        return accelnn.fit(net, first, X, Y, solver=solver, **rest, **options)[1].costs

    assert costs() == costs()
    assert costs() != costs(seed=1)
    if not options:
        np.testing.assert_allclose(costs("gram"), costs(), rtol=1e-12)


# --------------------------------------------------------------------------------------------
# kernels that do not compile


def test_without_kernels_dropout_uses_the_generator_of_cupy(double, double_with_kernels):
    assert not cuda.kernels_compile(double)
    assert cuda.kernels_compile(double_with_kernels)


def test_one_warning_says_why_kernels_do_not_compile(double_with_kernels, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("libnvrtc.so.13 not found")

    monkeypatch.setattr(device_double.RawModule, "get_function", fail)
    with pytest.warns(RuntimeWarning, match="do not compile; dropout .*libnvrtc.so.13 not found"):
        assert not cuda.kernels_compile(double_with_kernels)
    X, Y = to_device(np.ones((2, 3))), to_device(np.ones((1, 3)))
    net = Network([2, 4, 1], keep_prob=0.5)
    first, rest = net.init(dtype="float64"), {"epochs": 3, "learning_rate": 0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, history = accelnn.fit(net, first, X, Y, solver="direct", **rest)
    assert np.isfinite(history.final_cost)


def test_an_error_in_a_source_names_its_own_line(double_with_kernels):
    code = '// a comment\n#include "common.cuh"\n\nnonsense\nextern "C" __global__ void f(int x) {}'
    module = double_with_kernels.RawModule(code=cuda.with_common(code, "tried.cu"))
    with pytest.raises(device_double.CompileException, match="tried.cu:4:.*nonsense"):
        module.get_function("f")


# --------------------------------------------------------------------------------------------
# compiled for the cards

ARCHITECTURES = ("80", "90")
WITHOUT_SPILLS = {"step.cu"}  # kernels whose registers all fit
BY_NVRTC = """
import sys
from cupy_backends.cuda.libs import nvrtc
program = nvrtc.createProgram(sys.stdin.read(), "kernel.cu", (), ())
try:
    nvrtc.compileProgram(program, tuple(sys.argv[1:]))
except Exception:
    sys.exit(nvrtc.getProgramLog(program))
sys.exit(not nvrtc.getCUBIN(program))
"""


@pytest.fixture(scope="module")
def nvrtc():
    """Skips without CuPy's NVRTC, which a process of its own looks for."""
    asked = 'from cupy_backends.cuda.libs import nvrtc; nvrtc.createProgram("", "", (), ())'
    if subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode:
        pytest.skip("there is neither nvcc nor CuPy with NVRTC")


VARIANTS = [(name, dtype) for name in SOURCES for dtype in DTYPES]


@pytest.mark.parametrize(
    ("name", "dtype", "define"),
    [*((*variant, "") for variant in VARIANTS), ("step.cu", "float32", "-DBFLOAT16")],
)
def test_sources_compile_to_machine_code_without_headers(name, dtype, define, tmp_path, request):
    options = ["-std=c++17", f"-DREAL={cuda.REAL[np.dtype(dtype)]}", *define.split()]
    code = cuda.source(name)
    assert "#include" not in code
    if shutil.which("nvcc") is None:
        request.getfixturevalue("nvrtc")
        for architecture in ARCHITECTURES:
            command = [sys.executable, "-c", BY_NVRTC, *options, f"-arch=sm_{architecture}"]
            tried = subprocess.run(command, input=code, capture_output=True, text=True)
            assert tried.returncode == 0, tried.stderr
        return
    file = tmp_path / name
    file.write_text(code)
    for architecture in ARCHITECTURES:
        options.append(f"-gencode=arch=compute_{architecture},code=sm_{architecture}")
    command = ["nvcc", "-fatbin", "-Werror=all-warnings", "-Xptxas=-v", *options, str(file)]
    command.append("--threads=2")
    tried = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    if name in WITHOUT_SPILLS:
        spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", tried.stdout + tried.stderr)
        assert spilled
        assert not any(map(int, spilled))
