"""What the tests of the data package share: chat templates, files, where real corpora may lie."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

MARKED = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' %}"
    "{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""ChatML with its answers marked."""

UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
"""The same ChatML as most models ship it."""

SHARED = Path(__file__).parents[3].parent / "shared" / "data"

# Enough of Qwen3's behaviour to fail on: a <think> block only before answers to the last question,
# an empty one where the last answer has none, and thoughts cut out of earlier answers.
THINKING = (
    "{%- set ns = namespace(asked=0) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.asked = loop.index0 %}"
    "{%- endif %}{%- endfor %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') "
    "if '</think>' in m.content else '' %}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.asked and (loop.last or thought) %}"
    "{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- said + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="real corpora are not on this machine"
)


def packed(data: bytes, suffix: str) -> bytes:
    """The bytes as a file of that suffix holds them: .gz, .zst, or as they are."""
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return data


def write_sheets(path: Path, **sheets: Sequence[Sequence[object]]) -> Path:
    """An .xlsx with these sheets, given as rows of cells."""
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path
