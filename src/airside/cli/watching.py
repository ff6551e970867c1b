"""Show a text that changes: in place on a terminal, else once for each change."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence

import click

EVERY = 0.5
"""Seconds between two looks."""


def watch(look: Callable[[], tuple[Sequence[str], bool]], *, in_place: bool = True) -> None:
    """Show the lines that `look` returns until it says that they are the last, or until Ctrl-C.

    Times go on by themselves, so on a terminal the lines are drawn again at each look, unless not `in_place`.
    """
    is_terminal = in_place and sys.stdout.isatty()
    drawn = 0
    told: Sequence[str] = ()
    try:
        while True:
            lines, is_last = look()
            if is_terminal:
                drawn = _draw(lines, drawn, whole=is_last)
            elif lines != told:
                click.echo("\n".join(lines))
            told = lines
            if is_last:
                return
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return


def _draw(lines: Sequence[str], drawn: int, *, whole: bool) -> int:
    """Draw over what was drawn before, as much as fits; returns how many lines there are now."""
    columns, rows = shutil.get_terminal_size()
    fitting = [line[: columns - 1] for line in lines[: rows - 1]]
    up = f"\x1b[{drawn}A" if drawn else ""
    click.echo(up + "\x1b[J" + "\n".join(lines if whole else fitting))
    return len(fitting)
