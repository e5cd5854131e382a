"""Steps of data-parallel training on 2 processes of one thread against 1, by accelnn and by
torch.distributed with gloo: `pytest -s benchmarks/test_distributed.py`.

The net is [784, 256, 128, 10] in float32, by gradient descent; the efficiency is t1 / (2 t2). The
programs run alternately, and each keeps its shortest time.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BATCHES = 128, 1024, 4096
LAYERS = 784, 256, 128, 10
SECONDS = 1.0  # of each measurement
ROUNDS = 3
MPIEXEC = Path(sys.executable).with_name("mpiexec")


def accelnn_step(batch, solver):
    """A function that takes so many steps, and this process's rank."""
    import numpy as np
    from mpi4py import MPI

    import accelnn
    from accelnn.distributed import Processes, part

    comm = MPI.COMM_WORLD
    net = accelnn.Network(LAYERS, output="softmax")
    params, random = net.init("he", seed=1, dtype="float32"), np.random.default_rng(0)
    X, Y = random.random((784, 4 * batch), np.float32), random.integers(0, 10, 4 * batch)
    mine = part(4 * batch, Processes(comm))
    given = net, params, X[:, mine], Y[mine]
    options = {"batch_size": batch, "learning_rate": 1e-3, "solver": solver, "threads": 1}

    def steps(count):
        epochs = -(-count // 4)
        every = max(1, epochs)
        accelnn.fit(*given, epochs=epochs, record_every=every, comm=comm, **options)
        return 4 * epochs

    return steps, comm.rank, comm.Barrier


def torch_step(batch, wrapped):
    """The same by PyTorch, with its DistributedDataParallel or one sum of all gradients."""
    import torch
    import torch.distributed as dist
    from torch import nn

    torch.set_num_threads(1)
    rank, size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=size)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    net.append(nn.Linear(128, 10))
    model = nn.parallel.DistributedDataParallel(net) if wrapped else net
    optimizer, loss = torch.optim.SGD(net.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    X, Y = torch.rand(4 * batch // size, 784), torch.randint(0, 10, (4 * batch // size,))

    def steps(count):
        for _ in range(count):
            chosen = torch.randint(0, len(X), (batch // size,))
            optimizer.zero_grad()
            loss(model(X[chosen]), Y[chosen]).backward()
            if not wrapped:
                flat = torch.cat([p.grad.reshape(-1) for p in net.parameters()])
                dist.all_reduce(flat)
                start = 0
                for p in net.parameters():
                    p.grad.copy_(flat[start : start + p.numel()].view_as(p)).div_(size)
                    start += p.numel()
            optimizer.step()
        return count

    return steps, rank, dist.barrier


PROGRAMS = {
    "accelnn, direct": lambda batch: accelnn_step(batch, "direct"),
    "accelnn, jitted": lambda batch: accelnn_step(batch, "jitted"),
    "PyTorch, all_reduce": lambda batch: torch_step(batch, False),
    "PyTorch, DistributedDataParallel": lambda batch: torch_step(batch, True),
}


def measured(name, batch, processes):
    """Seconds of a step, in a program of its own."""
    one = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMBA")}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    command = [MPIEXEC, "-n", str(processes), sys.executable, __file__, name, str(batch)]
    ran = subprocess.run(command, env=os.environ | one | address, capture_output=True, text=True)
    assert ran.stdout, ran.stderr  # gloo may abort after the result
    return float(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize("batch", BATCHES)
def test_two_processes_against_one(batch, capsys):
    shortest = {}
    for _ in range(ROUNDS):
        for name in PROGRAMS:
            for processes in (1, 2):
                seconds = measured(name, batch, processes)
                key = name, processes
                shortest[key] = min(shortest.get(key, seconds), seconds)
    with capsys.disabled():
        for name in PROGRAMS:
            one, two = shortest[name, 1], shortest[name, 2]
            times = f"{1e3 * one:.2f} ms on one, {1e3 * two:.2f} ms on two"
            print(f"\nbatch {batch}, {name}: {times}, efficiency {one / two / 2:.0%}", end="")


def main(name, batch):
    steps, rank, meet = PROGRAMS[name](batch)
    steps(8)
    meet()
    start = time.perf_counter()
    steps(8)
    count = max(8, int(8 * SECONDS / (time.perf_counter() - start)) // 4 * 4)
    from mpi4py import MPI

    count = MPI.COMM_WORLD.bcast(count)
    meet()
    start = time.perf_counter()
    count = steps(count)
    seconds = (time.perf_counter() - start) / count
    if rank == 0:
        print(json.dumps(seconds), flush=True)
    if name.startswith("PyTorch"):  # else gloo aborts a process whose peer has ended
        from torch.distributed import destroy_process_group

        meet()
        destroy_process_group()
    MPI.COMM_WORLD.Barrier()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
