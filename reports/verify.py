"""Train and measure a trial anew from its record: do the scores agree?

python -m reports verify RUN
python -m reports verify RUN --keep FOLDER    # and look at what was trained

Nothing of the first run is used but its settings: the data are decoded, teachers trained, maps made, the net trained
and measured again, in an empty folder. Scores, numbers per image and weights have to agree bit for bit where the
machine and its packages are those of the record on a CPU; elsewhere every score within the tolerance that its line
shows. Nothing is written to MLflow. Exit status: 0 agrees, 1 does not agree, 2 bad input.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness import cli, foreign, track
from harness import trial as trials
from harness.errors import Diverged, Mistake, exit_status, printable
from harness.place import Place
from harness.scores import Score
from harness.train import Row
from harness.trial import Result
from reports.record import Record, contradictions, data_of, enough, facts, parser, read, stored, upheld

WIDTH = 110  # columns that a table may take
# Facts that decide whether sums come out bit for bit.
NUMERIC = ("device", "cpu", "threads", "python", "torch", "numpy")
ERRORS = 3.0  # standard errors that a net trained on another machine may be off


@dataclass(frozen=True)
class Compared:
    """A score then and now, None where it is missing. tolerance: how far they may be apart.

    images: how many differ, of how many; None where none were kept. same: bit for bit in everything that is stored.
    note: what else speaks against it."""

    name: str
    then: float | None
    now: float | None
    tolerance: float
    images: tuple[int, int] | None
    same: bool
    agrees: bool
    note: str = ""


def exact(then: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether the same numbers are to be expected bit for bit: a CPU, and every numeric fact as it was."""

    def numeric(of: Mapping[str, str]) -> list[str | None]:
        minor = ".".join(of.get("python", "").split(".")[:2])
        return [{**of, "python": minor}.get(name) for name in NUMERIC]

    return now.get("device", "").startswith("cpu") and numeric(then) == numeric(now) and None not in numeric(then)


def compare(record: Record, now: Result, *, bitwise: bool) -> list[Compared]:
    """Every score of the record that can be measured anew, with the same one of `now`, in the record's order.

    bitwise: only what is equal in every bit agrees, numbers per image included. Otherwise a score agrees within
    `tolerance`, measured in the same way: nets trained on other hardware drift apart as those of other seeds do, so
    that neither bits nor images can be asked for. What contradicts itself in the record never agrees."""
    of_then, of_now = (
        {s.name: s for s in r.scores if s.name.partition("/")[0] in parts_of(record)} for r in (record.result, now)
    )
    against, rows = contradictions(record), []
    for name in {**of_then, **of_now}:
        then, anew = of_then.get(name), of_now.get(name)
        if then is None or anew is None:
            note = "the record does not hold it" if then is None else "it was not measured anew"
            rows.append(Compared(name, then and then.mean, anew and anew.mean, 0.0, None, False, False, note))
            continue
        images = _images(then.per_example, anew.per_example)
        same = _text(then.record()) == _text(anew.record()) and not (images and images[0])
        room = 0.0 if bitwise else tolerance(then, anew, record.spread.get(name, 0.0))
        near = abs(then.mean - anew.mean) <= room or (math.isnan(then.mean) and math.isnan(anew.mean))
        alike = _text(then.protocol) == _text(anew.protocol)
        note = against.get(name, "" if alike else "it was measured in another way, by protocol or files")
        agrees = (same if bitwise else near and alike) and name not in against
        rows.append(Compared(name, then.mean, anew.mean, room, images, same, agrees, note))
    return rows


def tolerance(then: Score, now: Score, spread: float = 0.0) -> float:
    """How far two nets of the same settings may be apart, trained on different machines.

    The larger of three standard errors of the difference of two measurements, and three standard deviations of the
    difference of two seeds, where the same winner was repeated with several others. spread: the deviation over those.
    Of a share at least three images: one of 0 or 1 has no standard error."""
    errors = math.hypot(*(0.0 if math.isnan(s.stderr) else s.stderr for s in (then, now)))
    room = ERRORS * max(errors, math.sqrt(2) * spread)
    share = then.per_example is not None and then.per_example.dtype == bool
    return max(room, ERRORS / then.n) if share and then.n else room


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _images(then: np.ndarray | None, now: np.ndarray | None) -> tuple[int, int] | None:
    if then is None or now is None:
        return None
    if len(then) != len(now):
        return max(len(then), len(now)), max(len(then), len(now))
    then, now = then.astype(np.float64), now.astype(np.float64)
    return int((~((then == now) | (np.isnan(then) & np.isnan(now)))).sum()), len(then)


def same_weights(then: Path, now: Path) -> tuple[int, int]:
    """How many tensors of two files of weights are equal, of how many. Raises `Mistake` for damaged files."""
    one, other = (foreign.weights(file) for file in (then, now))
    if not isinstance(one, Mapping):
        return 0, len(other)
    names = {*one, *other}
    return sum(_equal(one.get(name), other.get(name)) for name in names), len(names)


def _equal(one: object, other: object) -> bool:
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return tensors and one.dtype == other.dtype and torch.equal(one, other)


def again(record: Record, place: Place, report: Callable[[Row], None] = trials.ignore) -> Result:
    """The record's trial, trained and measured anew in an empty place; on test only what was tested in this run.

    Raises `Mistake` where the data are not those of the record, before anything is trained."""
    trial = record.result.trial
    data_of(record, place)
    trials.run(trial, place, report=report, test="test" in parts_of(record))
    return stored(place.trial(trial.key), "of the run anew")


def parts_of(record: Record) -> tuple[str, ...]:
    """What of a record can be measured anew: of a proposal of the search validation alone."""
    tested = record.role == "seed" and any(s.name.startswith("test/") for s in record.result.scores)
    return ("val", "test") if tested else ("val",)


@contextlib.contextmanager
def _threads(recorded: str | None, device: str) -> Iterator[None]:
    """As many threads as the record had, which the order of sums follows, where this machine has so many cores."""
    before = torch.get_num_threads()
    wanted = int(recorded) if recorded and recorded.isdigit() and device == "cpu" else before
    try:
        if 0 < wanted <= (os.cpu_count() or 1):
            torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        fetched = Path(folder, "record")
        fetched.mkdir()
        record = read(args.tracking_uri, args.run, fetched)
        place = cli.place(_placed(args, record, Path(folder, "anew")))
        if any(place.out.iterdir()):
            raise Mistake(f"--keep {str(args.keep)!r} is not empty, and what is verified uses nothing that exists")
        machine = record.result.machine
        with _threads(machine.get("threads"), place.device):
            _say(_opening(record, place))
            try:
                now = again(record, place, _progress(record.result.trial.epochs))
            except Diverged as error:
                _say([f"Trained anew, {error}: the run does not agree with its record."])
                return 1
            lines, agrees = _findings(record, now, place)
        _say(lines)
    return 0 if agrees else 1


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    p = parser("verify", __doc__)
    p.add_argument("--keep", type=Path, metavar="FOLDER", help="empty folder for what is trained (default: removed)")
    return p.parse_args(words)


def _placed(args: argparse.Namespace, record: Record, out: Path) -> argparse.Namespace:
    """Where to run: on a CPU what ran on a CPU, else on a GPU where there is one."""
    device = "cpu" if record.result.machine.get("device", "cpu").startswith("cpu") else None
    return argparse.Namespace(out=str(args.keep or out), data_root=args.data_root, device=device)


def _progress(epochs: int) -> Callable[[Row], None]:
    def show(row: Row) -> None:
        if sys.stderr.isatty():
            text = "" if row["epoch"] == epochs else f"epoch {row['epoch']} of {epochs}"
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    return show


def _opening(record: Record, place: Place) -> list[str]:
    trial = record.result.trial
    of = f"{record.role} run of {record.cell!r} in {record.experiment!r}"
    again = f"Trained and measured anew on {place.device} in an empty folder, from the record's settings alone."
    tested = (
        "The test images are measured once more: nothing is chosen by them, and no record changes."
        if "test" in parts_of(record)
        else "Measured on the validation images only: this run was not tested."
        if record.role == "seed"
        else "Measured on the validation images only, as every proposal of a search."
    )
    return [f"run {record.run}, trial {trial.key}, {of}", *textwrap.wrap(f"{again} {tested}", WIDTH), ""]


def _findings(record: Record, now: Result, place: Place) -> tuple[list[str], bool]:
    """What to print, and whether all of it agrees."""
    made = {tag.removeprefix("harness."): text for tag, text in track.environment().items()}
    then_facts, now_facts = facts(record.result, record.tags), facts(now, made)
    bitwise = exact(then_facts, now_facts)
    rows = compare(record, now, bitwise=bitwise)
    lines = [*_differences(then_facts, now_facts), *_rule(bitwise), "", *_table(rows), ""]
    lines += [line for row in rows if row.note for line in textwrap.wrap(f"{row.name}: {row.note}.", WIDTH)]
    said, held = _weights(record, now, place, bitwise) if record.weights else ([], True)
    agrees = held and all(row.agrees for row in rows)
    if not agrees:
        said += textwrap.wrap(_doubt(bitwise, then_facts), WIDTH)
    same, n = sum(row.same for row in rows), len(rows)
    within = "" if bitwise else f" {sum(row.agrees for row in rows)} of {n} lie within the tolerance."
    return [*lines, *said, f"{same} of {n} scores agree bit for bit.{within}"], agrees


def _doubt(bitwise: bool, then: Mapping[str, str]) -> str:
    """What else than a wrong record may be behind a disagreement."""
    if bitwise:
        named = f"The record names the processor as {then['device']!r} and no closer"
        return f"{named}: another model of it may round sums otherwise, which is no fault of the record."
    return (
        "A setting whose nets differ widely from seed to seed may be out of tolerance though its record is right: "
        "verify it on the machine and with the packages of the record."
    )


def _weights(record: Record, now: Result, place: Place, bitwise: bool) -> tuple[list[str], bool]:
    """What the kept weights are held against: those trained anew, or, elsewhere, the verdicts that were recorded."""
    if bitwise:
        same, of = same_weights(record.weights, place.trial(now.trial.key) / "weights.pt")
        return [f"{same} of {of} tensors of the weights agree bit for bit."], same == of
    found = upheld(record, data_of(record, place), place.device)
    if found is None:
        return [], True
    line = f"The weights that the run keeps give the recorded verdict on {found[0]} of {found[1]} validation images."
    return [line], enough(*found)


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not as it was; code with uncommitted changes always, since nobody knows what they are."""
    unclear = {name for name in ("git",) if "uncommitted" in then.get(name, "") + now.get(name, "")}
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name) or name in unclear)
    if not names:
        return ["Packages, code and machine are those of the record."]
    width = max(map(len, names))
    cells = [[name, then.get(name, "not recorded"), now.get(name, "not there")] for name in names]
    left = max(len(cell[1]) for cell in cells)
    return [
        "Not as in the record:",
        *(f"  {name:<{width}}  then {one:<{left}}  now {other}" for name, one, other in cells),
    ]


def _rule(bitwise: bool) -> list[str]:
    if bitwise:
        return ["Every score, every image and the weights have to agree bit for bit."]
    said = (
        "The same bits cannot be expected of another device, number of threads, Python, torch or numpy: nets trained "
        "there drift apart as those of other seeds do. A score agrees within three standard errors of the difference "
        "of both measurements, or three deviations of the difference of two seeds, as told by the winner's other "
        "repetitions, where that is more, or three images of a share."
    )
    return textwrap.wrap(said, WIDTH)


def _table(rows: list[Compared]) -> list[str]:
    cells = [["score", "record", "now", "difference", "tolerance", "images that differ", "agrees"]]
    for row in rows:
        apart = None if row.then is None or row.now is None else row.now - row.then
        images = "–" if row.images is None else f"{row.images[0]} of {row.images[1]}"
        agrees = "yes" if row.agrees else "NO"
        numbers = [_figure(row.then), _figure(row.now), _figure(apart, ".2g"), _figure(row.tolerance, ".2g")]
        cells.append([row.name if len(row.name) <= 36 else f"{row.name[:35]}…", *numbers, images, agrees])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def _figure(value: float | None, style: str = ".6f") -> str:
    return "–" if value is None else f"{value:{style}}"


def _say(lines: list[str]) -> None:
    """Print lines; characters of a record that would steer the terminal are shown as question marks."""
    for line in lines:
        print(printable(line), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
