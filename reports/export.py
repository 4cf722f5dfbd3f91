"""Export a trained net: safetensors weights, config, model card, and its scores in the forms of other leaderboards.

python -m reports export RUN
python -m reports export RUN --out FOLDER
python -m reports export RUN --owner my-lab --dataset my-lab/my-images

RUN is a seed run of a winner, whose weights are in MLflow. Writes model.safetensors, config.json, README.md (a model
card of Hugging Face), <name>.json (RobustBench), .eval_results/ (Hugging Face) and every_eval_ever/ to FOLDER/<name>/;
the same record gives the same bytes. The weights are first checked against the recorded verdicts on validation images.
"""

import argparse
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from operator import methodcaller
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from harness import cli
from harness.arguments import path
from harness.config.trial_key import TRAINING_VERSION
from harness.data.datasets import Data
from harness.errors import UserError, complain, exit_status, shown
from harness.evaluation.external.checkpoints import load_untrusted_weights
from harness.evaluation.metrics import CHECKS_OF_MAPS
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from harness.storage.files import write
from reports import every_eval_ever, hugging_face
from reports.model_card import ARCHITECTURES, card, name, tested_scores
from reports.read import score_names, trusted_plugins
from reports.read.record import (
    Record,
    contradictions,
    data_of,
    enough_verdicts,
    parser,
    read,
    reproduced_verdicts,
    weights_of,
)

_ATTACKED = ("aa", "worst", "pgd", "fgsm")  # accuracy under attack
OWNER = "local"  # of a net that is not published yet


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
    trial, tested = record.result.trial, tested_scores(record)
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


def write_all(record: Record, data: Data, out: Path, weights_note: str, owner: str = OWNER, dataset: str = "") -> Path:
    """Write the files, each atomically; returns their folder. Raises `UserError` if that fails.

    owner: who publishes the net. dataset: the data set's id on the Hugging Face Hub; without one, no .eval_results."""
    stem, metadata = name(record), {"harness": _version(record), "key": record.result.trial.key}
    state = load_untrusted_weights(weights_of(record))
    files = {
        "model.safetensors": weights(state, {**metadata, "protocol": str(TRAINING_VERSION)}),
        "config.json": _json(config(record, data)),
        f"{stem}.json": _json(entry(record)),
        "README.md": (hugging_face.metadata(record, dataset) + "\n" + card(record, data, weights_note)).encode(),
    }
    entries = hugging_face.eval_results(record, dataset) if dataset else {}
    files |= {f".eval_results/{file}": content.encode() for file, content in entries.items()}
    records = every_eval_ever.files(record, data, owner, dataset, _version(record))
    files |= {f"every_eval_ever/{file}": content for file, content in records.items()}
    shutil.rmtree(out / stem / "every_eval_ever", ignore_errors=True)  # named by the owner of an earlier export
    for file, content in files.items():
        write(out / stem / file, methodcaller("write_bytes", content))
    return out / stem


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    trusted_plugins.trust(args.plugins)
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        fetched = Path(folder, "record")
        fetched.mkdir()
        record = read(args.tracking_uri, args.run, fetched, args.artifacts)
        weights_of(record)
        for score, reason in contradictions(record).items():
            raise UserError(f"run {record.run} contradicts itself, {score}: {reason}")
        workspace = cli.workspace(argparse.Namespace(out=f"{folder}/out", data_root=args.data_root, device="cpu"))
        data = data_of(record, workspace)
        dataset = args.dataset or hugging_face.DATASETS.get(record.result.trial.data.name, "")
        print(write_all(record, data, args.out, _weights_note(record, data), args.owner, dataset))
        if not dataset:
            said = f"note: no .eval_results: data {shown(record.result.trial.data.name)} has no known id on the Hub"
            complain(f"{said}; name it by --dataset OWNER/NAME")
    return 0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser("export", __doc__)
    p.add_argument("--out", type=path, default=Path("runs/export"), help="folder (default %(default)s)")
    p.add_argument(
        "--owner", type=_account, default=OWNER, help="who publishes the net, as on the Hub (default %(default)s)"
    )
    p.add_argument("--dataset", type=_dataset, metavar="OWNER/NAME", help="id of the data set on the Hugging Face Hub")
    return p.parse_args(argv)


def _account(text: str) -> str:
    """The type of an option that takes the name of an account on the Hub."""
    if not re.fullmatch(r"\w[\w-]{0,95}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"takes letters, digits, - and _, not {shown(text)}")
    return text


def _dataset(text: str) -> str:
    """The type of an option that takes the id of a data set on the Hub."""
    if not re.fullmatch(r"\w[\w-]{0,95}/\w[\w.-]{0,95}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"takes OWNER/NAME, such as uoft-cs/cifar10, not {shown(text)}")
    return text


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


def _percent(score: Score | None) -> str | None:
    return None if score is None or math.isnan(score.mean) else f"{100 * score.mean:.2f}"


def _version(record: Record) -> str:
    return record.tags.get("package.saliency-harness", "not recorded")


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    sys.exit(exit_status(main))
