"""Settings of the trial that trains a teacher."""

from harness.config.trial import Trial, build


def teacher_trial(trial: Trial, method: str) -> Trial:
    """The trial that trains a teacher: same data, net and epochs, and same seed unless `maps.teacher_seed` is set.

    Its optimiser settings are the data set's defaults, so that all tuned trials share one teacher.
    """
    copied = {p: v for p, v in trial.flat().items() if p.split(".")[0] in ("data", "augment", "measure")}
    same = {p: trial.flat()[p] for p in ("model", "normalise", "epochs", "batch")}
    seed = trial.seed if trial.maps.teacher_seed < 0 else trial.maps.teacher_seed
    return build({**copied, **same, "method": method, "seed": seed})
