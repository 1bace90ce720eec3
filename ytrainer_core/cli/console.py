"""What a person sees: summary tables on stdout, everything else on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 240
"""Columns where stdout is no terminal: a path broken in two lines cannot be copied or searched."""

out = Console(highlight=False)
if not out.is_terminal:
    out.width = _PIPED_WIDTH
err = Console(stderr=True, highlight=False)


def print_summary(title: str, rows: Mapping[str, str]) -> None:
    """A two-column table."""
    table = Table(title=title, title_justify="left", show_header=False, title_style="bold")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, _plain(text))
    out.print(table)


def relative(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
