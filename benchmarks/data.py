"""Claim: a corpus is read, checked and tokenized no slower than `datasets` only tokenizes it.

    python -m benchmarks.data                        10,000, 100,000 and 1,000,000 rows
    python -m benchmarks.data --sizes 10000,100000

ours: prepare_corpus with all rules in their default settings, which ends with a split, checked,
deduplicated corpus and a quarantine, and the token cache of its training and held-out rows.
peer: datasets.load_dataset("json") and map(apply_chat_template with the assistant's mask, labels),
batched, in as many processes as there are cores; no check of any kind.

Both read the same JSONL with the same tokenizer and must end with the same number of rows, tokens
and labels. The clock runs from the file to the memory-mapped tokens, imports excluded. Memory is
the greatest proportional set size (PSS; USS where the system has none) of a process and all of its
children together, looked at every 0.2 s; beside it the part that is no page of a file, which the
system cannot take back. Every case runs alone in a process, without a cache of an earlier one, on
two cores; the cases take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import measure
from benchmarks.data_case import CORES, VOCABULARY
from benchmarks.measure import Case, Figures

MODULE = "benchmarks.data_case"
SIZES = (10_000, 100_000, 1_000_000)
SYSTEMS = ("peer", "ours")

ONCE_FROM = 1_000_000
"""Rows from which on a case is run once: what disturbs for seconds is lost in its minutes."""

PROMISED_MEMORY = 1.5e9
"""Bytes that ours shall need at most."""

GB = 1e9


@dataclass(frozen=True, slots=True)
class Result:
    """What one size gave: rows a second of ours and of the peer, bytes of ours at most."""

    ours: float
    peer: float
    peak: float

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


def compare(found: Mapping[str, Sequence[Figures]]) -> Result:
    """Print the figures of one size, by system.

    Raises BenchmarkError where the systems did not make the same rows, tokens and targets.
    """
    made = {
        name: {(run["rows"], run["tokens"], run["targets"]) for run in runs}
        for name, runs in found.items()
    }
    if len(set.union(*made.values())) != 1:
        raise measure.BenchmarkError(f"rows, tokens and targets are not the same: {made}")
    rows, tokens, targets = made["ours"].pop()
    print(f"\n{rows:,} rows, {tokens:,} tokens, {targets:,} of them targets\n")
    speeds = {
        name: [{"rows/s": rows / run["seconds"]} for run in runs] for name, runs in found.items()
    }
    peaks = {name: max(float(run["peak"]) for run in runs) for name, runs in found.items()}
    print(
        measure.table(
            [
                "case",
                "rows/s: median (least - greatest)",
                "s",
                "CPU s",
                "peak PSS, GB",
                "no file's",
            ],
            [
                [
                    name,
                    measure.spread(speeds[name], "rows/s"),
                    f"{measure.median(runs, 'seconds'):.1f}",
                    f"{measure.median(runs, 'cpu'):.1f}",
                    f"{peaks[name] / GB:.2f}",
                    f"{max(run['own'] for run in runs) / GB:.2f}",
                ]
                for name, runs in found.items()
            ],
        )
    )
    ours, peer = (measure.median(speeds[name], "rows/s") for name in ("ours", "peer"))
    result = Result(ours, peer, peaks["ours"])
    print(f"\nrows/s, {rows:,} rows: {ours:,.0f} / {peer:,.0f} = {result.ratio:.2f}")
    return result


def conclude(results: Mapping[int, Result]) -> str:
    """The last lines: how time grows, the memory, and the smallest ratio."""
    least, most = min(results), max(results)
    grown = results[least].ours / results[most].ours
    peak = max(result.peak for result in results.values())
    return (
        f"\nseconds a row of ours, {most:,} rows / {least:,} rows: {grown:.2f}"
        f"\nmemory of ours: {peak / GB:.2f} GB of {PROMISED_MEMORY / GB:.1f} GB promised"
        f"\nratio: {min(result.ratio for result in results.values()):.2f}"
    )


def sizes_of(text: str) -> list[int]:
    """'10000,100000' -> numbers of rows."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' are no numbers of rows, like 10000,100000")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the settings, every figure and the ratio."""
    options = measure.parser(__doc__ or "")
    options.add_argument("--sizes", type=sizes_of, default=list(SIZES), help="rows: 10000,100000")
    chosen = options.parse_args(arguments)
    print(measure.table(["setting", "value"], _settings(chosen)))
    results: dict[int, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in chosen.sizes:
            corpus = {"name": f"{size:,} rows, write", "system": "write", "rows": size}
            measure.run_case(MODULE, {**corpus, "folder": folder}, chosen.threads)
            cases: list[Case] = [
                {"name": name, "system": name, "folder": folder} for name in SYSTEMS
            ]
            repeats = 1 if size >= ONCE_FROM else chosen.repeats
            found = measure.run_interleaved(MODULE, cases, repeats, chosen.threads)
            results[size] = compare(found)
    print(conclude(results))


def _settings(options: argparse.Namespace) -> list[tuple[str, str]]:
    return [
        *measure.machine(options.threads),
        ("cores", f"{CORES}"),
        ("corpus", "made-up sentences in conversations of two messages, about 1 kB of JSON a row"),
        ("tokenizer", f"byte-level BPE of {VOCABULARY:,} learned from it, ChatML, answers marked"),
        ("runs", f"{options.repeats} of every case, 1 from {ONCE_FROM:,} rows on"),
    ]


if __name__ == "__main__":
    main()
