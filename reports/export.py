"""Export a trained net: safetensors weights, config, RobustBench-style JSON and a model card.

python -m reports export RUN
python -m reports export RUN --out FOLDER

RUN is a seed run of a winner, whose weights are in MLflow. Writes model.safetensors, config.json, <name>.json and
README.md to FOLDER/<name>/; the same record gives the same bytes. The weights are first checked against the recorded
verdicts on validation images.
"""

import argparse
import inspect
import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping
from operator import methodcaller
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from harness import cli
from harness.config.trial_key import TRAINING_VERSION
from harness.data.datasets import Data
from harness.errors import UserError, exit_status
from harness.evaluation import external
from harness.evaluation.metrics import CHECKS_OF_MAPS
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from harness.storage.files import write
from reports.present import number_format
from reports.read import score_names
from reports.read.record import (
    Record,
    contradictions,
    data_of,
    enough_verdicts,
    facts,
    parser,
    read,
    reproduced_verdicts,
    weights_of,
)
from reports.write.markdown import code, plain

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
_ATTACKED = ("aa", "worst", "pgd", "fgsm")  # accuracy under attack


def name(record: Record) -> str:
    """Name of the folder and the entry: method, data, net and trial key."""
    flat = record.result.trial.flat()
    return re.sub(r"[^\w.+-]+", "-", f"{flat['method']}-{flat['data']}-{flat['model']}-{record.result.trial.key}")


def weights(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A state dict and its metadata as a safetensors file; the same input gives the same bytes."""
    file = save({key: state[key].contiguous() for key in sorted(state)}, {"format": "pt", **metadata})
    length = int.from_bytes(file[:8], "little")
    # safetensors orders the metadata differently in every process, so the header is rewritten.
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def config(record: Record, data: Data) -> dict[str, object]:
    """Everything needed to rebuild and to retrain the net, and every score with its protocol."""
    trial = record.result.trial
    net = {
        "model": trial.model,
        "channels": data.channels,
        "classes": len(data.classes),
        "class_names": list(data.classes),
        "image_size": list(data.val.x.shape[-2:]),
        "input": "float32 in [0, 1]",
        "normalise": trial.normalise,  # by buffers of the net, which are part of its weights
    }
    metadata = {"key": trial.key, "run": record.run, "harness": _version(record), "protocol": TRAINING_VERSION}
    scored = [{k: None if v != v else v for k, v in s.record().items()} for s in record.result.scores]
    return {**metadata, "net": net, "trial": trial.flat(), "checksums": record.result.checksums, "scores": scored}


def entry(record: Record) -> dict[str, object]:
    """The fields of a RobustBench model_info entry, accuracies in per cent as text, None if not measured.

    eps: the largest of the measured attacks in the maximum norm. `reported` is the lowest accuracy under any of them,
    `autoattack_acc` that of AutoAttack's standard version, `corruptions_acc` the mean over the 15 standard
    corruptions; the last two only if measured. link, authors and venue are for the author to fill in."""
    trial, tested = record.result.trial, _tested(record)
    named = {ScoreName.parse(text): score for text, score in tested.items()}
    attacks = {n: score for n, score in named.items() if n.metric in _ATTACKED and n.norm == "linf"}
    eps = max((n.strength for n in attacks if n.strength is not None), default=None)
    attacked = [score for n, score in attacks.items() if n.strength == eps]
    lowest = min(attacked, key=lambda s: (s.mean, s.name), default=None)
    failed = [c.name for c in record.result.checks if c.passed is False and c.name not in CHECKS_OF_MAPS]
    annotated = {"box": "boxes", "mask": "masks"}
    annotations = [annotated[m] for m in str(trial.flat().get("maps.saliency", "")).split("+") if m in annotated]
    footnote = [f"One net, seed {trial.seed}; {max((s.n for s in tested.values()), default=0)} test images."]
    footnote += [f"Reported is {score_names.label(lowest.name)}."] if lowest else []
    footnote += [f"Trained with the {' and '.join(annotations)} of the training images."] if annotations else []
    footnote += [f"Failed checks: {', '.join(failed)}."] if failed else []
    autoattack = named.get(ScoreName("aa", strength=eps))
    optional = {"autoattack_acc": autoattack, "corruptions_acc": tested.get("corrupted")}
    return {
        "link": "",
        "name": f"{trial.flat()['method']} on {trial.data.name} (trial {trial.key})",
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": trial.data.name,
        "venue": "",
        "architecture": ARCHITECTURES.get(trial.model, trial.model),
        "eps": None if eps is None else f"{eps:g}/255",
        "clean_acc": _percent(tested.get("clean")),
        "reported": _percent(lowest),
        **{field: _percent(score) for field, score in optional.items() if score},
        "footnote": " ".join(footnote),
        "unreliable": bool(failed),
    }


def card(record: Record, data: Data, weights_note: str) -> str:
    """A model card in Markdown. weights_note: result of the check of the weights."""
    trial, title = record.result.trial, name(record)
    sums = ", ".join(f"{plain(part)} {code(str(digest))}" for part, digest in sorted(record.result.checksums.items()))
    parts = " and ".join(f"{len(getattr(data, part)):,} {part}" for part in ("train", "val", "test"))
    settings = [[code(path), plain(_setting(path, value))] for path, value in trial.flat().items()]
    blocks = [
        f"# {plain(title)}",
        _what(record, data),
        "## Use",
        _snippet(trial.model, data),
        "Normalisation is part of the net. The file contains tensors only, no code. To evaluate it further:",
        code(f"python -m harness.evaluate --model {trial.model} --weights model.safetensors --data {trial.data.name}"),
        "## Scores",
        _scores(record),
        "In per cent if a score is a share or a similarity, ± one standard error over the n images counted. The "
        "setting was selected by validation scores alone; `robust` is the mean over the grid of eps. Trained by "
        f"version {TRAINING_VERSION} of the harness; `config.json` has the protocol and the version of every score.",
        "## Checks",
        _checks(record),
        "## Data",
        f"{code(trial.data.name)}: {parts} images. SHA-256 of the parts, before any limit or crop: {sums}. "
        f"Classes: {plain(', '.join(data.classes))}.",
        "## Training",
        _table(["Setting", "Value"], settings),
        "Numbers with three figures; `config.json` has them in full, and everything needed to build the net.",
        "## Limitations",
        _limits(record),
        "## Provenance",
        _table(["What", "Recorded"], _provenance(record)),
        f"{weights_note} `python -m reports verify {record.run}` trains and measures the net again from its record. "
        f"`{title}.json` has the fields of a RobustBench entry; link, authors and venue are for its author to fill in.",
    ]
    return "\n\n".join(blocks) + "\n"


def write_all(record: Record, data: Data, out: Path, weights_note: str) -> Path:
    """Write the four files, each atomically; returns their folder. Raises `UserError` if that fails."""
    stem, metadata = name(record), {"harness": _version(record), "key": record.result.trial.key}
    state = external.load_untrusted_weights(weights_of(record))
    files = {
        "model.safetensors": weights(state, {**metadata, "protocol": str(TRAINING_VERSION)}),
        "config.json": _json(config(record, data)),
        f"{stem}.json": _json(entry(record)),
        "README.md": card(record, data, weights_note).encode(),
    }
    for file, content in files.items():
        write(out / stem / file, methodcaller("write_bytes", content))
    return out / stem


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        fetched = Path(folder, "record")
        fetched.mkdir()
        record = read(args.tracking_uri, args.run, fetched)
        weights_of(record)
        for score, reason in contradictions(record).items():
            raise UserError(f"run {record.run} contradicts itself, {score}: {reason}")
        workspace = cli.workspace(argparse.Namespace(out=f"{folder}/out", data_root=args.data_root, device="cpu"))
        data = data_of(record, workspace)
        print(write_all(record, data, args.out, _weights_note(record, data)))
    return 0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser("export", __doc__)
    p.add_argument("--out", type=Path, default=Path("runs/export"), help="folder (default %(default)s)")
    return p.parse_args(argv)


def _weights_note(record: Record, data: Data) -> str:
    """Sentence for the model card on the check of the weights. Raises `UserError` if they are not the measured ones."""
    verdicts = reproduced_verdicts(record, data, "cpu")
    if verdicts is None:
        return "No verdicts on clean images were recorded, so the weights were not checked."
    if not enough_verdicts(*verdicts):
        raise UserError(
            f"the weights of run {record.run} are not those that were measured: they give the recorded verdict on"
            f" {verdicts[0]} of {verdicts[1]} validation images"
        )
    return f"The weights gave the recorded verdict on {verdicts[0]} of {verdicts[1]} validation images when exported."


def _what(record: Record, data: Data) -> str:
    trial, method = record.result.trial, type(record.result.trial.method)
    summary = (inspect.getdoc(inspect.getmodule(method)) or "").partition("\n")[0]
    channels, height, width = data.val.x.shape[1:]
    return (
        f"`{trial.model}` of harness.models.nets ({ARCHITECTURES.get(trial.model, trial.model)}) for "
        f"{len(data.classes)} classes of {code(trial.data.name)} at {width}x{height} pixels, channels: {channels}. "
        f"Trained by `{trial.flat()['method']}`: {plain(summary)} Seed {trial.seed} of the winner of the study of "
        f"{code(record.cell)} in {code(record.experiment)}."
    )


def _snippet(model: str, data: Data) -> str:
    shape = ", ".join(map(str, data.val.x.shape[1:]))
    return f"""```python
from safetensors.torch import load_file

from harness.models.nets import build

net = build("{model}", channels={data.channels}, classes={len(data.classes)})
net.load_state_dict(load_file("model.safetensors"))
logits = net.eval()(images)  # images (N, {shape}), float32 in [0, 1]
```"""


def _scores(record: Record) -> str:
    by_name, rows = {s.name: s for s in record.result.scores}, []
    for name in sorted({str(ScoreName.parse(name).on("")) for name in by_name}, key=score_names.sort_key):
        test, val = by_name.get(f"test/{name}"), by_name.get(f"val/{name}")
        score = test or by_name[f"val/{name}"]
        counts = [f"{count} {what}" for what, count in score.counts.items() if count]
        protocol = [_protocol_text(what, value) for what, value in score.protocol.items()] + counts
        figures = [
            _figure(test),
            str(test.n) if test else number_format.NONE,
            _figure(val),
            str(val.n) if val else number_format.NONE,
        ]
        rows.append(
            [
                f"{plain(score_names.label(name))} ({code(name)})",
                *figures,
                plain(", ".join(protocol)) or number_format.NONE,
            ]
        )
    return _table(["Score", "Test", "n", "Validation", "n", "Protocol"], rows)


def _protocol_text(what: str, value: object) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{what} {len(value)} scores"
    return f"{what} {_setting(what, value)}"


def _setting(path: str, value: object) -> str:
    values = value if isinstance(value, tuple | list) else (value,)
    return ", ".join(number_format.setting(path, str(v)) for v in values)


def _figure(score: Score | None) -> str:
    """A score in its unit, with its standard error if it has one."""
    if score is None:
        return number_format.NONE
    about = ScoreName.parse(score.name).about
    unit, digits = about.unit.scale, 2 if about.is_share else 4
    error = "" if math.isnan(score.stderr) else f" ± {unit * score.stderr:.{digits}f}"
    return f"{unit * score.mean:.{digits}f}{error}"


def _checks(record: Record) -> str:
    checks = record.result.checks
    lines = [f"- {code(c.name)}: {plain(c.about)}" for c in checks if c.passed is False]
    for passed, verdict in ((True, "Passed"), (None, "Not asked")):
        names = ", ".join(code(c.name) for c in checks if c.passed is passed)
        lines += [f"- {verdict}: {names}"] if names else []
    return "\n".join(lines) or "No check was run."


def _limits(record: Record) -> str:
    tested, evaluations = _tested(record), record.result.test_evaluations
    lines = ["One net of one seed. Other seeds of the same setting differ, and its rank among methods may differ too."]
    named = {s: score_names.label(s) for s in ("test/clean", "test/robust") if s in record.spread}
    if spread := [f"{label} {100 * record.spread[s]:.2f}" for s, label in named.items()]:
        lines[0] += f" Standard deviation over the winner's other seed runs, in points: {plain(', '.join(spread))}."
    lines += ["Robust means: under the listed attacks with the listed strengths. Other attacks may be stronger."]
    if not any(ScoreName.parse(name).metric == "aa" for name in tested):
        lines += ["AutoAttack was not measured: accuracies under PGD alone tend to be too high."]
    lines += [f"The net was measured on the test images {'once' if evaluations == 1 else f'{evaluations} times'}."]
    lines += ["Images that differ from those of its data were not measured. The net is meant for comparing methods."]
    return "\n".join(f"- {line}" for line in lines)


def _provenance(record: Record) -> list[list[str]]:
    seconds = ", ".join(f"{phase} {number_format.seconds(s)}" for phase, s in sorted(record.result.seconds.items()))
    metadata = {"run": record.run, "experiment": record.experiment, "cell": record.cell}
    metadata |= {"sweep": record.tags.get("sweep", ""), "trial": record.result.trial.key, "device-seconds": seconds}
    metadata |= dict(sorted(facts(record.result, record.tags).items()))
    return [[plain(what), plain(str(text))] for what, text in metadata.items() if text]


def _tested(record: Record) -> dict[str, Score]:
    """The test scores, by name without the split."""
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
