"""Names of scores: `split/metric[-strength]`, strength in 255ths, such as `test/pgd10x3-8`."""

import re

_PGD = re.compile(r"pgd(\d+)(?:x(\d+))?-(\d+(?:\.\d+)?)")
_FGSM = re.compile(r"fgsm-(\d+(?:\.\d+)?)")


def attack(score: str) -> tuple[float, int, int] | None:
    """eps (in 255ths), steps and restarts of a PGD score; None for any other."""
    found = _PGD.fullmatch(score.rpartition("/")[2])
    return (float(found[3]), int(found[1]), int(found[2] or 1)) if found else None


def label(score: str) -> str:
    """`test/pgd10x3-8` -> `PGD-10×3 8/255`; scores without strength by their own name."""
    name = score.rpartition("/")[2]
    if found := attack(name):
        eps, steps, restarts = found
        return f"{family(steps, restarts)} {eps:g}/255"
    return _FGSM.sub(r"FGSM \1/255", name)


def family(steps: int, restarts: int) -> str:
    """`PGD-10`, `PGD-10×3`."""
    return f"PGD-{steps}{f'×{restarts}' if restarts > 1 else ''}"


def place(score: str, first: str = "") -> tuple:
    """A key to sort scores by: `first`, robust, clean, then PGD by steps and eps, then the others by name."""
    name = score.rpartition("/")[2]
    head = [first.rpartition("/")[2], "robust", "clean"]
    if name in head:
        return head.index(name), 0, 0, 0.0, name
    if found := attack(name):
        eps, steps, restarts = found
        return len(head), steps, restarts, eps, name
    single = _FGSM.fullmatch(name)
    return len(head) + 1, 0, 0, float(single[1]) if single else 0.0, name
