"""The progress of a run: what is done per second and the time that is left, on standard error."""

from typing import Any

import rich.console
import rich.progress
import rich.text


class Progress:
    """A bar that also runs where nobody looks: without a terminal it prints nothing."""

    def __init__(
        self, name: str, total: int | None, done: int, *, shown: bool, unit: str = "examples"
    ) -> None:
        columns: list[Any] = [
            "{task.description}",
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            _Rate(unit),
            rich.progress.TimeRemainingColumn(),
        ]
        console = rich.console.Console(stderr=True)
        self._bar = rich.progress.Progress(
            *columns, console=console, disable=not (shown and console.is_terminal)
        )
        self._task = self._bar.add_task(name, total=total, completed=done)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def say(self, description: str) -> None:
        self._bar.update(self._task, description=description)

    def advance(self, count: int) -> None:
        self._bar.advance(self._task, count)


class _Rate(rich.progress.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich.progress.Task) -> Any:
        speed = task.finished_speed or task.speed
        return rich.text.Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")
