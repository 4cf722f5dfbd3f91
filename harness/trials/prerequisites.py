"""What must be there before a trial runs, and is shared by all trials that need the same: teachers and their maps."""

from collections.abc import Callable
from dataclasses import dataclass

import methods
from harness.config.trial import Trial
from harness.data import datasets
from harness.storage.workspace import Workspace
from harness.training.epoch_metrics import EpochMetrics
from harness.training.map_cache import COSTS, cached_maps, map_folder, maps_key
from harness.training.settings import Maps
from harness.training.teacher_maps import Progress, Teacher, no_progress
from harness.training.training_maps import FROM_DATA, map_sources
from harness.trials import teachers
from harness.trials.nets import no_report


@dataclass(frozen=True)
class Prerequisite:
    """A trained teacher, or its saliency maps of the training images.

    teacher: the settings of the teacher. maps: those of the maps, with one saliency; None for the teacher itself.
    """

    teacher: Trial
    maps: Maps | None = None

    @property
    def key(self) -> str:
        """Twelve hex digits of the hash of all that can change it."""
        return maps_key(self.maps.saliency, self.maps, self.teacher.key) if self.maps else self.teacher.key

    def needs(self) -> list["Prerequisite"]:
        """What must be there before this is made: of maps, their teacher."""
        return [] if self.maps is None else [Prerequisite(self.teacher)]

    def is_made(self, workspace: Workspace) -> bool:
        """Whether it is stored, here or in the remote store."""
        if self.maps is None:
            return workspace.has(workspace.teacher(self.teacher.key) / teachers.RECORD)
        data = datasets.load(self.teacher.data, workspace)
        return workspace.has(map_folder(self.maps.saliency, self.maps, self.teacher.key, data, workspace) / COSTS)

    def make(
        self,
        workspace: Workspace,
        *,
        report: Callable[[EpochMetrics], None] = no_report,
        progress: Progress = no_progress,
    ) -> dict[str, float]:
        """Make it, unless it is stored. Returns the seconds that it took, by phase.

        report(row): after every epoch of a teacher. progress(images done, of all): while maps are computed.
        """
        if self.maps is None:
            return {"teacher": teacher_of(self.teacher, workspace, report).train()[1]}
        taught = teacher_of(self.teacher, workspace)  # whose epochs are not those of the maps
        data = datasets.load(self.teacher.data, workspace)
        _, seconds, _ = cached_maps(self.maps.saliency, self.maps, taught, data, workspace, progress)
        return {"maps": seconds}


def teacher_of(teacher: Trial, workspace: Workspace, report: Callable[[EpochMetrics], None] = no_report) -> Teacher:
    """A teacher as the computation of maps takes it: trained when it is asked for, unless it is stored."""
    return Teacher(teacher.key, lambda: teachers.train_teacher(teacher, workspace, report=report))


def prerequisites(trial: Trial) -> list[Prerequisite]:
    """What a trial itself needs: the maps of its teachers, or the teachers where maps are computed on each batch."""
    if not methods.reads_maps(trial.method):
        return []
    found = []
    for saliency, method in map_sources(trial.maps):
        if saliency not in FROM_DATA:
            same = {name: getattr(trial.maps, name) for name in ("target", "binarise", "quantile")}
            maps = None if trial.maps.live else Maps(saliency=saliency, teacher=method, **same)
            found.append(Prerequisite(teachers.teacher_trial(trial, method), maps))
    return list({needed.key: needed for needed in found}.values())
