"""Write a trained net where others can use it: weights, settings, a RobustBench-style entry and a model card.

python -m reports export RUN
python -m reports export RUN --out FOLDER

RUN is a winner's repetition, whose weights MLflow keeps. FOLDER/<name>/ gets model.safetensors, config.json,
<name>.json and README.md; the same record gives the same bytes. The weights are first held against the verdicts that
were recorded.
"""

import argparse
import inspect
import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from harness import cli, foreign
from harness.config import PROTOCOL
from harness.datasets import Data
from harness.errors import Mistake, exit_status
from harness.place import write
from harness.scores import Score
from reports import scores, words
from reports.markdown import code, plain
from reports.record import Record, contradictions, data_of, enough, facts, parser, read, upheld, weights_of

ARCHITECTURES = {
    "small": "three convolutions",
    "resnet10": "ResNet-10",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "wrn28_10": "WideResNet-28-10",
    "wrn40_2": "WideResNet-40-2",
    "vgg_gap": "VGG-16-GAP",
}
_ATTACKED = re.compile(r"(?:aa|worst|pgd\d+(?:x\d+)?|fgsm)-(\d+(?:\.\d+)?)")  # accuracy under attack, maximum norm


def name(record: Record) -> str:
    """What the folder and the entry are called: method, data, net and the trial's key."""
    flat = record.result.trial.flat()
    return re.sub(r"[^\w.+-]+", "-", f"{flat['method']}-{flat['data']}-{flat['model']}-{record.result.trial.key}")


def weights(state: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """The tensors of a state dict and texts about them as a safetensors file; the same input gives the same bytes."""
    file = save({key: state[key].contiguous() for key in sorted(state)}, {"format": "pt", **about})
    length = int.from_bytes(file[:8], "little")
    # Its writer lays out the texts in an order that changes from process to process: so the header is written again.
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def config(record: Record, data: Data) -> dict[str, object]:
    """All that is needed to build the net again and to train it again, and every score with its protocol."""
    trial = record.result.trial
    net = {
        "model": trial.model,
        "channels": data.channels,
        "classes": len(data.classes),
        "class_names": list(data.classes),
        "image_size": list(data.val.x.shape[-2:]),
        "input": "float32 in [0, 1]",
        "normalise": trial.normalise,  # by buffers of the net, which its weights hold
    }
    about = {"key": trial.key, "run": record.run, "harness": _version(record), "protocol": PROTOCOL}
    scored = [{k: None if v != v else v for k, v in s.record().items()} for s in record.result.scores]  # NaN is no JSON
    return {**about, "net": net, "trial": trial.flat(), "checksums": record.result.checksums, "scores": scored}


def entry(record: Record) -> dict[str, object]:
    """The fields of a RobustBench model_info entry, accuracies in per cent as text, None where nothing was measured.

    eps: the largest at which attacks in the maximum norm were measured. `reported` is the lowest accuracy under any of
    them, `autoattack_acc` that of AutoAttack's standard version, `corruptions_acc` the mean over the 15 standard
    corruptions; the last two only where they were measured. link, authors and venue are for the author to fill in."""
    trial, tested = record.result.trial, _tested(record)
    eps = max((found[1] for name in tested if (found := _ATTACKED.fullmatch(name))), key=float, default=None)
    attacked = [s for name, s in tested.items() if (found := _ATTACKED.fullmatch(name)) and found[1] == eps]
    lowest = min(attacked, key=lambda s: (s.mean, s.name), default=None)
    doubts = [c.name for c in record.result.checks if c.passed is False]
    annotated = {"box": "boxes", "mask": "masks"}
    given = [annotated[m] for m in str(trial.flat().get("maps.saliency", "")).split("+") if m in annotated]
    said = [f"One net, seed {trial.seed}; {max((s.n for s in tested.values()), default=0)} test images."]
    said += [f"Reported is {scores.label(lowest.name)}."] if lowest else []
    said += [f"Trained with the {' and '.join(given)} of the training images."] if given else []
    said += [f"In doubt: {', '.join(doubts)}."] if doubts else []
    also = {"autoattack_acc": tested.get(f"aa-{eps}"), "corruptions_acc": tested.get("corrupted")}
    return {
        "link": "",
        "name": f"{trial.flat()['method']} on {trial.data.name} (trial {trial.key})",
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": trial.data.name,
        "venue": "",
        "architecture": ARCHITECTURES.get(trial.model, trial.model),
        "eps": f"{eps}/255" if eps else None,
        "clean_acc": _percent(tested.get("clean")),
        "reported": _percent(lowest),
        **{field: _percent(score) for field, score in also.items() if score},
        "footnote": " ".join(said),
        "unreliable": bool(doubts),
    }


def card(record: Record, data: Data, held: str) -> str:
    """A model card in Markdown. held: what the weights were found to do before they are written."""
    trial, called = record.result.trial, name(record)
    sums = ", ".join(f"{plain(part)} {code(str(digest))}" for part, digest in sorted(record.result.checksums.items()))
    parts = " and ".join(f"{len(getattr(data, part)):,} {part}" for part in ("train", "val", "test"))
    settings = [[code(path), plain(_setting(path, value))] for path, value in trial.flat().items()]
    blocks = [
        f"# {plain(called)}",
        _what(record, data),
        "## Use",
        _snippet(trial.model, data),
        "Normalisation is inside the net. The file holds tensors and nothing that runs. To measure it further:",
        code(f"python -m harness.evaluate --model {trial.model} --weights model.safetensors --data {trial.data.name}"),
        "## Scores",
        _scores(record),
        "Per cent where a score is a share or a likeness, ± one standard error over the n images counted. The setting "
        "was chosen by validation scores alone; `robust` is the mean over the grid of eps. Measured by version "
        f"{PROTOCOL} of the harness's protocol; `config.json` holds every score's in full.",
        "## What speaks against the scores",
        _doubts(record),
        "## Data",
        f"{code(trial.data.name)}: {parts} images. SHA-256 of the parts, before any limit or crop: {sums}. "
        f"Classes: {plain(', '.join(data.classes))}.",
        "## Training",
        _table(["Setting", "Value"], settings),
        "Numbers to three figures; `config.json` has them in full, and all that is needed to build the net.",
        "## Limitations",
        _limits(record),
        "## Provenance",
        _table(["What", "Recorded"], _provenance(record)),
        f"{held} `python -m reports verify {record.run}` trains and measures the net anew from its record. "
        f"`{called}.json` has the fields of a RobustBench entry; link, authors and venue are left to its author.",
    ]
    return "\n\n".join(blocks) + "\n"


def write_all(record: Record, data: Data, out: Path, held: str) -> Path:
    """Write the four files, each whole or not at all; returns their folder. Raises `Mistake` where that fails."""
    called, about = name(record), {"harness": _version(record), "key": record.result.trial.key}
    state = foreign.weights(weights_of(record))
    files = {
        "model.safetensors": weights(state, {**about, "protocol": str(PROTOCOL)}),
        "config.json": _json(config(record, data)),
        f"{called}.json": _json(entry(record)),
        "README.md": card(record, data, held).encode(),
    }
    for file, content in files.items():
        write(out / called / file, lambda temporary, content=content: temporary.write_bytes(content))
    return out / called


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        fetched = Path(folder, "record")
        fetched.mkdir()
        record = read(args.tracking_uri, args.run, fetched)
        weights_of(record)
        for score, said in contradictions(record).items():
            raise Mistake(f"run {record.run} contradicts itself, {score}: {said}")
        place = cli.place(argparse.Namespace(out=f"{folder}/out", data_root=args.data_root, device="cpu"))
        data = data_of(record, place)
        print(write_all(record, data, args.out, _held(record, data)))
    return 0


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    p = parser("export", __doc__)
    p.add_argument("--out", type=Path, default=Path("runs/export"), help="folder (default %(default)s)")
    return p.parse_args(words)


def _held(record: Record, data: Data) -> str:
    """A sentence on what the weights do. Raises `Mistake` where they are not those that were measured."""
    found = upheld(record, data, "cpu")
    if found is None:
        return "No verdicts on clean images were recorded to hold the weights against."
    if not enough(*found):
        raise Mistake(
            f"the weights of run {record.run} are not those that were measured: they give the recorded verdict on"
            f" {found[0]} of {found[1]} validation images"
        )
    return (
        f"The weights gave the recorded verdict on {found[0]} of {found[1]} validation images when they were written."
    )


def _what(record: Record, data: Data) -> str:
    trial, method = record.result.trial, type(record.result.trial.method)
    about = (inspect.getdoc(inspect.getmodule(method)) or "").partition("\n")[0]
    channels, height, width = data.val.x.shape[1:]
    return (
        f"`{trial.model}` of harness.models ({ARCHITECTURES.get(trial.model, trial.model)}) for {len(data.classes)} "
        f"classes of {code(trial.data.name)} at {width}x{height} pixels, channels: {channels}. Trained by "
        f"`{trial.flat()['method']}`: {plain(about)} Seed {trial.seed} of the setting that the search of "
        f"{code(record.cell)} in {code(record.experiment)} chose."
    )


def _snippet(model: str, data: Data) -> str:
    shape = ", ".join(map(str, data.val.x.shape[1:]))
    return f"""```python
from safetensors.torch import load_file

from harness.models import build

net = build("{model}", channels={data.channels}, classes={len(data.classes)})
net.load_state_dict(load_file("model.safetensors"))
logits = net.eval()(images)  # images (N, {shape}), float32 in [0, 1]
```"""


def _scores(record: Record) -> str:
    found, rows = {s.name: s for s in record.result.scores}, []
    for name in sorted({name.partition("/")[2] for name in found}, key=scores.place):
        test, val = found.get(f"test/{name}"), found.get(f"val/{name}")
        one = test or val
        counts = [f"{count} {what}" for what, count in one.counts.items() if count]
        told = [_said(what, value) for what, value in one.protocol.items()] + counts
        figures = [_figure(test), str(test.n) if test else words.NONE, _figure(val), str(val.n) if val else words.NONE]
        rows.append([f"{plain(scores.label(name))} ({code(name)})", *figures, plain(", ".join(told)) or words.NONE])
    return _table(["Score", "Test", "n", "Validation", "n", "Protocol"], rows)


def _said(what: str, value: object) -> str:
    many = isinstance(value, list) and len(value) > 4
    return f"{what} {len(value)} scores" if many else f"{what} {_setting(what, value)}"


def _setting(path: str, value: object) -> str:
    values = value if isinstance(value, tuple | list) else (value,)
    return ", ".join(words.setting(path, str(v)) for v in values)


def _figure(score: Score | None) -> str:
    """A score in its unit, with its standard error where it has one."""
    if score is None:
        return words.NONE
    share = scores.accuracy(score.name) or scores.attribution(score.name)
    unit, digits = (100, 2) if share else (1, 4)
    error = "" if math.isnan(score.stderr) else f" ± {unit * score.stderr:.{digits}f}"
    return f"{unit * score.mean:.{digits}f}{error}"


def _doubts(record: Record) -> str:
    checks = record.result.checks
    lines = [f"- {code(c.name)}: {plain(c.about)}" for c in checks if c.passed is False]
    for passed, said in ((True, "Passed"), (None, "Not asked")):
        names = ", ".join(code(c.name) for c in checks if c.passed is passed)
        lines += [f"- {said}: {names}"] if names else []
    return "\n".join(lines) or "No check was asked."


def _limits(record: Record) -> str:
    tested, touches = _tested(record), record.result.touches
    lines = ["One net of one seed. Others of the same setting differ, and so may its rank among methods."]
    named = {s: scores.label(s) for s in ("test/clean", "test/robust") if s in record.spread}
    if spread := [f"{label} {100 * record.spread[s]:.2f}" for s, label in named.items()]:
        lines[0] += f" Standard deviation over its other repetitions, in points: {plain(', '.join(spread))}."
    lines += ["Robust means: against the attacks listed, of the strengths listed. Other attacks may find more."]
    if not any(name.startswith("aa-") for name in tested):
        lines += ["AutoAttack was not measured: accuracies under PGD alone tend to be too high."]
    lines += [f"The net was measured on the test images {'once' if touches == 1 else f'{touches} times'}."]
    lines += ["Nothing is known of images that are not like those of its data. It is made for comparing methods."]
    return "\n".join(f"- {line}" for line in lines)


def _provenance(record: Record) -> list[list[str]]:
    seconds = ", ".join(f"{phase} {words.seconds(s)}" for phase, s in sorted(record.result.seconds.items()))
    about = {"run": record.run, "experiment": record.experiment, "cell": record.cell}
    about |= {"sweep": record.tags.get("sweep", ""), "trial": record.result.trial.key, "device-seconds": seconds}
    about |= dict(sorted(facts(record.result, record.tags).items()))
    return [[plain(what), plain(str(text))] for what, text in about.items() if text]


def _tested(record: Record) -> dict[str, Score]:
    """The scores on test, by name without the split."""
    return {s.name.removeprefix("test/"): s for s in record.result.scores if s.name.startswith("test/")}


def _percent(score: Score | None) -> str | None:
    return None if score is None or math.isnan(score.mean) else f"{100 * score.mean:.2f}"


def _version(record: Record) -> str:
    return record.tags.get("package.saliency-harness", "not recorded")


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, [":--"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(exit_status(main))
