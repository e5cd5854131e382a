"""The progress bar and the printed lines of `verbose`."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelnn.training.history import Callback, Checkpoint

REDRAW = 0.1  # seconds between two drawings of a bar in a notebook


@contextmanager
def following(
    verbose: Any, epochs: int, label: str = "", unit: str = "epoch"
) -> Iterator[Callback | None]:
    """A callback that shows the progress of a training within the block: a bar on standard error,
    in a terminal or a notebook, if `verbose` is True, printed lines if it is "lines"; None if it
    is False. Raises ValueError for another value."""
    if not verbose:
        yield None
        return
    if verbose == "lines":
        yield lambda now: print(f"cost after {unit} {now.epoch}: {now.scores()}", flush=True)
        return
    check(verbose)
    # The clock starts with the first record, so that compiling does not enter the estimate.
    with _bar(label or "training", epochs, "preparing") as update:
        latest, distance = 0, 1  # of the records

        def show(now: Checkpoint) -> None:
            nonlocal latest, distance
            latest, distance = now.epoch, max(now.epoch - latest, 1)
            update(completed=now.epoch + 1, scores=f"cost {now.scores(4)}")

        yield show
        if latest + distance >= epochs:  # the last record: the training did not stop early
            update(completed=epochs)


@contextmanager
def counting(verbose: Any, trainings: int) -> Iterator[Callable[[str], None]]:
    """A function to call with a line on each training that has ended, of so many; shows progress as
    `following` does."""
    if not verbose:
        yield lambda _: None
    elif verbose == "lines":
        yield functools.partial(print, flush=True)
    else:
        check(verbose)
        with _bar("trainings", trainings, f"0 of {trainings}") as update:
            update(completed=0)  # starts the clock
            ended = itertools.count(1)

            def show(_: str) -> None:
                number = next(ended)
                update(completed=number, scores=f"{number} of {trainings}")

            yield show


@contextmanager
def _bar(label: str, total: int, scores: str) -> Iterator[Callable[..., None]]:
    """A progress bar; the function changes its fields `completed` and `scores`."""
    from rich import progress
    from rich.console import Console

    name = progress.TextColumn("{task.description}", markup=False)
    columns = (name, progress.BarColumn(), progress.TaskProgressColumn(), "{task.fields[scores]}")
    remaining = progress.TimeRemainingColumn(elapsed_when_finished=True)
    bar = progress.Progress(*columns, remaining, console=Console(stderr=True))
    task = bar.add_task(label, total=total, scores=scores, start=False)

    def update(**changes: Any) -> None:
        bar.start_task(task)
        bar.update(task, **changes)

    with _in_notebook(bar) if bar.console.is_jupyter else bar:
        yield update


def check(verbose: Any) -> None:
    if verbose is not True:
        raise ValueError(f"expected verbose as False, True or 'lines', got {verbose!r}")


@contextmanager
def _in_notebook(bar: Any) -> Iterator[None]:
    """Redraw a rich Progress in a notebook's output, for which rich itself needs ipywidgets."""
    from IPython.display import display

    update, drawn = bar.update, time.monotonic()
    handle = display(bar.make_tasks_table(bar.tasks), display_id=True)

    def update_and_draw(*args: Any, **kwargs: Any) -> None:
        nonlocal drawn
        update(*args, **kwargs)
        if bar.finished or time.monotonic() - drawn > REDRAW:
            drawn = time.monotonic()
            handle.update(bar.make_tasks_table(bar.tasks))

    bar.update = update_and_draw
    yield
