"""Steps on a file 4 times larger than the memory allowed, against steps on data in memory:
`pytest -s benchmarks/test_out_of_core.py`.

The net is [784, 256, 128, 10] in float32, by Adam on batches of 128. The file has 2 GiB of bytes,
uncompressed, none of which the system holds at the start; after the imports, the process that reads
it may allocate 512 MiB, by RLIMIT_AS. Both kinds of process run alternately.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

LIMIT = 512 << 20  # bytes
EXAMPLES = 4 * LIMIT // 784
IN_MEMORY = 60_000
BATCH, ROUNDS = 128, 3


def write(path):
    """A file of EXAMPLES random pictures and their labels."""
    import h5py
    import numpy as np

    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        pixels = file.create_dataset("X", (EXAMPLES, 784), np.uint8)
        for start in range(0, EXAMPLES, 100_000):
            count = min(100_000, EXAMPLES - start)
            pixels[start : start + count] = random.integers(0, 256, (count, 784), np.uint8)
        file["labels"] = random.integers(0, 10, EXAMPLES)


def forget(path):
    """Make the system drop what it holds of a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(path, kind, solver):
    """Train; prints the seconds of a step and the bytes of memory that training took."""
    import h5py
    import numpy as np

    import accelnn

    accelnn.warm_up("float32", progress=False)
    net = accelnn.Network([784, 256, 128, 10], output="softmax")
    params, options = net.init("he", dtype="float32"), {"optimizer": "adam", "solver": solver}
    with h5py.File(path) as file:
        X, labels, epochs = accelnn.stored(file["X"], scale=255), file["labels"], 1
        warm = np.asarray(file["X"][:1280]).T / np.float32(255), labels[:1280]
        accelnn.fit(net, params, *warm, epochs=1, batch_size=BATCH, **options)
        if kind == "memory":
            X = np.asarray(file["X"][:IN_MEMORY], np.float32).T / 255
            labels, epochs = labels[:IN_MEMORY], EXAMPLES // IN_MEMORY
        else:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, size + LIMIT))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        accelnn.fit(net, params, X, labels, epochs=epochs, batch_size=BATCH, **options)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = epochs * -(-X.shape[1] // BATCH)
    print(json.dumps([seconds / steps, (after - before) * 1024]))


def run(*arguments):
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pixels") / "pixels.h5"
    write(path)
    yield path
    path.unlink()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("solver", ["jitted", "direct"])
def test_a_file_larger_than_memory(path, solver):
    found = {"memory": [], "file": []}
    for _ in range(ROUNDS):
        for kind, results in found.items():
            forget(path)
            results.append(run(path, kind, solver))
    times = {kind: [seconds for seconds, _ in results] for kind, results in found.items()}
    for kind, each in times.items():
        texts = ", ".join(f"{1e6 * seconds:,.0f}" for seconds in each)
        print(f"\n{solver}, {kind}: {1e6 * median(each):,.0f} us a step ({texts})", end="")
    rate = median(times["memory"]) / median(times["file"])
    peak = max(added for _, added in found["file"]) >> 20
    print(f"\n{solver}: {rate:.0%} of the rate in memory, {peak} MiB of {LIMIT >> 20}")


if __name__ == "__main__":
    main(*sys.argv[1:])
