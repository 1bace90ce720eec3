"""Fixtures: a font cache outside the repository, reports written and read back, a browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from report_examples import FULL, Page


@pytest.fixture(autouse=True, scope="session")
def _font_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        yield


@pytest.fixture(scope="session")
def _full_pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Page]:
    pages: dict[Callable[..., None], Page] = {}

    def read(write: Callable[..., None]) -> Page:
        if write not in pages:
            path = tmp_path_factory.mktemp("report") / "report.html"
            write(path, FULL[write])
            pages[write] = Page(path)
        return pages[write]

    return read


@pytest.fixture
def page(tmp_path: Path, _full_pages: Callable[..., Page]) -> Callable[..., Page]:
    """Write a report and read it back: page(write), page(write, data), page(write, field=...)."""

    def write_and_read(write: Callable[..., None], data: Any = None, **changes: Any) -> Page:
        if data is None and not changes:
            return _full_pages(write)
        write(tmp_path / "report.html", dataclasses.replace(data or FULL[write], **changes))
        return Page(tmp_path / "report.html")

    return write_and_read


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    """A real browser with a phone's window; a test that asks for one is skipped without."""
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    opened = browser.Browser(program, tmp_path_factory.mktemp("profile"), *browser.PHONE)
    yield opened
    opened.close()
