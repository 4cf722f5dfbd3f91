"""Doubts about an evaluation of robustness: what may be wrong with a figure, found without knowing the truth.

    check(evidence) -> Check      found by name in CHECKS; `run` asks all of them

A check never alters a score. It passes, or doubts, or could not be asked; its sentence stands beside the score. After
Carlini et al. (2019, On Evaluating Adversarial Robustness), Athalye et al. (2018, Obfuscated Gradients) and the
warnings of Croce and Hein's AutoAttack (2020).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, permutations

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from harness import attacks
from harness.errors import Mistake
from harness.randomness import Draws

ALPHA = 0.001  # chance of a false alarm that a test over paired images is allowed
FLIPS = 0.01  # share of verdicts that rounding may turn: images that an attack left on the border
ALONE = 0.05  # share of images that another attack may break alone: PGD may end on a local maximum
STRONG = 0.01  # the same where attacks with several targets were measured, which seldom do
LEFT = 0.05  # accuracy that may be left where an attack may do what it likes
FLAT = 0.01  # share of images that may be without gradient
QUERIES = 300  # of the random search
WEAK = "gradients are masked, or the attacks by gradient too weak"


@dataclass(frozen=True)
class Check:
    """What one check found. passed None: it could not be asked. about: a sentence for the reader of the score."""

    name: str
    passed: bool | None
    numbers: dict[str, float]
    about: str


@dataclass(frozen=True)
class Evidence:
    """What an evaluation leaves to be doubted.

    model: in evaluation mode, no parameter asking for a gradient (`attacks.frozen`). x (B, C, H, W) in [0, 1] and y
    (B,): some 128 to 256 of the evaluated images. draws: theirs, on the same device. eps, step, steps: of the measured
    PGD, on the [0, 1] scale. scores: values per image of the split by score name without the split, such as `clean`,
    `pgd10x3-8`, `l2-pgd10-128`; 1 is right, 0 wrong, NaN not counted. index: which of these values belong to x; None:
    the first B. stored: by score name, attacked images of the first (or all) of x, and whether they were called right.
    other: a net of another seed on the same data, frozen too. lower: as scores, before what was found in bfloat16 was
    asked again in float32.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    draws: Draws
    eps: float
    step: float
    steps: int
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    index: np.ndarray | None = None
    stored: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    other: nn.Module | None = None
    lower: Mapping[str, np.ndarray] = field(default_factory=dict)


def check_range(x: Tensor) -> None:
    """Raise `Mistake` unless all of x lies in [0, 1], give or take 1e-6."""
    low, high = float(x.min()), float(x.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise Mistake(f"images must lie in [0, 1], not in [{low:.4g}, {high:.4g}]; a net normalises them itself")


# The net


def normalisation(evidence: Evidence) -> Check:
    """Does the net get its images normalised as in training?

    A net that was made for normalised images and gets them in [0, 1], or one that normalises them once too often, gives
    plausible figures that are too low, and eps means something else. The sign: it errs at most half as often on images
    that are normalised, by their own mean and deviation, before they reach it; or on images for which that is undone.
    (Less is no sign: a net that was trained on large perturbations may gain by more contrast.)
    """
    x, dims = evidence.x, (0, 2, 3)
    mean, std = x.mean(dims, keepdim=True), x.std(dims, keepdim=True).clamp_min(1e-3)
    here, more, less = (_right(evidence, z) for z in (x, (x - mean) / std, x * std + mean))
    p = min(_sign_test(int((there & ~here).sum()), int((here & ~there).sum())) for there in (more, less))
    halved = 1 - max(_share(more), _share(less)) <= (1 - _share(here)) / 2
    numbers = {"accuracy": _share(here), "once_more": _share(more), "once_less": _share(less), "p": p}
    facts = (
        f"{_percent(here)} right on the images as they are,"
        f" {_percent(more)} normalised once more and {_percent(less)} once less"
    )
    return _check(
        "normalisation", not halved or p >= ALPHA / 2, numbers, facts, "they do not reach the net as in training"
    )


def logits(evidence: Evidence) -> Check:
    """Does the net give probabilities where logits are asked for?

    The attack's softmax is then a second one, whose gradient vanishes where the net is sure. The sign: rows that sum to
    one, or that are logarithms of such rows.
    """
    out = _logits(evidence.model, evidence.x).double()
    sums = float((out.sum(1) - 1).abs().max())
    logs = float(out.logsumexp(1).abs().max())
    probabilities = sums < 1e-3 and float(out.min()) > -1e-3
    numbers = {"sum_off_1": sums, "logsumexp_off_0": logs}
    facts = f"the outputs' sum is up to {sums:.2g} off 1, their logsumexp up to {logs:.2g} off 0"
    given = "probabilities" if probabilities else "log-probabilities"
    passed = not probabilities and logs >= 1e-3
    return _check("logits", passed, numbers, facts, f"the net seems to give {given} instead of logits")


def deterministic(evidence: Evidence) -> Check:
    """Does an image's output depend on chance, or on the batch that the image is in?

    Under noise or dropout the gradient of one pass says little about the next: an attack that does not average over
    passes is weak. Under batch statistics an attacked image moves the verdicts of its neighbours. The sign: other
    outputs for the same images, asked again in the same batch, or two by two.
    """
    x, model = evidence.x, evidence.model
    out = _logits(model, x)
    again = _off(_logits(model, x), out)
    few = x[:8].split(2)
    pairs = _off(torch.cat([_logits(model, pair) for pair in few]), out[:8])
    numbers = {"again": again, "in_pairs": pairs}
    facts = f"outputs differ by {again:.1g} of their size when asked again, by {pairs:.1g} in batches of two"
    # A batch of another size may go by another algorithm, whose rounding differs: more is allowed there.
    doubt = "the forward pass is random" if again >= 1e-4 else "an image's output depends on its batch"
    return _check("deterministic", again < 1e-4 and pairs < 1e-3, numbers, facts, doubt)


def gradients(evidence: Evidence) -> Check:
    """Is there a gradient to climb?

    Rounding in the net, or logits so far apart that the cross-entropy's gradient underflows in float32, leave PGD where
    it starts. The sign, at a random start: gradients that are zero, not finite, or zero in over half of the places
    where that of the margin between logits is not.
    """
    x, y = evidence.x, evidence.y
    start = 2 * evidence.draws.of("gradients").uniform(*x.shape[1:]).to(x) - 1
    z = (x + evidence.eps * start).clamp(0, 1).requires_grad_(True)
    with torch.enable_grad():
        out = evidence.model(z)
        loss, margin = F.cross_entropy(out, y, reduction="none"), _margin(out, y)
        (g,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
        (m,) = torch.autograd.grad(margin.sum(), z)
    g, m = g.flatten(1), m.flatten(1)
    broken = ~g.isfinite().all(1)
    zero = (g == 0).all(1)
    lost = ((g == 0) & (m != 0)).sum(1) > (m != 0).sum(1) / 2
    bad = zero | broken | lost
    numbers = {"zero": _share(zero), "not_finite": _share(broken), "underflow": _share(lost & ~zero)}
    facts = (
        f"the gradient of the loss is zero for {_percent(zero)} of the images, not finite for {_percent(broken)},"
        f" underflows for {_percent(lost & ~zero)}"
    )
    return _check("gradients", _share(bad) <= FLAT, numbers, facts, "attacks by gradient cannot succeed there")


# The attack


def reach(evidence: Evidence) -> Check:
    """Can the attack cross its ball? Where steps times step is less than eps, it cannot reach the border from x."""
    if not evidence.eps:
        return _not_asked("reach", "eps is 0")
    far = evidence.steps * evidence.step / evidence.eps
    facts = f"{evidence.steps} steps of {255 * evidence.step:.4g}/255 go {far:.2f} times eps"
    return _check("reach", far >= 1 - 1e-6, {"reach": far}, facts, "too few steps, or too small ones")


def zero_eps(evidence: Evidence) -> Check:
    """Is an attack that may change nothing harmless?

    At eps 0 every image must get its clean verdict, from this net and in every stored score: else another net, another
    preparation of the images or another order of them was measured.
    """
    clean = evidence.scores.get("clean")
    if clean is None:
        return _not_asked("zero_eps", "clean accuracy was not measured")
    z = attacks.pgd(evidence.model, evidence.x, evidence.y, eps=0, step=evidence.step, steps=1)
    here = _right(evidence, z).float().cpu().numpy()
    pairs = [(here, _of_x(evidence, clean))]
    pairs += [(evidence.scores[n.text], clean) for n in _names(evidence.scores) if n.strength == 0]
    passed, share = min(_same(*_both(a, b)) for a, b in pairs)
    facts = f"at eps 0, {abs(share):.1%} of the verdicts are not the clean ones"
    return _check("zero_eps", passed, {"differing": abs(share)}, facts, "net, images or their order differ")


def unbounded(evidence: Evidence) -> Check:
    """Does an attack succeed that may change all of the image?

    Ten steps within eps 1, from the image itself, reach any image there is, so accuracy must fall to about 0. Where it
    does not, the attack fails and not the image withstands.
    """
    z = attacks.pgd(evidence.model, evidence.x, evidence.y, eps=1.0, step=0.25, steps=10, start="none")
    left = _right(evidence, evidence.x) & _right(evidence, z)
    facts = f"PGD within eps 1 leaves {_percent(left)} right"
    return _check("unbounded", _share(left) <= LEFT, {"accuracy": _share(left)}, facts, "the attack does not work")


def convergence(evidence: Evidence) -> Check:
    """Would a longer attack have found much more? PGD with five times the steps, against what was measured."""
    steps = 5 * evidence.steps
    z = _pgd(evidence, evidence.model, "convergence", 2.5 * evidence.eps / steps, steps)
    what, doubt = f"PGD with {steps} steps", "the measured attack was cut short"
    return _compared("convergence", what, evidence, z, _measured(evidence), doubt)


# The scores


def falls_with_eps(evidence: Evidence) -> Check:
    """Does a larger eps ever help the net?

    Each ball holds the smaller ones, so accuracy can only fall, from clean at 0 on. Asked of every attack that iterates
    (a single step may overshoot), image by image, and doubted where more images recover than chance allows.
    """
    scores = evidence.scores
    names = sorted((n for n in _names(scores) if n.attack != "fgsm"), key=lambda n: n.strength)
    clean = ["clean"] if "clean" in scores else []
    grids = [clean + [n.text for n in names if n.family == family] for family in dict.fromkeys(n.family for n in names)]
    pairs = [pair for grid in grids for pair in pairwise(grid)]
    return _never_rises("falls_with_eps", scores, pairs, "no attack was measured at two strengths", "a larger eps")


def falls_with_effort(evidence: Evidence) -> Check:
    """Do more steps or more restarts ever help the net? Doubted where more images recover than chance allows."""
    names = _names(evidence.scores)
    pairs = [(a.text, b.text) for a, b in permutations(names, 2) if b.tries_harder(a)]
    why = "no attack was measured with two numbers of steps or restarts"
    return _never_rises("falls_with_effort", evidence.scores, pairs, why, "more steps or restarts")


def one_step(evidence: Evidence) -> Check:
    """Did training overfit to attacks of a single step (Wong et al., 2020: catastrophic overfitting)?

    The sign, at some eps: FGSM leaves over two thirds of clean accuracy, and PGD less than half of what FGSM leaves.
    """
    scores = evidence.scores
    mean = {name: _mean(values) for name, values in scores.items() if not np.isnan(values).all()}
    steps = [(a, b) for a, b in permutations(_names(mean), 2) if (a.attack, b.attack) == ("fgsm", "pgd")]
    steps = [(a.text, b.text) for a, b in steps if a.within(b.norm, b.strength)]
    if not steps or "clean" not in mean:
        return _not_asked("one_step", "clean accuracy, FGSM and PGD at one eps were not all measured")
    clean = mean["clean"]
    found = [(mean[a] <= clean * 2 / 3 or mean[b] >= mean[a] / 2, mean[b] - mean[a], a, b) for a, b in steps]
    passed, _, a, b = min(found)
    numbers = {"clean": clean, "fgsm": mean[a], "pgd": mean[b]}
    facts = f"{mean[a]:.1%} right under {a}, {mean[b]:.1%} under {b}, {clean:.1%} clean"
    return _check("one_step", passed, numbers, facts, "the net withstands single steps only")


def black_box(evidence: Evidence) -> Check:
    """Does Square, which sees no gradient, find more than all attacks that do, at the same eps?

    Then gradients mislead. Doubted where it breaks more images in all than chance allows, or many that they miss; in
    AutoAttack (`aa`) it is given only what the others left, and the second alone is asked.
    """
    scores, found = evidence.scores, []
    for square in (n for n in _names(scores) if n.attack in _BLACK):
        white, strong = _by_gradient(scores, square.norm, square.strength)
        a, b = _both(white, scores[square.text]) if white is not None else ((), ())
        if len(a):
            alone = int((a > b).sum())
            p = _sign_test(alone, int((a < b).sum())) if square.attack == "square" else 1.0
            passed = p >= ALPHA and not _more_than(STRONG if strong else ALONE, alone, len(a))
            found.append((passed, -alone / len(a), p, _mean(a), _mean(b), square.text))
    if not found:
        return _not_asked("black_box", "Square and an attack by gradient were not measured at one eps")
    passed, alone, p, white, black, name = min(found)
    numbers = {"white_box": white, "black_box": black, "alone": abs(alone), "p": p}
    facts = f"{black:.1%} right under {name}, {white:.1%} under gradients, {abs(alone):.1%} broken by {name} alone"
    return _check("black_box", passed, numbers, facts, WEAK)


def random_search(evidence: Evidence) -> Check:
    """Does a search without gradients, of a few hundred queries, break what attacks by gradient did not?

    Asked where Square was not measured. The search is far too short to find much, so whatever it finds alone counts.
    """
    if any(n.attack in _BLACK and n.within("linf", 255 * evidence.eps) for n in _names(evidence.scores)):
        return _not_asked("random_search", "Square was measured and is asked instead")
    z, white = evidence.x.clone(), _measured(evidence)
    (left,) = white.nonzero(as_tuple=True)
    if len(left):
        draws = evidence.draws.of("random_search").at(left)
        z[left] = _squares(evidence.model, z[left], evidence.y[left], evidence.eps, draws)
    return _compared("random_search", f"a random search of {QUERIES} queries", evidence, z, white, WEAK)


def transfer(evidence: Evidence) -> Check:
    """Do images made against another seed's net break more than those made against this one?

    Then this one's gradients mislead: knowing the net cannot hurt. (PGD, at most ten steps.)
    """
    if evidence.other is None:
        return _not_asked("transfer", "no net of another seed was at hand")
    steps = min(evidence.steps, 10)
    z = _pgd(evidence, evidence.other, "transfer", 2.5 * evidence.eps / steps, steps)
    return _compared("transfer", "PGD on another seed's net", evidence, z, _measured(evidence), WEAK)


# What was claimed


def repeats(evidence: Evidence) -> Check:
    """Do stored attacked images get the verdicts that were claimed for them, and keep to the attack's limits?

    Limits: [0, 1], and the ball around x that the score's name states.
    """
    if not evidence.stored:
        return _not_asked("repeats", "no attacked images were stored")
    differing, outside = [], []
    for name, (z, claimed) in evidence.stored.items():
        found = (_logits(evidence.model, z).argmax(1) == evidence.y[: len(z)]).float().cpu().numpy()
        differing.append((*_same(found, claimed.float().cpu().numpy()), name))
        delta = (z - evidence.x[: len(z)]).flatten(1)
        out = ((z < -1e-6) | (z > 1 + 1e-6)).flatten(1).any(1)
        for n in _names([name]):
            size = delta.norm(dim=1) if n.norm == "l2" else delta.abs().amax(1)
            out |= size > n.strength / 255 * (1 + 1e-4) + 1e-6
        outside.append((_share(out), name))
    (same, share, verdict), (beyond, limit) = min(differing), max(outside)
    numbers = {"differing": abs(share), "outside": beyond}
    facts = (
        f"asked again, {abs(share):.1%} of the verdicts of {verdict} differ;"
        f" {beyond:.1%} of the images of {limit} leave their limits"
    )
    return _check("repeats", same and not beyond, numbers, facts, "the score does not rest on these images")


def float32(evidence: Evidence) -> Check:
    """Does float32 confirm what was found in bfloat16?

    An image broken by rounding alone is not broken. Where this is frequent, the search looked at another net.
    """
    found = []
    for name in evidence.lower.keys() & evidence.scores.keys():
        full, lower = _both(evidence.scores[name], evidence.lower[name])
        found.append((*_same(full, np.minimum(full, lower)), name))
    if not found:
        return _not_asked("float32", "nothing was searched in bfloat16")
    passed, share, name = min(found)
    facts = f"of all images, {abs(share):.1%} were broken in bfloat16 and not in float32 by {name}"
    return _check("float32", passed, {"unconfirmed": abs(share)}, facts, "the search was too coarse")


# Names of scores


@dataclass(frozen=True)
class _Name:
    """An attack's score: what its name says. strength in 255ths; steps 0 and restarts 1 where it does not."""

    text: str
    norm: str
    attack: str
    steps: int
    restarts: int
    strength: float

    @property
    def family(self) -> tuple[str, str, int, int]:
        return self.norm, self.attack, self.steps, self.restarts

    def within(self, norm: str, strength: float) -> bool:
        return self.norm == norm and abs(self.strength - strength) <= 1e-5 * strength  # names have six digits

    def tries_harder(self, than: "_Name") -> bool:
        same = self.attack == than.attack and self.within(than.norm, than.strength)
        more = self.steps >= than.steps and self.restarts >= than.restarts and self.family != than.family
        return same and more


_NAME = re.compile(
    r"(?P<norm>l2-)?(?P<attack>(aa-)?(fgsm|pgd|apgd-ce|apgd-t|fab-t|square)|aa)(?P<steps>\d+)?(x(?P<restarts>\d+))?"
    r"-(?P<strength>\d+(\.\d+)?(e-\d+)?)"
)


def _names(scores: Iterable[str]) -> list[_Name]:
    """Those of the names that are attacks of a stated strength."""
    found = [match for match in map(_NAME.fullmatch, scores) if match]
    return [
        _Name(
            match[0],
            "l2" if match["norm"] else "linf",
            match["attack"],
            int(match["steps"] or 0),
            int(match["restarts"] or 1),
            float(match["strength"]),
        )
        for match in found
    ]


_BLACK = ("square", "aa")  # AutoAttack's last is Square


def _by_gradient(scores: Mapping[str, np.ndarray], norm: str, strength: float) -> tuple[np.ndarray | None, bool]:
    """Per image, whether right after every attack by gradient of that norm and strength in 255ths; None: none is.

    And whether one of them had several targets.
    """
    names = [n for n in _names(scores) if n.attack not in _BLACK and n.within(norm, strength)]
    if not names:
        return None, False
    return np.min([scores[n.text] for n in names], axis=0), any(n.attack.endswith("-t") for n in names)


# Verdicts


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).float()


def _off(a: Tensor, b: Tensor) -> float:
    """The largest distance between rows of a and b, as a share of b's length."""
    return float(((a - b).norm(dim=1) / (b.norm(dim=1) + 1e-10)).max())


def _right(evidence: Evidence, z: Tensor) -> Tensor:
    return _logits(evidence.model, z).argmax(1) == evidence.y


def _margin(out: Tensor, y: Tensor) -> Tensor:
    """The label's logit less the best other one. (B,)"""
    label = F.one_hot(y, out.shape[1]).bool()
    return out[label] - out.masked_fill(label, -torch.inf).amax(1)


def _of_x(evidence: Evidence, values: np.ndarray) -> np.ndarray:
    return values[: len(evidence.x)] if evidence.index is None else values[evidence.index]


def _measured(evidence: Evidence) -> Tensor:
    """Which of x are right after the measured attacks by gradient within eps; after PGD where none is stored. (B,)"""
    values, _ = _by_gradient(evidence.scores, "linf", 255 * evidence.eps)
    if values is not None and not np.isnan(values := _of_x(evidence, values)).any():
        return torch.from_numpy(values > 0.5).to(evidence.x.device)
    z = _pgd(evidence, evidence.model, "measured", evidence.step, evidence.steps)
    return _right(evidence, evidence.x) & _right(evidence, z)


def _pgd(evidence: Evidence, model: nn.Module, stream: str, step: float, steps: int) -> Tensor:
    draws = evidence.draws.of(stream)
    return attacks.pgd(model, evidence.x, evidence.y, eps=evidence.eps, step=step, steps=steps, draws=draws)


def _squares(model: nn.Module, x: Tensor, y: Tensor, eps: float, draws: Draws) -> Tensor:
    """Random search on the margin: squares of one sign per channel at the ball's border, ever smaller, kept if better.

    A short form of Square Attack (Andriushchenko et al., 2020), which also gives the start: stripes of one column.
    """
    c, h, w = x.shape[1:]
    z = (x + eps * draws.integers(0, 2, c, 1, w).mul(2).sub(1).to(x)).clamp(0, 1)
    corners, signs = draws.uniform(QUERIES, 2).to(x), draws.integers(0, 2, QUERIES, c).mul(2).sub(1).to(x)
    best = _margin(_logits(model, z), y)
    rows, columns = torch.arange(h, device=x.device).view(1, h, 1), torch.arange(w, device=x.device).view(1, 1, w)
    for query in range(QUERIES):
        (todo,) = (best > 0).nonzero(as_tuple=True)
        if not len(todo):
            break
        side = max(1, round((0.3 * h * w) ** 0.5 * (1 - query / QUERIES)))
        top, left = ((corners[todo, query] * torch.tensor([h - side + 1, w - side + 1]).to(corners)).long()).unbind(1)
        top, left = top.view(-1, 1, 1), left.view(-1, 1, 1)
        within = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        shifted = (x[todo] + eps * signs[todo, query].view(-1, c, 1, 1)).clamp(0, 1)
        tried = torch.where(within.unsqueeze(1), shifted, z[todo])
        margin = _margin(_logits(model, tried), y[todo])
        better = margin < best[todo]
        z[todo[better]], best[todo[better]] = tried[better], margin[better]
    return z


# Verdicts on scores


def _check(name: str, passed: bool, numbers: dict[str, float], facts: str, doubt: str) -> Check:
    return Check(name, passed, numbers, facts if passed else f"{facts}: {doubt}")


def _not_asked(name: str, why: str) -> Check:
    return Check(name, None, {}, f"not asked: {why}")


def _compared(name: str, what: str, evidence: Evidence, z: Tensor, white: Tensor, doubt: str) -> Check:
    """Whether z breaks, beyond chance and a tolerance, images that the measured attacks left right (white)."""
    other = _right(evidence, evidence.x) & _right(evidence, z)
    alone = white & ~other
    numbers = {"measured": _share(white), "other": _share(other), "alone": _share(alone)}
    facts = f"{what} alone breaks {_percent(alone)} of the images, {_percent(white)} being right as measured"
    return _check(name, not _more_than(ALONE, int(alone.sum()), len(alone)), numbers, facts, doubt)


def _never_rises(
    name: str, scores: Mapping[str, np.ndarray], pairs: list[tuple[str, str]], why: str, what: str
) -> Check:
    """Whether, of any pair (weaker, stronger) of scores, the stronger leaves more right than chance explains."""
    found = []
    for weaker, stronger in pairs:
        a, b = _both(scores[weaker], scores[stronger])
        if len(a):
            p = _sign_test(int((b > a).sum()), int((b < a).sum()))
            found.append((p, _mean(a), _mean(b), weaker, stronger))
    if not found:
        return _not_asked(name, why)
    p, before, after, weaker, stronger = min(found)
    numbers = {"weaker": before, "stronger": after, "p": p}
    facts = f"{before:.1%} right under {weaker}, {after:.1%} under {stronger}"
    return _check(name, p >= ALPHA / len(found), numbers, facts, f"{what} cannot help the net")


def _both(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of the images that both count."""
    counted = ~(np.isnan(a) | np.isnan(b))
    return a[counted], b[counted]


def _mean(values: np.ndarray) -> float:
    """The mean of those that count."""
    return float(values[~np.isnan(values)].mean(dtype=np.float64))


def _sign_test(against: int, towards: int) -> float:
    """One-sided p of so many pairs going against what is expected, were both ways as likely."""
    n = against + towards
    return float(binomtest(against, n, 0.5, "greater").pvalue) if n else 1.0


def _more_than(share: float, count: int, n: int) -> bool:
    """Whether so many of n are more than that share beyond chance."""
    return n > 0 and binomtest(count, n, share, "greater").pvalue < ALPHA


def _same(a: np.ndarray, b: np.ndarray) -> tuple[bool, float]:
    """Whether verdicts agree but for a few on the border, and minus the share that differ: the least is worst."""
    differing = int((a != b).sum())
    return differing <= max(1, FLIPS * len(a)), -differing / max(1, len(a))


def _share(which: Tensor) -> float:
    return float(which.float().mean())


def _percent(which: Tensor) -> str:
    return f"{_share(which):.1%}"


CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "normalisation": normalisation,
    "logits": logits,
    "deterministic": deterministic,
    "gradients": gradients,
    "reach": reach,
    "zero_eps": zero_eps,
    "unbounded": unbounded,
    "falls_with_eps": falls_with_eps,
    "falls_with_effort": falls_with_effort,
    "one_step": one_step,
    "black_box": black_box,
    "transfer": transfer,
    "repeats": repeats,
    "float32": float32,
    "convergence": convergence,
    "random_search": random_search,
}
EXPENSIVE = frozenset({"convergence", "random_search"})  # the others together: some 25 gradients per image


def run(evidence: Evidence, *, expensive: bool = True) -> list[Check]:
    """What every check says, in the order of CHECKS. Raises `Mistake` where the images do not lie in [0, 1]."""
    check_range(evidence.x)
    return [check(evidence) for name, check in CHECKS.items() if expensive or name not in EXPENSIVE]
