"""The progress bar and the printed lines of `verbose`."""

import time
from collections.abc import Iterator
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
    if verbose is not True:
        raise ValueError(f"expected verbose as False, True or 'lines', got {verbose!r}")
    from rich import progress
    from rich.console import Console

    name = progress.TextColumn("{task.description}", markup=False)
    columns = (name, progress.BarColumn(), progress.TaskProgressColumn(), "{task.fields[scores]}")
    remaining = progress.TimeRemainingColumn(elapsed_when_finished=True)
    bar = progress.Progress(*columns, remaining, console=Console(stderr=True))
    # The clock starts with the first record, so that compiling does not enter the estimate.
    task = bar.add_task(label or "training", total=epochs, scores="preparing", start=False)
    with _in_notebook(bar) if bar.console.is_jupyter else bar:
        latest, distance = 0, 1  # of the records

        def show(now: Checkpoint) -> None:
            nonlocal latest, distance
            latest, distance = now.epoch, max(now.epoch - latest, 1)
            bar.start_task(task)
            bar.update(task, completed=now.epoch + 1, scores=f"cost {now.scores(4)}")

        yield show
        if latest + distance >= epochs:  # the last record: the training did not stop early
            bar.update(task, completed=epochs)


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
