"""What every report promises: it loads nothing, trusts no text, and is reproducible."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_examples import FULL, NASTY, empty_like

every_report = pytest.mark.parametrize("write", FULL, ids=lambda write: write.__name__)


@every_report
def test_a_page_refers_to_nothing_outside_itself(page, write):
    for tag, attributes, text in page(write).elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
        css = attributes.get("style", "") + ("".join(text) if tag == "style" else "")
        assert "@import" not in css
        assert not re.search(r"url\((?!#)", css)


@every_report
def test_user_text_is_escaped_and_the_only_script_is_ours(page, write):
    read = page(write)
    assert "<script>alert" not in read.raw
    assert "alert('答')" in "".join(read.texts("body"))
    (script,) = ["".join(text) for tag, _, text in read.elements if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for _, a, _ in read.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy


@every_report
def test_control_characters_and_lone_surrogates_do_not_break_the_file(page, write):
    raw = page(write).raw
    assert "\x00" not in raw
    assert "\u2400" in raw  # the picture of NUL


@every_report
def test_the_same_data_gives_the_same_bytes(tmp_path, write):
    for name in ("a", "b"):
        write(tmp_path / name, FULL[write])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not re.search(r"\b20\d\d-\d\d-\d\d", (tmp_path / "a").read_text())


@every_report
def test_no_two_elements_share_an_id(page, write):
    ids = [attributes["id"] for _, attributes, _ in page(write).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@every_report
@pytest.mark.filterwarnings("error")
def test_a_report_without_any_data_is_written_and_says_so(page, write):
    text = " ".join(page(write, empty_like(FULL[write])).texts("body"))
    assert re.search(r"\b(No|no|Accepted|0 rows)\b", text)
    assert NASTY not in text


def test_importing_reports_is_light_and_writing_one_stays_inside_home(tmp_path):
    program = """
import sys
from pathlib import Path
from ytrainer_core.reports import OrderReport, write_order_report
assert not {"matplotlib", "numpy", "jinja2"} & set(sys.modules)
write_order_report(Path("home/report.html"), OrderReport("t", "length", [1, 2], [], []))
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "XDG"))}
    environment |= {"HOME": str(tmp_path), "YTRAINER_HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
