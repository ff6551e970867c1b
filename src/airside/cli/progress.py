"""Show a run while it goes on: a live line on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

import click

from airside.cli.durations import write_duration
from airside.engine.progress import Progress


class Display(Protocol):
    """Something that shows the news of a run, used as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def show(self, news: Progress) -> None:
        """Take in one piece of news."""

    def say(self, text: str) -> None:
        """Print a line of the command's own."""

    def liven(self) -> None:
        """The run is taking its time: begin to show that it is alive."""


def display(name: str) -> Display:
    """The display for this terminal: live if stderr is one and rich is installed, else plain lines."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    is_live = is_terminal and importlib.util.find_spec("rich") is not None
    return LiveDisplay(name) if is_live else PlainDisplay(name)


class PlainDisplay:
    """One line per change: `[  0.4s] my_task RUNNING: 3 of 7 stages`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return

    def show(self, news: Progress) -> None:
        """Print what changed."""
        for line in changes(self._last, news):
            self.say(f"[{write_duration(news.elapsed):>6}] {self._name} {line}")
        self._last = news

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def liven(self) -> None:
        """Nothing to do: lines are printed as news comes."""


class LiveDisplay:
    """A spinner with phase, message and elapsed time; links and notes scroll above it.

    Rich is loaded by `liven`: a task that finishes at once needs none.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Progress | None = None
        self._began = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, news: Progress) -> None:
        """Update the line, and print links and notes above it."""
        for line in changes(self._last, news):
            if line.startswith(("link ", "note: ")):
                self.say(f"  {line}")
        self._last = news

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        if self._live is None:
            click.echo(text, err=True)
        else:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def liven(self) -> None:
        """Begin to show the live line."""
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("dots" if sys.stderr.encoding.lower().startswith("utf") else "line")

        def render() -> Spinner:
            spinner.update(text=self._line())
            return spinner

        console = Console(stderr=True)
        self._live = Live(get_renderable=render, console=console, transient=True, refresh_per_second=10)
        self._live.start()

    def _line(self) -> Any:
        from rich.text import Text

        news = self._last
        line = Text.assemble((self._name, "bold"), " ")
        if news is not None:
            line.append(news.phase.name, "cyan")
            line.append(f" {write_duration(time.monotonic() - self._began)}", "dim")
            line.append(f" attempt {news.attempt + 1}" if news.attempt else "", "yellow")
            line.append(f"  {news.message}" if news.message else "")
        line.truncate(200, overflow="ellipsis")
        return line


def changes(last: Progress | None, news: Progress) -> list[str]:
    """What a piece of news adds to the one before, a line each.

    >>> from airside import LogLink, Phase
    >>> first = Progress(run_id="r", attempt=0, phase=Phase.RUNNING, message="3 of 7")
    >>> changes(None, first), changes(first, first)
    (['RUNNING: 3 of 7'], [])
    """
    lines = []
    is_news = not news.phase.is_terminal  # how it ended is told at the end
    if is_news and (
        last is None or (last.phase, last.message, last.attempt) != (news.phase, news.message, news.attempt)
    ):
        again = f" (attempt {news.attempt + 1})" if news.attempt else ""
        lines.append(f"{news.phase.name}{again}: {news.message}" if news.message else f"{news.phase.name}{again}")
    known = set() if last is None else {link.uri for link in last.links}
    lines += [f"link {link.name or 'job'}: {link.uri}" for link in news.links if link.uri not in known]
    if news.note and (last is None or last.note != news.note):
        lines.append(f"note: {news.note}")
    return lines
