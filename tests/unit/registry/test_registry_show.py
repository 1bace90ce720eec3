"""A version's tags and its whole ancestry: parents, champions it was judged against, gaps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core import registry
from ytrainer_core.cli.main import main
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry import promote, show

Several = Callable[[Path, str, int], None]
PARENT, JUDGED = "ytrainer.parent", "ytrainer.judged_against"


def outline(node: registry.Ancestor) -> list[Any]:
    """[relation uri (state), ancestors …], so that a tree can be compared."""
    state = "" if node.state == "registered" else f" ({node.state})"
    return [f"{node.relation} {node.uri}{state}".strip(), *map(outline, node.ancestors)]


def tag(client: Any, name: str, number: int, **values: str) -> None:
    for key, value in values.items():
        client.set_model_version_tag(name, str(number), {"parent": PARENT, "judged": JUDGED}[key],
                                     value)  # fmt: skip


def test_the_tree_shows_parents_and_champions_each_told_once(
    adapter: Path, several: Several, client: Any
) -> None:
    several(adapter, "line", 4)
    tag(client, "line", 1, judged="none", parent="sha256:abc")
    tag(client, "line", 2, judged="models:/line/1", parent="models:/line/1")
    tag(client, "line", 3, judged="models:/line/2", parent="models:/line/2")
    tag(client, "line", 4, judged="models:/line/2", parent="models:/line/3")
    promote("models:/line/2", force=True)
    details = show("models:/line/4")
    one = ["trained on from models:/line/1", ["trained on from sha256:abc (not registered)"]]
    two = [
        "trained on from models:/line/2",
        one,
        ["judged against models:/line/1 (shown above)"],
    ]
    assert outline(details.ancestry) == [
        "models:/line/4",
        [
            "trained on from models:/line/3",
            two,
            ["judged against models:/line/2 (shown above)"],
        ],
        ["judged against models:/line/2 (shown above)"],
    ]
    champion = details.ancestry.ancestors[1]
    assert (champion.aliases, champion.gate) == (("champion",), "passed")
    assert details.summary.metrics == {"eval_loss": 1.5}
    assert details.tags["ytrainer.base_sha256"] and details.name == "line"


def test_a_deleted_parent_is_shown_as_missing(adapter: Path, several: Several, client: Any) -> None:
    several(adapter, "gap", 2)
    tag(client, "gap", 2, parent="models:/gap/1", judged="models:/other/7")
    client.delete_model_version("gap", "1")
    assert outline(show("models:/gap/2").ancestry) == [
        "models:/gap/2",
        ["trained on from models:/gap/1 (missing)"],
        ["judged against models:/other/7 (missing)"],
    ]


def test_a_circle_ends(adapter: Path, several: Several, client: Any) -> None:
    several(adapter, "circle", 2)
    tag(client, "circle", 1, parent="models:/circle/2")
    tag(client, "circle", 2, parent="models:/circle/1")
    assert outline(show("models:/circle/1").ancestry) == [
        "models:/circle/1",
        [
            "trained on from models:/circle/2",
            ["trained on from models:/circle/1 (shown above)"],
        ],
    ]


def test_a_very_long_line_ends_where_show_can_go_on(
    adapter: Path, several: Several, client: Any
) -> None:
    several(adapter, "old", 104)
    for number in range(2, 105):
        tag(client, "old", number, parent=f"models:/old/{number - 1}")
    node = show("models:/old/104").ancestry
    while node.ancestors:
        (node,) = node.ancestors
    assert (node.uri, node.state) == ("models:/old/4", "further back")
    assert sys.getrecursionlimit() > 4 * 100


def test_a_name_alone_means_its_champion_else_its_newest_version(
    adapter: Path, several: Several
) -> None:
    several(adapter, "named", 3)
    assert show("named").summary.version == 3
    promote("models:/named/2", force=True)
    assert show("named").summary.version == 2
    with pytest.raises(RegistryError, match="'nobody' could not be read"):
        show("nobody")


def test_the_command_prints_groups_and_the_tree(
    adapter: Path, several: Several, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    several(adapter, "seen", 2)
    tag(client, "seen", 2, parent="models:/seen/1", judged="models:/seen/1")
    client.set_model_version_tag("seen", "2", "team", "support")
    with pytest.raises(SystemExit) as leaving:
        main(["registry", "show", "models:/seen/2"])
    told = capsys.readouterr().out
    assert leaving.value.code == 0
    for title in ("verdict", "proof", "comes from", "made by", "metrics", "further tags"):
        assert f"\n{title}" in told
    assert "└── judged against: models:/seen/1 @challenger · gate passed" in told
    assert "├── trained on from: models:/seen/1 @challenger · gate passed" in told
    assert '"peft/' not in told, "the digest of every file is no reading"
    with pytest.raises(SystemExit):
        main(["registry", "show", "models:/seen/2", "--json"])
    tree = json.loads(capsys.readouterr().out)
    assert tree == json.loads(json.dumps(asdict(show("models:/seen/2"))))
    assert tree["tags"]["team"] == "support"
