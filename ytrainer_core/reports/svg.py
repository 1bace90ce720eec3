"""matplotlib drawings as inline SVG that takes colours and fonts from the page around it.

matplotlib draws with placeholder colours that become CSS variables, so one
drawing serves light mode, dark mode and print. Equal data gives equal bytes.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ytrainer_core.files import home

# Placeholders that matplotlib writes and `_inline_svg` turns into variables of style.css.
INK, MUTED, GRID, FAINT = "#010101", "#020202", "#030303", "#040404"
BLUE, ORANGE, GREEN, PURPLE = "#050505", "#060606", "#070707", "#080808"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    FAINT: "--bar",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
}

_SIZE_INCHES = (5.6, 3.0)  # about 400 points wide: still readable when shrunk to a phone
_WIDEST_LEGEND = 48  # characters that fit on one line beside their handles


def draw_svg(title: str, draw: Callable[[Any], None], *, integer_y: bool = False) -> str:
    """Let `draw` fill one pair of axes; give the drawing as an <svg> element.

    `title` must be unique on a page: it also keeps the ids of its parts apart.
    """
    with plain_matplotlib(salt=title) as figure_class:
        from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

        figure = figure_class(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=integer_y))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
            axis.set_minor_formatter(NullFormatter())
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1:
            columns = 2 if sum(map(len, labels)) > _WIDEST_LEGEND else len(labels)
            figure.legend(handles, labels, loc="outside upper left", ncols=columns)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
    return _inline_svg(buffer.getvalue(), title)


def _tick(value: float) -> str:
    if value and abs(value) < 0.001:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.6g}"


@contextmanager
def plain_matplotlib(salt: str) -> Iterator[Any]:
    """Give matplotlib's Figure class under settings that no user's matplotlibrc changes."""
    # matplotlib would write its font cache to ~/.cache; nothing of ours lies outside home().
    os.environ.setdefault("MPLCONFIGDIR", str(home() / "cache" / "matplotlib"))
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": salt,
                "font.size": 9.5,
                "axes.titlesize": 9.5,
                "text.color": INK,
                "axes.labelcolor": INK,
                "axes.edgecolor": GRID,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": GRID,
                "grid.linewidth": 0.6,
                "xtick.color": GRID,
                "ytick.color": GRID,
                "xtick.labelcolor": MUTED,
                "ytick.labelcolor": MUTED,
                "legend.frameon": False,
                "legend.handlelength": 1.8,
                "legend.columnspacing": 1.4,
            }
        )
        yield Figure


def _inline_svg(svg: str, title: str) -> str:
    """Strip what a drawing needs as a file of its own but not inside a page."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)  # groups are never referred to; ids would repeat
    svg = re.sub(r"\s*font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    head = f'<svg {box.group()} role="img" aria-label="{escape(title)}">'
    svg = head + svg[svg.index(">") + 1 :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return re.sub(r"\n\s*", "\n", svg)
