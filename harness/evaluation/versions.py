"""Versions of measuring, one per family of metrics. Each score is stored with the version that it was measured by.

Raise a version when its metrics give other numbers for the same net. Stored test scores of an older version are then
measured anew on the stored weights; nothing is trained anew, for the version is not in the trial key.
"""

from collections.abc import Iterable, Mapping

from harness.evaluation.measurements import Combined, Family, Measurement

VERSIONS: dict[Family, int] = {
    "accuracy": 1,
    "attack": 2,
    "unseeded_attack": 1,  # those that draw none of the random numbers per image
    "attribution": 2,
    "corruption": 2,
    "localization": 2,
    "other": 1,
}


def version(item: Measurement) -> int:
    """The version by which it measures now."""
    return VERSIONS[item.family]


def by_item(items: Mapping[str, Measurement | Combined], names: Iterable[str]) -> dict[str, list[str]]:
    """Names of scores, without their split, by the item that they are of; items without any are left out."""
    starts = {start: key for key, item in items.items() for start in _starts(key, item)}
    found: dict[str, list[str]] = {}
    for name in names:
        of = [start for start in starts if name == start or name.startswith((f"{start}-", f"{start}_"))]
        if of:
            found.setdefault(starts[max(of, key=len)], []).append(name)
    return found


def _starts(key: str, item: Measurement | Combined) -> tuple[str, ...]:
    return (isinstance(item, Measurement) and item.starts) or (key,)


def missing(items: Mapping[str, Measurement | Combined], measured: Mapping[str, int]) -> list[str]:
    """The items to measure: without a score, of an older version, or computed from such a one.

    measured: the stored scores' names, without their split, and versions.
    """
    found, lacking = by_item(items, measured), set()
    for key, item in items.items():
        if isinstance(item, Measurement) and (
            key not in found
            or any(measured[name] < version(item) for name in found[key])
            or item.only_correct_after in lacking
        ):
            lacking.add(key)
    for key, item in items.items():
        if isinstance(item, Combined) and (key not in measured or not lacking.isdisjoint(item.of)):
            lacking.add(key)
    return [key for key in items if key in lacking]
