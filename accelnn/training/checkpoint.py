"""Checkpoints: a training in a file, from which it goes on after its process has ended.

The file is one of `accelnn.models.write`: JSON, and one flat array of the parameters, moments,
records and best parameters. The parameters are the trainer's own, in sample space S and not W[1],
so that a resumed training has the bits of one without a break.
"""

import hashlib
import json
import math
import re
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelnn.backend import Array, array_module, backend_of, to_host
from accelnn.columns import HostColumns
from accelnn.distributed import Processes
from accelnn.files import check_writable
from accelnn.network import Parameters, parameter_count
from accelnn.optimizers import rates
from accelnn.solvers.choice import SOLVERS, trainer_of
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job, State
from accelnn.training.checks import count
from accelnn.training.history import History

if TYPE_CHECKING:
    from accelnn.training.descent import Descent

KIND = b"accelnn checkpoint"
EVERY = 60.0  # seconds between checkpoints, by default
SHARE = 0.01  # of the time that writing may take: checkpoints of large nets come less often
SAMPLES = 256  # examples whose values identify the data, beside the sum of all
RATES_AT_ONCE = 10_000


def checkpoint_file(
    path: Any, every: float | str, resume: bool, processes: Processes | None = None
) -> "CheckpointFile | None":
    """The file that these arguments of `fit` ask for, or None; raises as `fit` does. The first of
    several processes reads it for all."""
    if path is not None and processes is not None:
        with processes.together():
            file = CheckpointFile(Path(path), every, resume, processes.rank == 0)
        file.saved, file.numbers = processes.first((file.saved, file.numbers))
        return file
    if path is not None:
        return CheckpointFile(Path(path), every, resume)
    if resume or every != EVERY:
        given = "resume=True" if resume else f"checkpoint_every={every!r}"
        raise ValueError(f"{given} needs a file: give checkpoint as well")
    return None


class CheckpointFile:
    """The file of a training's checkpoints.

    ours : whether this process reads and writes it, and no other
    saved, numbers : what it held when the training began: fields, or None, and the flat array
    epoch, steps : those of the last good checkpoint, or None
    next_epoch : a checkpoint is due before it; infinite if they come by time
    """

    def __init__(self, path: Path, every: float | str, resume: bool, ours: bool = True) -> None:
        self.path, (self.seconds, self.epochs), self.ours = path, interval(every), ours
        self.saved: Any = None
        self.numbers: Any = None
        self.epoch: int | None = None
        self.steps: int | None = None
        self.next_epoch: Any = math.inf
        if not ours:
            return
        check_writable(path)
        if not path.exists():
            return
        if not resume:
            hint = "go on from it by resume=True, or --resume; or delete it to start again"
            raise FileExistsError(f"{path} exists: {hint}")
        from accelnn import models  # with the data sets, which `fit` alone does not need

        remedy = "take a whole copy of the file, or delete it to start again"
        self.saved, self.numbers = models.read(path, KIND, remedy)
        fields = self.saved if isinstance(self.saved, dict) else {}
        if not isinstance(fields.get("settings"), dict) or fields.get("solver") not in SOLVERS:
            raise ValueError(f"{path}: it lacks its settings: {remedy}")

    @property
    def record_every(self) -> Any:
        """That of the training in the file, or None if there is none."""
        return self.saved and self.saved["settings"].get("record_every")

    def check(self, settings: dict[str, Any], solver: str) -> str:
        """The solver to use, if this one is asked for; raises ValueError if the file holds a
        training with other settings."""
        self.begun = time.perf_counter()
        self.settings = json.loads(json.dumps(settings, default=float))
        if self.saved is None:
            return solver
        saved, now = self.saved["settings"], self.settings
        differences = [(name, saved.get(name), now[name]) for name in now]
        chosen: str = self.saved["solver"]
        if solver != "auto":
            differences.append(("solver", chosen, solver))
        self._refuse([one for one in differences if one[1] != one[2]])
        return chosen

    def restore(self, descent: "Descent", history: History) -> None:
        """Make a training that has not started go on from the file."""
        self.picked = history.solver, history.reason
        self.rates, self.hashed = hashlib.sha256(), descent.job.first_epoch
        if self.saved is None:
            return
        try:
            self._check_course(descent)
            self._restore(descent)
            history.reason = str(self.saved["reason"])
            self.begun -= float(self.saved["seconds"])
        except _Other:
            raise
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
            remedy = "delete it to start again"
            raise ValueError(f"{self.path}: {str(error)[:500]}: {remedy}") from error
        self.picked = history.solver, history.reason

    def _check_course(self, descent: "Descent") -> None:
        """Raise ValueError unless the epochs and the rates go on from those in the file."""
        epochs, begun = (count(name, self.saved[name], 0) for name in ("epochs", "batches"))
        done, last = epochs + (begun > 0), descent.starts.stop
        if done > last:
            self._refuse([("epochs", f"{done} begun", last)])
        digest = self._digest(descent, done)
        if digest != self.saved["rates"]:
            now = _described_rate(descent, done, digest)
            self._refuse([("learning_rate", self.saved["learning_rate"], now)])

    def _restore(self, descent: "Descent") -> None:
        job, saved, xp = descent.job, self.saved, descent.job.xp
        n_moments, first_layer = job.optimizer.moments, job.net.layers[0]
        in_space = issubclass(trainer_of(saved["solver"], job), InSampleSpace)
        layers = (job.examples if in_space else first_layer, *job.net.layers[1:])
        records = count("records", saved["records"], 0)
        own = [parameter_count(layers)] * (1 + n_moments)
        of_records = [records, records, records * 8 // job.params.dtype.itemsize]
        lengths = [*own, *of_records, *[parameter_count(job.layers)] * (saved["best"] is True)]
        if self.numbers.size != sum(lengths) or self.numbers.dtype != job.params.dtype:
            found = f"{self.numbers.size} numbers of {self.numbers.dtype}"
            raise ValueError(f"found {found}, expected {sum(lengths)} of {job.params.dtype}")
        params, *parts = np.split(self.numbers, np.cumsum(lengths)[:-1])
        costs, validation_costs, accuracies = parts[n_moments : n_moments + 3]
        descent.costs[:records] = xp.asarray(costs)
        descent.validation_costs[:records] = xp.asarray(validation_costs)
        descent.accuracies[:records] = xp.asarray(accuracies.view(np.float64))
        if saved["best"] is True:
            descent.best = job.part(Parameters(xp.asarray(parts[-1]), job.layers))
        descent.lowest = float(saved["lowest"])
        descent.best_record, descent.validated, descent.asked = (
            count(name, saved[name], 0) for name in ("best_record", "validated", "asked")
        )
        descent.starts[descent.best_record : descent.best_record + 1]
        if saved["dropout"] is not None:
            _checked_generator(saved["dropout"])
        if saved["mark"] is not None:
            epoch, generator = saved["mark"]
            job.marks[count("mark", epoch, 0)] = _checked_generator(generator)
        c = tuple(float(number) for number in saved["c"])
        if len(c) != (1 + n_moments) * in_space:
            raise ValueError(f"found {len(c)} numbers c")
        job.resumed = State(
            saved["epochs"],
            count("steps", saved["steps"], 0),
            tuple(xp.asarray(moment) for moment in parts[:n_moments]),
            saved["dropout"],
            saved["batches"],
            float(saved["partial"]),
            xp.asarray(params),
            c,
        )
        if xp is np:
            self._limit_threads(job)
        self.epoch, self.steps = saved["epochs"], saved["steps"]
        del self.numbers

    def _limit_threads(self, job: Job) -> None:
        """Use no more threads than the training in the file did: they decide the last bits."""
        from threadpoolctl import threadpool_limits

        steps, blas = self.saved["machine"]["steps"], self.saved["machine"]["blas"]
        if steps is not None:
            job.threads = min(job.threads or steps, count("steps", steps, 1))
        if blas_threads() > count("blas", blas, 1):
            job.resources.enter_context(threadpool_limits(blas, "blas"))

    def begin(self, descent: "Descent") -> None:
        """Plan the first checkpoint, once the trainer has started."""
        device = backend_of(descent.job.params.flat).device_name()
        blas = blas_threads() if descent.job.xp is np else None
        self.machine = {"device": device, "steps": descent.trainer.threads, "blas": blas}
        if self.ours and self.saved is not None and self.saved["machine"] != self.machine:
            before, now = (_in_words(one) for one in (self.saved["machine"], self.machine))
            message = f"{self.path} was written on {before}, and goes on on {now}"
            warnings.warn(f"{message}: the last bits may differ", RuntimeWarning, stacklevel=2)
        self._plan(descent, 0.0)

    def is_due(self, descent: "Descent") -> bool:
        """Whether it is time for a checkpoint."""
        processes = descent.job.processes
        due = time.monotonic() >= descent.job.interruption.deadline
        due = due or descent.trainer.epoch >= self.next_epoch
        return due if processes is None else processes.first(due)

    def save(self, descent: "Descent") -> None:
        """Write a checkpoint, unless the last one is of the same step; warns if that fails."""
        start, trainer, processes = time.monotonic(), descent.trainer, descent.job.processes
        if trainer.steps != self.steps:
            from accelnn import models

            contents = self._contents(descent)
            try:
                if self.ours:
                    models.write(self.path, KIND, *contents)
            except (OSError, MemoryError) as error:
                kept = "there is none yet"
                if self.epoch is not None:
                    kept = f"the last one, of epoch {self.epoch:,}, is still good"
                failed = f"{self.path}: no checkpoint at epoch {trainer.epoch:,} ({error})"
                message = f"{failed}: {kept}; the training goes on"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            else:
                self.epoch, self.steps = trainer.epoch, trainer.steps
            if processes is not None:
                self.epoch, self.steps = processes.first((self.epoch, self.steps))
        self._plan(descent, time.monotonic() - start)

    def _plan(self, descent: "Descent", seconds: float) -> None:
        """Choose when the next one is due, if the last one took so many seconds."""
        wait = max(self.seconds, seconds / SHARE)
        descent.job.interruption.deadline = time.monotonic() + wait if self.ours else math.inf
        if self.epochs is not None:
            self.next_epoch = (descent.trainer.epoch // self.epochs + 1) * self.epochs

    def _contents(self, descent: "Descent") -> tuple[dict[str, Any], Array]:
        """The fields and the numbers of a checkpoint."""
        job, starts, state = descent.job, descent.starts, descent.trainer.checkpoint()
        records = min(len(starts), len(range(starts.start, state.epochs + 1, starts.step)))
        has_best = math.isfinite(descent.lowest)
        arrays = [state.params, *state.moments]
        arrays += [costs[:records] for costs in (descent.costs, descent.validation_costs)]
        arrays += [descent.accuracies[:records].view(job.params.dtype)]
        arrays += [job.whole(descent.best).flat] if has_best else []
        done = state.epochs + (state.batches > 0)
        digest = self._digest(descent, done)
        last = max((epoch for epoch in job.marks if epoch <= state.epochs), default=None)
        fields = {
            "settings": self.settings,
            "learning_rate": _described_rate(descent, done, digest),
            "rates": digest,
            "solver": self.picked[0],
            "reason": self.picked[1],
            "machine": self.machine,
            "seconds": time.perf_counter() - self.begun,
            "records": records,
            "best": has_best,
            "mark": None if last is None else [last, job.marks[last]],
        }
        for name in ("epochs", "steps", "batches", "partial", "dropout", "c"):
            fields[name] = getattr(state, name)
        for name in ("lowest", "best_record", "validated", "asked"):
            fields[name] = getattr(descent, name)
        return fields, np.concatenate([to_host(array) for array in arrays])

    def _digest(self, descent: "Descent", done: int) -> str:
        """The SHA-256 of the learning rates of all epochs before `done`."""
        for start in range(self.hashed, done, RATES_AT_ONCE):
            epochs = range(start, min(start + RATES_AT_ONCE, done))
            self.rates.update(np.array(rates(descent.learning_rate, epochs)).data)
        self.hashed = max(self.hashed, done)
        return self.rates.hexdigest()

    def _refuse(self, found: list[tuple[str, Any, Any]]) -> None:
        """Raise ValueError if there are differences: a name, and its values then and now."""
        if found:
            place = self.path.name
            texts = (f"{name}: {_short(a)} in {place}, {_short(b)} now" for name, a, b in found)
            hint = "pass what it had, or name another checkpoint"
            raise _Other(f"{self.path} holds another training: {'; '.join(texts)}: {hint}")


class _Other(ValueError):
    """The file holds another training."""


def interval(every: Any) -> tuple[float, int | None]:
    """The seconds and the epochs between two checkpoints, one of them given: 60.0, "10 epochs"."""
    if isinstance(every, str) and (found := re.fullmatch(r"([1-9]\d{0,17}) epochs?", every)):
        return math.inf, int(found[1])
    if isinstance(every, int | float) and not isinstance(every, bool) and 0 < every < math.inf:
        return float(every), None
    expected = 'expected checkpoint_every as seconds above 0, or such as "10 epochs"'
    raise ValueError(f"{expected}, got {every!r}")


def settings_of(job: Job, **others: Any) -> dict[str, Any]:
    """All that decides the result of a training beside the solver, the learning rate and the
    epochs, as plain values; before a share of the examples is set apart."""
    values = ", ".join(f"{name}={value!r}" for name, value in vars(job.optimizer).items())
    state, shared = job.state, job if job.place is not None else None
    weights = None if job.weights is None else fingerprint(job.weights, shared)
    watched = None
    if job.validation is not None:
        X, Y, *_ = job.validation
        watched = [fingerprint(X, job), fingerprint(Y, shared)]
    return {
        **asdict(job.net) | {"layers": job.layers},
        "backend": backend_of(job.params.flat).name,
        "dtype": str(job.params.dtype),
        "optimizer": f"{job.optimizer.name}({values})",
        "batch_size": job.batch_size,
        "seed": job.seed,
        "shuffle": job.shuffle if isinstance(job.shuffle, int) else "own permutations",
        "params": fingerprint(job.whole(job.params).flat),
        "X": fingerprint(job.X, job),
        "Y": fingerprint(job.Y, shared),
        "weights": weights,
        "validation": watched,
        "state": state
        and [state.epochs, state.steps, state.batches, *map(fingerprint, state.moments)],
        **others,
    }


def fingerprint(array: Array, job: Job | None = None) -> str:
    """The shape and dtype of an array whose last axis are the examples, and a hash: of the sum of
    all bit patterns and of some examples; of data that is streamed, of some examples alone.

    job : of the processes that have some of the examples, or of the features, each; the result is
        that of the whole
    """
    processes, along = None, -1
    if job is not None and job.processes is not None:
        processes, along = job.processes, 0 if job.place is None else -1
    counts = [array.shape[along]] if processes is None else processes.gather(array.shape[along])
    before = 0 if processes is None else sum(counts[: processes.rank])
    shape = list(array.shape)
    shape[along] = sum(counts)
    chosen = np.linspace(0, shape[-1] - 1, min(shape[-1], SAMPLES)).astype(np.int64)
    if along:  # those that this process has
        chosen = chosen[(before <= chosen) & (chosen < before + array.shape[-1])] - before
    total = 0
    if isinstance(array, HostColumns):
        examples = array.read(chosen).T
    else:
        total = int(array.view(f"u{array.dtype.itemsize}").sum(dtype=np.uint64))
        examples = to_host(array[..., array_module(array).asarray(chosen)])
    parts = [(total, examples)] if processes is None else processes.gather((total, examples))
    digest = hashlib.sha256()
    if not isinstance(array, HostColumns):
        digest.update(b"%d" % (sum(each for each, _ in parts) % 2**64))
    examples = np.concatenate([each for _, each in parts], axis=along)
    digest.update(np.ascontiguousarray(examples.T).data)
    return f"{array.dtype} {tuple(shape)} #{digest.hexdigest()[:16]}"


def blas_threads() -> int:
    """The threads of NumPy's matrix products."""
    from threadpoolctl import threadpool_info

    found = threadpool_info()
    return max((one["num_threads"] for one in found if one["user_api"] == "blas"), default=1)


def _described_rate(descent: "Descent", done: int, digest: str) -> float | str:
    """The learning rate, or for a schedule that of the last epoch and the digest of all."""
    if not callable(descent.learning_rate):
        return float(descent.learning_rate)
    [last] = rates(descent.learning_rate, range(max(done - 1, 0), max(done, 1)))
    return f"a schedule, {last:g} after {done} epochs #{digest[:8]}"


def _checked_generator(state: Any) -> Any:
    """The state of a generator of random numbers; raises an error if it is none."""
    np.random.default_rng().bit_generator.state = state
    return state


def _in_words(machine: dict[str, Any]) -> str:
    counts = {"threads": machine["steps"], "threads of BLAS": machine["blas"]}
    texts = [f"{n} {name}" for name, n in counts.items() if n is not None]
    return ", ".join([str(machine["device"]), *texts])


def _short(value: Any) -> str:
    return str(value)[:200]
