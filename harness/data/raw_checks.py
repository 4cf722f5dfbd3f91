"""Check a data set that was read: refuse what no classifier can be trained on, and say what is doubtful."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from harness.data.readers import Part, Raw
from harness.errors import UserError, first_few

_NAMED = 3  # classes or images that a message names


def check(name: str, raw: Raw) -> None:
    """Raise `UserError` for parts, sizes, labels, images or masks that no classifier can be trained or judged by."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    sizes = [f"{part.x.shape[3]}x{part.x.shape[2]}" for part in parts]
    if len(set(sizes)) > 1:
        raise UserError(
            f"data {name!r} has images of {' in train, '.join(sizes)} in test; set one size by --set data.size=32"
        )
    for part in parts:
        _check_labels(name, part.y, len(raw.classes))
    if (raw.train.y == raw.train.y[0]).all():
        raise UserError(f"data {name!r} has training images of one class only; a classifier needs two")
    if raw.test is not None and (unseen := np.setdiff1d(raw.test.y, raw.train.y)).size:
        raise UserError(
            f"data {name!r} has test images of {_named(unseen, raw.classes)}, of which there is no training image"
        )
    if _all_equal(raw.train):
        raise UserError(f"data {name!r} has training images that are all equal")
    if _covering(raw.train) and not any((mask == 0).any() for mask in _all_masks(raw.train)):
        raise UserError(f"data {name!r} has masks that all cover their whole image: there is nothing to localise")


def doubts(raw: Raw, order: Mapping[str, np.ndarray]) -> list[str]:
    """What is doubtful in it, a line each. order: the indices of the parts train, val and test."""
    return [*_damage(raw), *_laid(raw), *_unseen(raw, order), *_masks(raw)]


def _check_labels(name: str, y: np.ndarray, classes: int) -> None:
    if not len(y):
        raise UserError(f"data {name!r} has an empty part")
    smallest, largest = y.min(), y.max()
    if smallest < 0 or largest >= classes:
        hint = ": they count from 1; subtract 1" if smallest == 1 and largest == classes else ""
        span = f"labels from {smallest} to {largest}"
        raise UserError(f"data {name!r} has {span}, but {classes} classes (0 to {classes - 1}){hint}")


def _all_equal(part: Part) -> bool:
    """Whether all images are equal, which a lost channel or a wrong scale makes of different ones."""
    whole = part.whole(np.arange(len(part.y)))
    return len(whole) > 1 and all(np.array_equal(part.x[i], part.x[whole[0]]) for i in whole)


def _covering(part: Part) -> list[int]:
    """The images whose mask covers all that is known of them."""
    return [i for i, mask in enumerate(_all_masks(part)) if (mask == 1).any() and not (mask == 0).any()]


def _all_masks(part: Part) -> Iterable[np.ndarray]:
    return () if part.masks is None else part.masks


def _damage(raw: Raw) -> Iterator[str]:
    for name, part in (("training", raw.train), ("test", raw.test)):
        if part is not None and part.damaged:
            n = len(part.damaged)
            some = "; ".join(list(part.damaged.values())[:_NAMED])
            yield f"{n} of {len(part.y)} {name} images are damaged and left out: {some}{'; ...' if n > _NAMED else ''}"


def _laid(raw: Raw) -> Iterator[str]:
    for name, part in (("training", raw.train), ("test", raw.test)):
        if part is not None and part.laid:
            yield f"{part.laid} of {len(part.y)} {name} images are transparent in places: they are laid on white"


def _unseen(raw: Raw, order: Mapping[str, np.ndarray]) -> Iterator[str]:
    seen = raw.train.y[raw.train.whole(order["train"])]
    if (unseen := np.setdiff1d(np.arange(len(raw.classes)), seen)).size:
        yield f"the training images, without those held out, have none of {_named(unseen, raw.classes)}"


def _masks(raw: Raw) -> Iterator[str]:
    for name, part in (("training", raw.train), ("test", raw.test)):
        if part is not None and (covering := _covering(part)):
            yield f"the masks of {len(covering)} of {len(part.y)} {name} images cover the whole image"


def _named(labels: np.ndarray, classes: Sequence[str]) -> str:
    names = [repr(classes[label]) for label in labels]
    return f"{'class' if len(labels) == 1 else 'the classes'} {first_few(names, _NAMED)}"
