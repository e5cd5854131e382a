"""The visible GPUs, as CUDA describes them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from accelnn import backend


@dataclass(frozen=True)
class Gpu:
    """One GPU, with its index among the visible ones, its compute capability such as "9.0", and the
    newest CUDA of the driver, such as "13.0". Its cache is 0 bytes if CUDA does not report it."""

    index: int
    name: str
    compute_capability: str
    memory_free_bytes: int
    memory_bytes: int
    multiprocessors: int
    cache_bytes: int
    cuda: str

    def __str__(self) -> str:
        return describe_fields(asdict(self))


def describe_fields(gpu: Mapping[str, Any]) -> str:
    """The fields of a `Gpu`, as a stored result has them, in one line."""
    free, total = gpu["memory_free_bytes"] / 2**30, gpu["memory_bytes"] / 2**30
    return (
        f"{gpu['name']}, {free:.1f} GiB free of {total:.1f} GiB, "
        f"compute capability {gpu['compute_capability']}, CUDA {gpu['cuda']}"
    )


def count() -> int:
    """The number of visible GPUs; 0 if CuPy cannot be used."""
    usable = backend.why_not() is None
    return int(backend.CupyBackend().xp.cuda.runtime.getDeviceCount()) if usable else 0


def describe(index: int) -> Gpu:
    """The visible GPU with this index; CuPy must work."""
    gpu = backend.CupyBackend(index)
    runtime = gpu.xp.cuda.runtime
    properties = runtime.getDeviceProperties(index)
    free, total = gpu.memory()
    return Gpu(
        index=index,
        name=properties["name"].decode(),
        compute_capability=f"{properties['major']}.{properties['minor']}",
        memory_free_bytes=free,
        memory_bytes=total,
        multiprocessors=properties["multiProcessorCount"],
        cache_bytes=properties.get("l2CacheSize", 0),
        cuda=version(runtime.driverGetVersion()),
    )


def version(number: int) -> str:
    """CUDA's version, which it gives as 1000 major + 10 minor."""
    return f"{number // 1000}.{number % 1000 // 10}"
