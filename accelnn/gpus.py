"""What is known of a visible GPU: by CUDA, and by NVIDIA's management library (NVML) where
nvidia-ml-py is installed, which knows clocks, power limit and driver. Everything is only read."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from accelnn import backend


@dataclass(frozen=True)
class Gpu:
    """One GPU. The fields after `driver` are None if NVML is missing or does not say.

    index : among the visible ones, as in "cupy:1"
    compute_capability : for instance "9.0"
    cache_bytes : of its last-level cache; 0 if CUDA does not say
    cuda : the newest CUDA that the driver supports, for instance "13.0"
    sm_mhz, memory_mhz : the clocks at this moment
    max_sm_mhz, max_memory_mhz : the highest that it has
    power_limit_watts : at which it is held at present
    """

    index: int
    name: str
    compute_capability: str
    memory_free_bytes: int
    memory_bytes: int
    multiprocessors: int
    cache_bytes: int
    cuda: str
    driver: str | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    max_sm_mhz: int | None = None
    max_memory_mhz: int | None = None
    power_limit_watts: float | None = None

    def __str__(self) -> str:
        """In one line, for people."""
        free, total = self.memory_free_bytes / 2**30, self.memory_bytes / 2**30
        known = [
            self.name,
            f"{free:.1f} GiB free of {total:.1f} GiB",
            f"compute capability {self.compute_capability}",
            f"CUDA {self.cuda}",
            f"driver {self.driver}" if self.driver else "",
            _clock("cores", self.sm_mhz, self.max_sm_mhz),
            _clock("memory", self.memory_mhz, self.max_memory_mhz),
            f"power limit {self.power_limit_watts:.0f} W" if self.power_limit_watts else "",
        ]
        return ", ".join(filter(None, known))


def count() -> int:
    """How many GPUs are visible; 0 where CuPy cannot be used."""
    if backend.why_not() is not None:
        return 0
    return int(backend.CupyBackend().xp.cuda.runtime.getDeviceCount())


def describe(index: int) -> Gpu:
    """The visible GPU with this index, where CuPy works."""
    there = backend.CupyBackend(index)
    runtime = there.xp.cuda.runtime
    properties = runtime.getDeviceProperties(index)
    free, total = there.memory()
    return Gpu(
        index=index,
        name=properties["name"].decode(),
        compute_capability=f"{properties['major']}.{properties['minor']}",
        memory_free_bytes=free,
        memory_bytes=total,
        multiprocessors=properties["multiProcessorCount"],
        cache_bytes=properties.get("l2CacheSize", 0),
        cuda=version(runtime.driverGetVersion()),
        **_managed(runtime.deviceGetPCIBusId(index)),
    )


def version(number: int) -> str:
    """CUDA's version, which it tells as 1000 major + 10 minor."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _managed(bus: str) -> dict[str, Any]:
    """What NVML tells of the GPU at this address of the PCI bus: CUDA and NVML do not number them
    alike. Each value that it does not tell (as in some virtual machines) is left out."""
    found: dict[str, Any] = {}
    with _nvml() as nvml:
        if nvml is None:
            return found

        def enter(name: str, read: Callable[[], Any]) -> None:
            with contextlib.suppress(nvml.NVMLError):
                found[name] = read()

        enter("driver", nvml.nvmlSystemGetDriverVersion)
        with contextlib.suppress(nvml.NVMLError):
            gpu = nvml.nvmlDeviceGetHandleByPciBusId(bus)
            sm, memory = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM
            enter("sm_mhz", lambda: nvml.nvmlDeviceGetClockInfo(gpu, sm))
            enter("memory_mhz", lambda: nvml.nvmlDeviceGetClockInfo(gpu, memory))
            enter("max_sm_mhz", lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, sm))
            enter("max_memory_mhz", lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, memory))
            # NVML tells milliwatts
            enter("power_limit_watts", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000)
    return found


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """nvidia-ml-py's module, ready to be asked; None where it is missing or finds no NVML."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _clock(of: str, now: int | None, most: int | None) -> str:
    """Its frequency, now and at most, as far as that is known: "cores at 345 of 1980 MHz"."""
    if most is None:
        return "" if now is None else f"{of} at {now} MHz"
    return f"{of} at most {most} MHz" if now is None else f"{of} at {now} of {most} MHz"
