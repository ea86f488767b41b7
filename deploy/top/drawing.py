"""A look, drawn in a terminal or written into a file."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deploy.top.sheets import Sheet, sheets
from deploy.top.watch import Look

_WIDTH = 240  # of what goes into files: lines are never folded


def draw(look: Look) -> Group:
    return Group(*_parts(look))


def plain(look: Look) -> str:
    """The same as text that ends in a line break."""
    console = Console(width=_WIDTH, color_system=None, force_terminal=False, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(draw(look))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().rstrip().splitlines())


def _parts(look: Look) -> Iterator[RenderableType]:
    clock = time.strftime("%H:%M:%S", time.localtime(look.at))
    over = f"rates over {look.seconds:.1f} s" if look.seconds else "rates follow with the next look"
    yield Text(f"epd top  {clock}  {over}", style="bold", no_wrap=True)
    for name, view in look.routers.items():
        if view.ready != "yes" and view.waiting_for:
            yield Text(f"{name} waits for: {'; '.join(view.waiting_for)}", style="red", no_wrap=True)
    for sheet in sheets(look):
        yield Text("")
        yield from _table(sheet)


def _table(sheet: Sheet) -> Iterator[RenderableType]:
    """A row that ends in a sentence stands below the table: in it, it would widen a column."""
    whole = [row for row in sheet.rows if len(row) == len(sheet.columns) + 1]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(Text(sheet.title, style="bold cyan"), no_wrap=True)
    for name in sheet.columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in whole:
        table.add_row(*(Text(cell) for cell in row))
    yield table
    for row in sheet.rows:
        if len(row) != len(sheet.columns) + 1:
            yield Padding(Text("  ".join(filter(None, row)), style="red", no_wrap=True, overflow="ellipsis"), 0)
