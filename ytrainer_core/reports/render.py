"""From a template and values to one HTML file that loads nothing.

User text is escaped by jinja2 everywhere. A content security policy inside the
page forbids every load and every script but ours, should an escape be missed.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core import __version__
from ytrainer_core.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"

LONGEST_TEXT = 2_000
"""Characters of one user text that a report shows; the rest is counted."""

# Control characters are no legal HTML: show Unicode's pictures of them instead.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_CONTROL_PICTURES[127] = 0x2421


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template of this package and write it atomically."""
    write_text(path, render(template, **values))


def render(template: str, **values: Any) -> str:
    """Give the page as text that is legal UTF-8 and legal HTML whatever the data holds."""
    page = _environment().get_template(template).render(**values)
    page = page.translate(_CONTROL_PICTURES)
    return page.encode("utf-8", "replace").decode("utf-8")  # lone surrogates become "?"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    environment.globals.update(
        version=__version__,
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    environment.filters.update(
        whole=whole, number=number, percent=percent, visible=visible, inline=inline, clip=clip
    )
    return environment


def whole(value: float) -> str:
    """1234567 -> '1,234,567'."""
    return f"{value:,.0f}" if math.isfinite(value) else number(value)


def number(value: float, decimals: int | None = None) -> str:
    """A real number for people: thousands separators, about four digits, NaN said aloud."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    value = value or 0  # no "-0"
    if decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == round(value) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) < 0.001:
        text = f"{value:.2e}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−", 1) if value < 0 else text


def percent(share: float) -> str:
    """0.1234 -> '12.3 %'; a share that is small but not zero never reads as 0.0 %."""
    if not math.isfinite(share):
        return number(share)
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def clip(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut long text and say how much is missing."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … ({len(text) - longest:,} more characters)"


def inline(text: str) -> str:
    """One line of text in which line breaks and tabs can be seen."""
    return text.replace("\r\n", "\n").replace("\n", "↵").replace("\t", "⇥")


def visible(text: str) -> Markup:
    """Escaped text in which a mark stands before each line break and tab."""
    from markupsafe import Markup, escape

    marked = str(escape(text)).replace("\r\n", "\n")
    marked = marked.replace("\n", '<span class="ws">↵</span>\n')
    return Markup(marked.replace("\t", '<span class="ws">⇥</span>\t'))
