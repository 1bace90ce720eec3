"""Commands that work: what they print, what they leave behind, and how they fit together."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ytrainer_core import __version__
from ytrainer_core.cli.main import app, main
from ytrainer_core.config import STAGE_CONFIGS, SftConfig
from ytrainer_core.training.model import load_trained

pytestmark = pytest.mark.slow

Cli = Callable[..., Any]


@dataclass(frozen=True)
class Chain:
    """Stages run one after the other, each on what the one before made."""

    folder: Path
    config: Path
    said: dict[str, str]

    def made(self, stage: str) -> list[str]:
        return sorted(path.name for path in (self.folder / stage).iterdir())

    def result(self, stage: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / stage / "result.json").read_text())
        return read


def run_in(home: Path, *words: object) -> str:
    """stdout of a command that must succeed, for fixtures that outlive one test's capture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YTRAINER_HOME", str(home))
        patch.setenv("COLUMNS", "200")
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as leaving,
        ):
            main([str(word) for word in words])
    assert leaving.value.code == 0, err.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory, base_folder: Path, _nothing_from_outside: None
) -> Iterator[Chain]:
    """validate, score, order, sft, evaluate by the command line, one YAML for all of them."""
    folder = tmp_path_factory.mktemp("chain")
    rows = [
        {"instruction": f"What is {i}?", "output": f"The answer is {i % 4}."} for i in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = folder / "all.yaml"
    config.write_text(
        f"""
model: {{name_or_path: {base_folder}}}
data: {{train: {folder / "rows.jsonl"}, max_length: 64, validation_fraction: 0.25}}
score: {{flag_fraction: 0.1, action: drop}}
order: {{mode: mean_loss, descending: true}}
optim: {{learning_rate: 1e-2}}
lora: {{rank: 4}}
train: {{max_steps: 4, logging_steps: 1}}
evaluate: {{max_generate_rows: 2, max_new_tokens: 3}}
gate: {{min_rows: 5}}
tracking: {{enabled: false}}
"""
    )
    home, said = folder / "home", {}

    def stage(name: str, **inputs: Path) -> None:
        given = [word for key, path in inputs.items() for word in ("--input", f"{key}={path}")]
        said[name] = run_in(home, name, config, f"output_dir={folder / name}", *given)

    stage("validate")
    stage("score", dataset=folder / "validate" / "dataset")
    scored = folder / "score" / "dataset"
    stage("order", dataset=scored, scores=folder / "score" / "scores")
    stage("sft", dataset=scored, order=folder / "order" / "order")
    stage("evaluate", model=folder / "sft" / "model", dataset=scored)
    yield Chain(folder, config, said)


# --- stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "outputs"),
    [
        ("validate", ["dataset", "report.html"]),
        ("score", ["dataset", "report.html", "scores"]),
        ("order", ["order", "report.html"]),
        ("sft", ["epochs", "model", "report.html"]),
        ("evaluate", ["evaluation", "report.html"]),
    ],
)
def test_a_stage_writes_its_outputs_its_report_its_result_and_its_config(
    stage: str, outputs: list[str], chain: Chain
) -> None:
    assert chain.made(stage) == sorted([*outputs, "config.json", "result.json"])
    assert (chain.folder / stage / "report.html").read_text().lower().startswith("<!doctype html")
    result = chain.result(stage)
    for path in result["outputs"].values():
        assert Path(path).exists() and Path(path).is_relative_to(chain.folder / stage)


@pytest.mark.parametrize("stage", ["validate", "score", "order", "sft", "evaluate"])
def test_the_saved_config_is_whole_and_reads_back_as_itself(stage: str, chain: Chain) -> None:
    saved = json.loads((chain.folder / stage / "config.json").read_text())
    config = STAGE_CONFIGS[stage].model_validate(saved)
    assert config.model_dump(mode="json") == saved
    assert saved["output_dir"] == str(chain.folder / stage)


@pytest.mark.parametrize("stage", ["validate", "score", "order", "sft", "evaluate"])
def test_a_table_says_what_happened_and_where_it_lies(stage: str, chain: Chain) -> None:
    assert str(chain.folder / stage) in chain.said[stage].replace("\n", "")
    for name in chain.result(stage)["summary"]:
        assert name in chain.said[stage]


def test_rows_that_score_dropped_are_not_trained(chain: Chain) -> None:
    """40 rows, a quarter held out by their hashes, a tenth of the rest dropped."""
    rows = chain.result("validate")["metrics"]
    trained = int(rows["rows_train"])
    assert trained + rows["rows_validation"] == 40 and 20 < trained < 36
    dropped = int(chain.result("score")["metrics"]["rows_dropped"])
    assert dropped == round(0.1 * trained)
    order = json.loads((chain.folder / "order" / "order").read_text())
    assert sorted(order["rows"]) == list(range(trained - dropped))


def test_the_trained_model_answers_differently_from_its_base(
    chain: Chain, base_folder: Path
) -> None:
    model, tokenizer, card = load_trained(chain.folder / "sft" / "model")
    ids = torch.tensor([tokenizer("What is 3?")["input_ids"]])
    with torch.no_grad():
        tuned = model(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits
    assert card.kind == "adapter" and card.base.name_or_path == str(base_folder)
    assert (tuned - base).abs().max() > 1e-3


def test_evaluate_tells_the_verdict_with_its_reasons(chain: Chain) -> None:
    judged = json.loads((chain.folder / "evaluate" / "evaluation").read_text())
    assert judged["passed"] is True
    loss = {
        name: judged["models"][name]["metrics"]["target_loss"]["value"]
        for name in ("base", "challenger")
    }
    assert loss["challenger"] < loss["base"]
    assert "+ Target loss" in chain.said["evaluate"] and "passed" in chain.said["evaluate"]


def test_a_stage_without_an_output_folder_makes_a_dated_one_below_home(
    chain: Chain, cli: Cli
) -> None:
    outcome = cli("validate", chain.config)
    (made,) = (Path(os.environ["YTRAINER_HOME"]) / "outputs").iterdir()
    assert outcome.code == 0 and re.fullmatch(r"validate-\d{8}-\d{6}-\d{3}", made.name)
    assert str(made) in outcome.out.replace("\n", "")


def test_json_is_all_that_is_printed_where_it_is_asked_for(
    chain: Chain, cli: Cli, tmp_path: Path
) -> None:
    outcome = cli("validate", chain.config, f"output_dir={tmp_path / 'v'}", "--json")
    told = json.loads(outcome.out)
    rows = {k: n for k, n in chain.result("validate")["metrics"].items() if k.startswith("rows_")}
    assert rows.items() <= told["metrics"].items() and "rules" in told["values"]


def test_the_same_command_gives_the_same_adapter(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    again = tmp_path / "again"
    scored, order = chain.folder / "score" / "dataset", chain.folder / "order" / "order"
    given = ("--input", f"dataset={scored}", "--input", f"order={order}")
    anew = "train.resume=never"
    assert cli("sft", chain.config, f"output_dir={again}", anew, *given).code == 0
    weights = "model/adapter_model.safetensors"
    assert (again / weights).read_bytes() == (chain.folder / "sft" / weights).read_bytes()


def test_sft_alone_prepares_its_corpus_and_keeps_it_beside_the_model(
    chain: Chain, cli: Cli, tmp_path: Path
) -> None:
    outcome = cli("sft", chain.config, f"output_dir={tmp_path / 'alone'}", "train.max_steps=1")
    assert outcome.code == 0
    assert {"dataset", "model", "report.html"} <= {p.name for p in (tmp_path / "alone").iterdir()}


def test_order_refuses_scores_of_other_rows(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    outcome = cli(
        "order", chain.config, f"output_dir={tmp_path / 'o'}",
        "--input", f"dataset={chain.folder / 'validate' / 'dataset'}",
        "--input", f"scores={chain.folder / 'score' / 'scores'}",
    )  # fmt: skip
    assert outcome.code == 2 and "different rows" in outcome.said


def test_pretrain_makes_a_model_from_nothing_the_same_by_one_process_and_by_two(
    cli: Cli, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"The number {i} comes before {i + 1}." for i in range(60)))
    made = []
    for processes, accumulation in ((1, 2), (2, 1)):
        out = tmp_path / f"by-{processes}"
        outcome = cli(
            "pretrain", f"data.train={text}", "data.max_length=64", "tracking.enabled=false",
            "architecture.vocab_size=300", "architecture.hidden_size=16",
            "architecture.intermediate_size=32", "architecture.num_hidden_layers=1",
            "architecture.num_attention_heads=2", "architecture.head_dim=8",
            "architecture.num_key_value_heads=1", "train.max_steps=2", "model.dtype=float32",
            "train.per_device_batch_size=2", f"train.gradient_accumulation_steps={accumulation}",
            f"launch.processes={processes}", f"output_dir={out}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.said
        assert cli("chat", out / "model", "--once", "one", "--max-new-tokens", 2).code == 0
        made.append(load_file(out / "model" / "model.safetensors"))
    one, two = made
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


# --- what runs nothing ---------------------------------------------------------------------------


def test_show_prints_the_resolved_config_and_an_estimate(chain: Chain, cli: Cli) -> None:
    outcome = cli("show", "sft", chain.config, "optim.learning_rate=3e-4")
    end = outcome.out.index("\n}\n") + 3
    shown = json.loads(outcome.out[:end])
    assert outcome.code == 0
    assert shown["optim"]["learning_rate"] == 3e-4 and shown["lora"]["rank"] == 4
    assert set(shown) == set(SftConfig.model_fields)
    assert "trainable" in outcome.out[end:] and "memory" in outcome.out[end:]
    assert not list(chain.folder.glob("show*"))


@pytest.mark.parametrize("stage", sorted(STAGE_CONFIGS))
def test_show_works_for_every_stage(stage: str, chain: Chain, cli: Cli) -> None:
    outcome = cli("show", stage, chain.config)
    assert outcome.code == 0, outcome.said
    assert outcome.out.startswith("{")


def test_show_score_estimates_the_trainings_of_its_folds(chain: Chain, cli: Cli) -> None:
    told = cli("show", "score", chain.config, "score.folds=3", "--no-probe")
    whole = cli("show", "sft", chain.config, "objective.name=cross_entropy", "--no-probe")
    assert "3 trainings on 2/3 of the rows" in told.out and "2 × the time" in told.out
    steps = [re.findall(r"optimizer steps\W+(\d+)", outcome.out) for outcome in (told, whole)]
    assert steps[0] == steps[1] != []
    assert "optimizer steps" not in cli("show", "score", chain.config).out


def test_preview_shows_rows_with_their_trained_tokens(chain: Chain, cli: Cli) -> None:
    outcome = cli("preview", chain.config, "-n", 2, "data.validation_fraction=0")
    assert outcome.code == 0
    shown = re.findall(r"── (\S+) · (\d+) of (\d+) tokens trained", outcome.out)
    assert [origin for origin, *_ in shown] == [f"{chain.folder}/rows.jsonl:{n}" for n in (1, 2)]
    assert all(0 < int(trained) < int(whole) for _, trained, whole in shown)
    assert "What is 0?" in outcome.out and "The answer is 0." in outcome.out
    assert not list(Path(os.environ["YTRAINER_HOME"]).glob(".preview.*"))


def test_schema_is_json_that_names_every_knob(cli: Cli) -> None:
    schema = json.loads(cli("schema", "sft").out)
    assert set(schema["properties"]) == set(SftConfig.model_fields)
    assert schema["$defs"]["OptimConfig"]["properties"]["learning_rate"]["description"]


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"ytrainer {__version__}\n"
    for name in [*STAGE_CONFIGS, "show", "preview", "schema", "merge", "chat", "demo"]:
        outcome = cli(name, "--help")
        assert outcome.code == 0 and "Usage" in outcome.out, name


def test_every_command_and_option_says_what_it_does(cli: Cli) -> None:
    import typer

    def visit(node: Any, name: str) -> Iterator[str]:
        if not (node.help or "").strip():
            yield name
        for child, command in getattr(node, "commands", {}).items():
            yield from visit(command, f"{name} {child}")

    assert not list(visit(typer.main.get_command(app), "ytrainer"))


# --- models --------------------------------------------------------------------------------------


def test_merge_gives_a_full_model_with_the_same_answers(
    chain: Chain, cli: Cli, tmp_path: Path
) -> None:
    adapter, merged = chain.folder / "sft" / "model", tmp_path / "merged"
    outcome = cli("merge", adapter, "--out", merged)
    assert outcome.code == 0, outcome.said
    assert str(merged) in outcome.out.replace("\n", "")
    assert not list(merged.glob("adapter*")) and list(merged.glob("*.safetensors"))
    tuned, tokenizer, _ = load_trained(adapter)
    full, *_ = load_trained(merged)
    ids = torch.tensor([tokenizer("What is 3?")["input_ids"]])
    with torch.no_grad():
        difference = tuned(input_ids=ids).logits - full(input_ids=ids).logits
    assert difference.abs().max() < 1e-4


def test_merge_overwrites_nothing(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("precious")
    outcome = cli("merge", chain.folder / "sft" / "model", "--out", tmp_path / "mine")
    assert outcome.code == 2 and "is not empty" in outcome.said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_chat_answers_one_message(which: str, chain: Chain, cli: Cli, base_folder: Path) -> None:
    model = base_folder if which == "base" else chain.folder / "sft" / "model"
    words = ("--once", "What is 3?", "--max-new-tokens", 4)
    first, second = (cli("chat", model, *words) for _ in range(2))
    assert first.code == 0 and first.out == second.out and first.out.endswith("\n")


# --- pipelines and the registry ------------------------------------------------------------------


def test_pipelines_are_listed_with_their_purpose(cli: Cli) -> None:
    outcome = cli("pipeline", "list")
    assert outcome.code == 0
    assert "finetune" in outcome.out and "promote" in outcome.out


def test_a_pipeline_compiles_to_the_file_that_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("pipeline", "compile", "finetune", "--out", tmp_path / "x" / "f.yaml")
    assert outcome.code == 0
    assert (tmp_path / "x" / "f.yaml").read_text().startswith("# PIPELINE DEFINITION")


def test_an_empty_registry_lists_nothing(cli: Cli) -> None:
    assert json.loads(cli("registry", "list", "--json").out) == []


def test_a_version_that_does_not_exist_is_an_error_of_the_registry(cli: Cli) -> None:
    outcome = cli("registry", "verify", "models:/nobody@champion")
    assert outcome.code == 4 and "nobody" in outcome.said and "Traceback" not in outcome.err


def test_an_interrupted_command_exits_5(
    chain: Chain, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ytrainer_core.stages.validate.prepare", interrupted)
    outcome = cli("validate", chain.config, f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 5 and "cancelled" in outcome.said
    assert not (tmp_path / "v").exists()
    assert not list(tmp_path.glob(".v.*"))


def test_a_stage_run_is_recorded_with_its_report(
    chain: Chain, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ytrainer_core.config import TrackingConfig
    from ytrainer_core.tracking import connect

    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    outcome = cli("validate", chain.config, f"output_dir={tmp_path / 'v'}", "tracking.enabled=true")
    client = connect(TrackingConfig())
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert outcome.code == 0 and run.info.status == "FINISHED"
    assert run.data.metrics["rows_read"] == 40
    stored = client.list_artifacts(run.info.run_id, "reports")
    assert [file.path for file in stored] == ["reports/validate.html"]
