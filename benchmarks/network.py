"""Where more processes stop paying: `python benchmarks/network.py` prints the table of
docs/cluster.md from a model of the machine, whose numbers are assumptions and not measured.

A step on m examples with p parameters takes n processes

    t(n) = 3 · 2 m p / (n R) + 2 log2(n) α + 2 (n - 1) / n · p s / B

with R operations a second of a process, latency α and bandwidth B of the network, and s bytes of a
number: an Allreduce that reduces and scatters, then gathers (Rabenseifner).
"""

from math import log2

from accelnn.network import parameter_count

RATE = 5e10  # operations a second of a process, in float32
LATENCY, BANDWIDTH = 2e-6, 10e9  # of 100 Gbit/s with RDMA, 80 % of it used
SLOW = 30e-6, 1e9  # of 10 Gbit/s Ethernet by TCP
COUNTS = (8, 64, 512)
NETS = ([784, 25, 10], [784, 256, 128, 10], [784, 2048, 2048, 10])
BATCHES = (128, 1024, 8192, 65536)


def seconds(layers, batch, processes, latency=LATENCY, bandwidth=BANDWIDTH, size=4):
    """The seconds that a step takes."""
    parameters = parameter_count(layers)
    work = 6 * batch * parameters / (processes * RATE)
    moved = 2 * (processes - 1) / processes * parameters * size
    return work + 2 * log2(processes) * latency + moved / bandwidth


def efficiency(layers, batch, processes, *network):
    """The share of the time that a process computes."""
    alone = seconds(layers, batch, 1, *network)
    return alone / (processes * seconds(layers, batch, processes, *network))


def table(*network):
    """Lines of Markdown."""
    yield "| net | batch | " + " | ".join(f"{n} processes" for n in COUNTS) + " |"
    yield "| --- | ---: |" + " ---: |" * len(COUNTS)
    for layers in NETS:
        for batch in BATCHES:
            cells = (f"{efficiency(layers, batch, n, *network):.0%}" for n in COUNTS)
            yield f"| {layers} | {batch:,} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for network in ((LATENCY, BANDWIDTH), SLOW):
        print(*table(*network), "", sep="\n")
