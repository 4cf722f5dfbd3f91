"""Teachers: nets trained only for their saliency maps, once for all trials that need the same one."""

from collections.abc import Callable

from torch import nn

from harness.config.trial import Trial, build
from harness.data import datasets
from harness.storage import plugin_copies
from harness.storage.files import locked
from harness.storage.sealed_json import read_json, write_json
from harness.storage.workspace import Workspace
from harness.training.epoch_metrics import EpochMetrics
from harness.trials.nets import CHECKPOINT, load_net, no_report, read_weights, train_net
from harness.trials.result import check_same_data

RECORD = "teacher.json"  # written last: a teacher with it is complete


def teacher_trial(trial: Trial, method: str) -> Trial:
    """The settings of a teacher: same data, net and epochs, and same seed unless `maps.teacher_seed` is set.

    Its optimiser settings are the data set's defaults, so that all tuned trials share one teacher. How a trial is
    measured does not matter to it: a teacher is trained, and not measured.
    """
    copied = {p: v for p, v in trial.flat().items() if p.split(".")[0] in ("data", "augment")}
    same = {p: trial.flat()[p] for p in ("model", "normalise", "epochs", "batch")}
    seed = trial.seed if trial.maps.teacher_seed < 0 else trial.maps.teacher_seed
    return build({**copied, **same, "method": method, "seed": seed})


def train_teacher(
    teacher: Trial, workspace: Workspace, *, report: Callable[[EpochMetrics], None] = no_report
) -> tuple[nn.Module, float]:
    """The teacher's net on the device, in evaluation mode, and the seconds of its training; trained only once.

    report(row) is called for every epoch, also of a stored one. Raises `UserError` if it was trained on other data of
    the same name, `Diverged` for a loss that is not finite.
    """
    data, folder = datasets.load(teacher.data, workspace), workspace.teacher(teacher.key)
    with locked(folder / "lock"), workspace.synchronised(folder) as push_if_due:
        record, state = read_json(folder / RECORD), read_weights(folder)
        if record and state:
            check_same_data(record["checksums"], teacher, folder, data)
            for row in record["rows"]:
                report(row)
            return load_net(teacher, data, workspace, state).eval(), record["seconds"]

        def on_epoch(row: EpochMetrics) -> None:
            push_if_due()
            report(row)

        plugin_copies.keep(teacher.plugins, workspace)
        write_json(folder / "trial.json", {"settings": teacher.flat(), "checksums": data.checksums})
        net, rows = train_net(teacher, data, workspace, folder, report=on_epoch)
        seconds = sum(row["seconds"] for row in rows)
        write_json(folder / RECORD, {"seconds": seconds, "rows": rows, "checksums": data.checksums})
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return net.eval(), seconds
