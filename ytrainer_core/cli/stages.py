"""One command per stage, all alike: config in, outputs into one new folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from ytrainer_core.cli.arguments import AsJson, Inputs, Words, named_inputs, stage_config
from ytrainer_core.cli.console import err, out, print_summary, relative
from ytrainer_core.config import (
    STAGE_CONFIGS,
    PretrainConfig,
    ScoreStageConfig,
    SftConfig,
    StageConfig,
    dump_json,
)
from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.files import atomic_folder, home


def add_commands(app: typer.Typer) -> None:
    """Add `ytrainer <stage>` for every stage, and show, preview, schema."""
    for name, model in STAGE_CONFIGS.items():
        app.command(name, help=(model.__doc__ or "").strip())(_stage_command(name))
    app.command("show")(show)
    app.command("preview")(preview)
    app.command("schema")(schema)


def _stage_command(name: str) -> Callable[..., None]:
    def command(words: Words = None, inputs: Inputs = None, as_json: AsJson = False) -> None:
        config = stage_config(name, words)
        run_to_folder(name, config, named_inputs(inputs), as_json)

    return command


def run_to_folder(name: str, config: StageConfig, inputs: dict[str, str], as_json: bool) -> None:
    """Run a stage; its outputs appear together in output_dir when it has succeeded."""
    from ytrainer_core.stages.run import STAGES, name_full_disk, run_stage, write_result

    folder = output_folder(name, config)
    with (
        name_full_disk(folder.parent),
        atomic_folder(folder) as scratch,
        samples_outlive(scratch, folder.name),
    ):
        outputs = {
            output: scratch / (f"{output}.html" if kind == "html" else output)
            for output, kind in STAGES[name].outputs.items()
        }
        # a stage without outputs still gets the folder, for its result and config
        result = run_stage(name, config, inputs=inputs, outputs=outputs)
        final = {output: folder / path.name for output, path in outputs.items()}
        write_result(scratch / "result.json", result, final, config)
        (scratch / "result.config.json").rename(scratch / "config.json")
    if as_json:
        out.print_json(json.dumps({"metrics": result.metrics, "values": result.values}))
        return
    print_summary(name, {**result.summary, "output": relative(folder)})


@contextmanager
def samples_outlive(scratch: Path, name: str) -> Iterator[None]:
    """Keep the quarantined rows that a DataError points to when their scratch folder goes."""
    try:
        yield
    except DataError as error:
        samples = next((path for path in scratch.rglob("quarantine") if path.is_dir()), None)
        if samples is None:
            raise
        kept = home() / "quarantine" / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(samples, kept)
        raise DataError(
            *(fault.replace(str(samples), str(kept)) for fault in error.faults)
        ) from error


def output_folder(name: str, config: StageConfig) -> Path:
    """output_dir, which must be new or empty; by default a dated one below home()."""
    if not config.output_dir:
        stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}"
        return home() / "outputs" / stamp
    folder = Path(config.output_dir).expanduser().absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(
            f"output_dir {folder}: is not empty, and nothing is ever overwritten. Name a new "
            "folder, or delete this one."
        )
    return folder


def show(
    stage: str,
    words: Words = None,
    no_probe: bool = typer.Option(
        False, "--no-probe", help="Do not load the model to measure the time of a step."
    ),
) -> None:
    """The resolved config and what the stage would take: steps, memory, time; trains nothing."""
    config = stage_config(stage, words)
    print(dump_json(config), end="")
    folds = config.score.folds if isinstance(config, ScoreStageConfig) else 0
    if not folds and not isinstance(config, SftConfig | PretrainConfig):
        return
    from ytrainer_core.stages.common import data_of
    from ytrainer_core.stages.run import quiet_libraries, resolved
    from ytrainer_core.stages.score_models import tuning_of
    from ytrainer_core.training.estimate import estimate

    quiet_libraries()
    config = resolved(config)
    told = {}
    if isinstance(config, ScoreStageConfig):
        config = tuning_of(config)
        told["folds"] = (
            f"{folds} trainings on {folds - 1}/{folds} of the rows, which take {folds - 1} × the "
            "time of one on all rows, as follows"
        )
    assert isinstance(config, SftConfig | PretrainConfig)
    config = config.model_copy(update={"data": data_of(config)})
    told |= estimate(config, with_probe=not no_probe).summary()
    print_summary(f"{stage}, estimated", told)


def preview(
    words: Words = None,
    rows: int = typer.Option(3, "-n", min=1, help="Rows shown."),
) -> None:
    """Decoded rows; the tokens that are trained are green."""
    import tempfile

    from rich.text import Text

    from ytrainer_core.data.prepare import prepare_corpus
    from ytrainer_core.data.tokenize import Tokenized, mask_segments, tokenize_dataset
    from ytrainer_core.stages.common import base_of
    from ytrainer_core.stages.run import quiet_libraries, resolved

    quiet_libraries()
    config = resolved(stage_config("sft", words))
    assert isinstance(config, SftConfig)
    _, tokenizer = base_of(config.model)
    home().mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=home(), prefix=".preview.") as scratch,
        samples_outlive(Path(scratch), "preview"),
    ):
        corpus = prepare_corpus(
            config.data, Path(scratch) / "dataset", tokenizer=tokenizer, seed=config.seed
        )
        shown = corpus.train.select(range(min(rows, len(corpus.train))))
        for row in tokenize_dataset(shown, tokenizer, config.data):
            trained = sum(label != -100 for label in row["labels"])
            shape = f"{trained} of {len(row['labels'])} tokens trained"
            out.print(f"── {row['origin']} · {shape}", soft_wrap=True)
            text = Text()
            tokens = Tokenized.of(row["input_ids"], row["labels"])
            for segment, is_trained in mask_segments(tokens, tokenizer):
                text.append(segment, style="bold green" if is_trained else "dim")
            out.print(text)
    err.print("[bold green]green[/]: trained   [dim]grey[/]: context only")


def schema(stage: str) -> None:
    """JSON schema of a stage's config."""
    stage_config(stage, None)
    print(json.dumps(STAGE_CONFIGS[stage].model_json_schema(), indent=2))
