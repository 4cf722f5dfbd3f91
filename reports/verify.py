"""Reproduce a trial: train and measure it again from its MLflow record and compare the scores.

python -m reports verify RUN
python -m reports verify RUN --keep FOLDER    # keep the files of the new run

Only the settings of the first run are used: in an empty folder the data are decoded, teachers trained, maps computed,
and the net trained and measured again. With the same CPU and packages as in the record, scores, per-image values and
weights have to agree bit for bit; elsewhere every score has to agree within the tolerance in its line. Nothing is
written to MLflow. Exit status: 0 agrees, 1 does not agree, 2 bad input.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from harness import cli
from harness.arguments import path
from harness.errors import Diverged, UserError, exit_status, printable
from harness.storage.workspace import Workspace
from harness.tracking.run_content import environment_tags
from harness.training.epoch_metrics import EpochMetrics
from harness.trials import run
from harness.trials.result import Result
from reports.read import trusted_plugins
from reports.read.record import (
    Record,
    data_of,
    enough_verdicts,
    facts,
    parser,
    read,
    reproduced_verdicts,
    stored,
    weights_of,
)
from reports.record_comparison import Compared, compare, exact, parts_of, same_weights

WIDTH = 110  # columns of the terminal


def reproduce(record: Record, workspace: Workspace, report: Callable[[EpochMetrics], None] = run.no_report) -> Result:
    """Train and measure the record's trial again in an empty workspace; on test only if this run was tested.

    Raises `UserError` before training if the data are not those of the record."""
    trial = record.result.trial
    data_of(record, workspace)
    run.run(trial, workspace, report=report, test="test" in parts_of(record))
    return stored(workspace.trial(trial.key), "of the new run")


@contextlib.contextmanager
def _threads(recorded: str | None, device: str) -> Iterator[None]:
    """Use the recorded number of threads, which determines the order of sums, if this machine has as many cores."""
    before = torch.get_num_threads()
    wanted = int(recorded) if recorded and recorded.isdigit() and device == "cpu" else before
    try:
        if 0 < wanted <= (os.cpu_count() or 1):
            torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    trusted_plugins.trust(args.plugins)
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        fetched = Path(folder, "record")
        fetched.mkdir()
        record = read(args.tracking_uri, args.run, fetched, args.artifacts)
        workspace = cli.workspace(_workspace_args(args, record, Path(folder, "reproduced")))
        if any(workspace.out.iterdir()):
            raise UserError(f"--keep {str(args.keep)!r} is not empty; verify starts from an empty folder")
        machine = record.result.machine
        with _threads(machine.get("threads"), workspace.device):
            _print_lines(_intro(record, workspace))
            try:
                now = reproduce(record, workspace, _progress(record.result.trial.epochs))
            except Diverged as error:
                _print_lines([f"Trained again, {error}: the run does not agree with its record."])
                return 1
            lines, agrees = _findings(record, now, workspace)
        _print_lines(lines)
    return 0 if agrees else 1


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser("verify", __doc__)
    p.add_argument(
        "--keep",
        type=path,
        metavar="FOLDER",
        help="empty folder for the files of the new run (default: a temporary one)",
    )
    return p.parse_args(argv)


def _workspace_args(args: argparse.Namespace, record: Record, out: Path) -> argparse.Namespace:
    """Options of the workspace: on the CPU if the record was, else on a GPU if there is one."""
    device = "cpu" if record.result.machine.get("device", "cpu").startswith("cpu") else None
    return argparse.Namespace(out=str(args.keep or out), data_root=args.data_root, device=device)


def _progress(epochs: int) -> Callable[[EpochMetrics], None]:
    def show(row: EpochMetrics) -> None:
        if sys.stderr.isatty():
            text = "" if row["epoch"] == epochs else f"epoch {row['epoch']} of {epochs}"
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    return show


def _intro(record: Record, workspace: Workspace) -> list[str]:
    trial = record.result.trial
    description = f"{record.role} run of {record.cell!r} in {record.experiment!r}"
    intro = f"Trained and measured again on {workspace.device} in an empty folder, from the record's settings alone."
    tested = (
        "This is one more test evaluation: nothing is selected by it, and no record changes."
        if "test" in parts_of(record)
        else "Measured on the validation images only: this run was not tested."
        if record.role == "seed"
        else "Measured on the validation images only, as every trial of a search."
    )
    return [f"run {record.run}, trial {trial.key}, {description}", *textwrap.wrap(f"{intro} {tested}", WIDTH), ""]


def _findings(record: Record, now: Result, workspace: Workspace) -> tuple[list[str], bool]:
    """The lines to print, and whether everything agrees."""
    tags = {tag.removeprefix("harness."): text for tag, text in environment_tags().items()}
    then_facts, now_facts = facts(record.result, record.tags), facts(now, tags)
    bitwise = exact(then_facts, now_facts)
    rows = compare(record, now, bitwise=bitwise)
    lines = [*_differences(then_facts, now_facts), *_rule(bitwise), "", *_table(rows), ""]
    lines += [line for row in rows if row.note for line in textwrap.wrap(f"{row.name}: {row.note}.", WIDTH)]
    texts, weights_agree = _weights(record, now, workspace, bitwise) if record.weights else ([], True)
    agrees = weights_agree and all(row.agrees for row in rows)
    if not agrees:
        texts += textwrap.wrap(_disagreement_hint(bitwise, then_facts), WIDTH)
    same, n = sum(row.same for row in rows), len(rows)
    suffix = "" if bitwise else f" {sum(row.agrees for row in rows)} of {n} are within the tolerance."
    return [*lines, *texts, f"{same} of {n} scores agree bit for bit.{suffix}"], agrees


def _disagreement_hint(bitwise: bool, then: Mapping[str, str]) -> str:
    """Possible reasons for a disagreement other than a wrong record."""
    if bitwise:
        named = f"The record names the processor only as {then['device']!r}"
        return f"{named}: another model may round sums differently, which is no error of the record."
    return (
        "A setting whose nets vary strongly with the seed may be out of tolerance although its record is correct: "
        "verify it on the machine and with the packages of the record."
    )


def _weights(record: Record, now: Result, workspace: Workspace, bitwise: bool) -> tuple[list[str], bool]:
    """Compare the stored weights with the new ones if bitwise, else their verdicts with the recorded ones."""
    if bitwise:
        same, total = same_weights(weights_of(record), workspace.trial(now.trial.key) / "weights.pt")
        return [f"{same} of {total} tensors of the weights agree bit for bit."], same == total
    verdicts = reproduced_verdicts(record, data_of(record, workspace), workspace.device)
    if verdicts is None:
        return [], True
    line = f"The stored weights give the recorded verdict on {verdicts[0]} of {verdicts[1]} validation images."
    return [line], enough_verdicts(*verdicts)


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Facts that differ from the record; uncommitted code always, since its changes are unknown."""
    unclear = {name for name in ("git",) if "uncommitted" in then.get(name, "") + now.get(name, "")}
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name) or name in unclear)
    if not names:
        return ["Packages, code and machine are those of the record."]
    width = max(map(len, names))
    cells = [[name, then.get(name, "not recorded"), now.get(name, "missing")] for name in names]
    left = max(len(cell[1]) for cell in cells)
    return [
        "Different from the record:",
        *(f"  {name:<{width}}  then {one:<{left}}  now {other}" for name, one, other in cells),
    ]


def _rule(bitwise: bool) -> list[str]:
    if bitwise:
        return ["Every score, every image and the weights have to agree bit for bit."]
    text = (
        "Bitwise equality cannot be expected with another device, number of threads, Python, torch or numpy: nets "
        "trained there diverge like those of other seeds. A score agrees within the largest of three standard "
        "errors of the difference of both measurements, three standard deviations of the difference of two seeds, "
        "estimated from the winner's other seed runs, and, for a share, three images."
    )
    return textwrap.wrap(text, WIDTH)


def _table(rows: list[Compared]) -> list[str]:
    cells = [["score", "record", "now", "difference", "tolerance", "images that differ", "agrees"]]
    for row in rows:
        difference = None if row.then is None or row.now is None else row.now - row.then
        images = "–" if row.images is None else f"{row.images[0]} of {row.images[1]}"
        agrees = "yes" if row.agrees else "NO"
        numbers = [_figure(row.then), _figure(row.now), _figure(difference, ".2g"), _figure(row.tolerance, ".2g")]
        cells.append([row.name if len(row.name) <= 36 else f"{row.name[:35]}…", *numbers, images, agrees])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def _figure(value: float | None, style: str = ".6f") -> str:
    return "–" if value is None else f"{value:{style}}"


def _print_lines(lines: list[str]) -> None:
    """Print lines, with question marks for control characters from a record."""
    for line in lines:
        print(printable(line), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
