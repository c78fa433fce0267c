"""Progress bars on stderr; silent without a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sextet_common import text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")


class Bar:
    """A progress bar, created by :func:`bar`. ``display`` and ``task`` are rich's, or None without a terminal."""

    def __init__(self, display: Progress | None, task: TaskID | None) -> None:
        self._display = display
        self._task = task

    def advance(self, steps: int = 1, **values: float) -> None:
        """Advance the bar by some steps and show values beside it, such as ``loss=0.31``."""
        if self._display is not None and self._task is not None:
            self._display.advance(self._task, steps)
            shown = "  ".join(f"{text.terminal(name, text.SHORT)} {value:.4g}" for name, value in values.items())
            if shown:
                self._display.update(self._task, values=shown)


@contextmanager
def bar(description: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """Show a progress bar on stderr while the block runs; ``done`` steps are of an earlier, interrupted run.

    Examples
    --------
    >>> with bar("distil", total=3) as steps:
    ...     for _ in range(3):
    ...         steps.advance(loss=0.5)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(None, None)
        return
    name, values = (TextColumn(f"{{task.{what}}}", markup=False) for what in ("description", "fields[values]"))
    time = TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(name, BarColumn(), MofNCompleteColumn(), time, values, console=console) as display:
        title = text.terminal(description, text.SHORT)
        yield Bar(display, display.add_task(title, total=total, completed=done, values=""))


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield items while showing a progress bar."""
    with bar(description, total) as steps:
        for item in items:
            yield item
            steps.advance()
