"""A model card in Markdown of a trained net: what it is, its scores with their protocols, checks, settings, limits."""

import inspect
import math
import re

from harness.config.trial_key import TRAINING_VERSION
from harness.data.datasets import Data
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from reports.present import number_format
from reports.read import score_names
from reports.read.record import Record, facts
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


def name(record: Record) -> str:
    """Name of the folder and the entry: method, data, net and trial key."""
    flat = record.result.trial.flat()
    return portable(f"{flat['method']}-{flat['data']}-{flat['model']}-{record.result.trial.key}")


def portable(text: str) -> str:
    """A text as a file name that every system takes."""
    return re.sub(r"[^\w.+-]+", "-", text)


def card(record: Record, data: Data, weights_note: str) -> str:
    """A model card in Markdown. weights_note: result of the check of the weights."""
    trial, title = record.result.trial, name(record)
    sums = ", ".join(f"{plain(part)} {code(str(digest))}" for part, digest in sorted(record.result.checksums.items()))
    damaged = ", ".join(f"{code(str(n))} of {plain(part)}" for part, n in record.result.damaged.items())
    left_out = f"Damaged images, left out: {damaged}. " if damaged else ""
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
        f"{code(trial.data.name)}: {parts} images. SHA-256 of the parts, before any limit or crop: {sums}. {left_out}"
        f"Classes: {plain(', '.join(data.classes))}.",
        "## Training",
        _table(["Setting", "Value"], settings),
        "Numbers with three figures; `config.json` has them in full, and everything needed to build the net."
        + "".join(f" {code(plugin)} is a plug-in, named with the digest of its source." for plugin in trial.plugins),
        "## Limitations",
        _limits(record),
        "## Provenance",
        _table(["What", "Recorded"], _provenance(record)),
        f"{weights_note} `python -m reports verify {record.run}` trains and measures the net again from its record. "
        f"`{title}.json` has the fields of a RobustBench entry; link, authors and venue are for its author to fill in.",
    ]
    return "\n\n".join(blocks) + "\n"


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
    tested, evaluations = tested_scores(record), record.result.test_evaluations
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


def tested_scores(record: Record) -> dict[str, Score]:
    """The test scores, by name without the split."""
    return {s.name.removeprefix("test/"): s for s in record.result.scores if s.name.startswith("test/")}


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, [":--"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
