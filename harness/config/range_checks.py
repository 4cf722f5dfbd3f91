"""Range checks of settings, beyond their types."""

from collections.abc import Mapping

from harness.errors import UserError

_AT_LEAST = {
    **dict.fromkeys(("epochs", "steps", "restarts", "watch", "k", "topk", "points", "coarse"), 1),
    **dict.fromkeys(
        ("eps", "step", "beta", "weight", "limit", "size", "crop", "pad", "clip", "split", "weight_decay", "images"), 0
    ),
    **{"batch": 2, "teacher_seed": -1},
}
_FRACTIONS = ("alpha10", "flip", "quantile")  # in [0, 1]
_BELOW_ONE = ("momentum", "average")  # in [0, 1)


def check_bounds(settings: Mapping[str, object]) -> None:
    """Check ranges by the last part of each dotted path. Raises `UserError` for a value out of range."""
    for path, value in settings.items():
        leaf = path.rpartition(".")[2]
        values = value if isinstance(value, tuple) else (value,)
        if value is None:
            continue
        if leaf in _AT_LEAST and (not values or min(values) < _AT_LEAST[leaf]):
            raise UserError(f"{path} must be at least {_AT_LEAST[leaf]}, not {value!r}")
        if leaf == "eps" and max(values) > 1:
            raise UserError(f"{path} is on the [0, 1] scale of pixels, such as 8/255; {value!r} is beyond it")
        if leaf in _FRACTIONS and not 0 <= value <= 1:
            raise UserError(f"{path} must lie in [0, 1], not {value!r}")
        if leaf in _BELOW_ONE and not 0 <= value < 1:
            raise UserError(f"{path} must lie in [0, 1), not {value!r}")
    if settings["optim.lr"] <= 0:
        raise UserError(f"optim.lr must be positive, not {settings['optim.lr']!r}")
    if not 0 < settings["data.val"] < 1:
        raise UserError(f"data.val must lie between 0 and 1, not {settings['data.val']!r}")
