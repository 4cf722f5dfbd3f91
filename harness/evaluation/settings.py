"""Settings of the evaluation: `measure.*` and `attribution.*`; the data set's defaults override those here."""

from dataclasses import dataclass

from harness.setting_types import Count, CountOrZero, NonNegative, Positive, Strength, later


@dataclass(frozen=True)
class Measure:
    """Evaluation suites, and PGD of robust accuracy: each eps of the grid, `steps` steps of size `step`, `restarts`.

    suites: of `harness.evaluation.suites`, joined by commas; `standard` is clean and robust accuracy. step: 0 for
    2.5 * eps / steps (Madry's convention). watch: validate every `watch` epochs, on `images` validation images (0:
    all); a finished trial is always evaluated on all of them. eps_l2: of attacks in L2, a distance of images in
    [0, 1], which no grid has; 0 for what corresponds to the largest eps (`suites.eps_l2`).
    """

    eps: tuple[Strength, ...] = (8 / 255,)
    steps: Count = 10
    step: Strength = 0.0
    restarts: Count = 1
    watch: Count = 1
    images: CountOrZero = 0
    suites: tuple[str, ...] = ("standard",)
    eps_l2: NonNegative = later(0.0)


@dataclass(frozen=True)
class Attribution:
    """Attack on attributions, for the suites that measure them; see `harness.evaluation.attribution_protocols`.

    The attack changes a pixel by at most eps, in `steps` steps of `step` (0: eps / 8, which is 1/255 at 8/255), against
    the k most important pixels. images: number of correctly classified images to attack (0: all). restarts, maps: of
    the protocol `strong`. points: interpolation points of integrated gradients, from a black baseline, in the attacks
    of `strong` and `fast`; published attacks have 100, and so has every scored map. beta: sharpness of the softplus
    that replaces ReLU in the attack's surrogate.
    """

    eps: Strength = 8 / 255
    k: Count = 100
    steps: Count = 50
    step: Strength = 0.0
    images: CountOrZero = 0
    restarts: Count = 2
    points: Count = 10
    maps: tuple[str, ...] = ("integrated_gradients",)
    beta: Positive = 50.0
