"""Every failure that a check is for, planted; and sound nets, on which every check must be silent."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from oracles import Wrapped
from torch import nn
from torch.nn import functional as F

from harness.attacks import pgd
from harness.config.trial import build
from harness.data import datasets
from harness.errors import UserError
from harness.evaluation.checks import gradient_masking, preprocessing
from harness.evaluation.checks.attack_strength import convergence, reach, repeats, unbounded
from harness.evaluation.checks.evidence import Evidence, check_range
from harness.evaluation.checks.registry import CHECKS, EXPENSIVE, run
from harness.evaluation.checks.score_consistency import falls_with_effort, falls_with_eps, float32, one_step, zero_eps
from harness.models import freezing
from harness.randomness import PerImageRng
from harness.trials import run as trial_run

EPS, STEPS = 32 / 255, 10
STEP = 2.5 * EPS / STEPS
TRAINING = {"epochs": 8, "measure.eps": (EPS,), "measure.steps": 2, "measure.watch": 100, "method.crafting": "eval"}
ADVERSARIAL = {"method": "pgd", "method.eps": EPS, "method.step": EPS / 2, "method.steps": 3, "epochs": 6}


@pytest.fixture(scope="module")
def nets(shared_workspace):
    """A function from settings to a net trained on the digits, frozen; each is trained once."""
    trained = {}

    def net(**settings):
        key = tuple(sorted(settings.items()))
        if key not in trained:
            given = {**TRAINING, **settings}
            if settings.get("method") != "pgd":
                del given["method.crafting"]
            trained[key] = trial_run.trained_model(build(given), shared_workspace)[0].eval().requires_grad_(False)
        return trained[key]

    return net


@pytest.fixture(scope="module")
def digits(shared_workspace):
    split = datasets.load(build({}).data, shared_workspace).test
    return split.x.float().div(255)[:256], split.y[:256]


@pytest.fixture(scope="module", params=["standard", pytest.param("pgd", marks=pytest.mark.slow)])
def sound(request, nets, digits):
    """All the evidence of a sound net."""
    settings = ADVERSARIAL if request.param == "pgd" else {}
    return measured(nets(**settings), nets(**settings, seed=1), *digits)


@pytest.fixture(scope="module")
def found(sound):
    """What every check says of a sound net."""
    return {check.name: check for check in run(sound)}


@pytest.fixture(scope="module")
def standard(nets, digits):
    return measured(nets(), nets(seed=1), *digits)


def right(model, z, y):
    with torch.no_grad():
        return (model(z).argmax(1) == y).float()


def pgd_of(model, x, y, eps, step, steps, seed=0):
    return pgd.pgd(model, x, y, eps=eps, step=step, steps=steps, draws=PerImageRng(torch.arange(len(x)) + 1000 * seed))


def measured(model, other, x, y, step=STEP, steps=STEPS, grid=(16, 32, 48)) -> Evidence:
    """An evaluation of the model: clean, FGSM and PGD on a grid, what PGD found, and the same in bfloat16."""
    clean = right(model, x, y)
    scores, stored = {"clean": clean}, {}
    for strength in grid:
        ball = {"eps": strength / 255, "step": step * strength / 32, "steps": steps}
        z, again = (pgd_of(model, x, y, **ball, seed=seed) for seed in (0, 1))
        stored[f"pgd{steps}-{strength}"] = (z, right(model, z, y))
        scores[f"pgd{steps}-{strength}"] = clean * right(model, z, y)
        scores[f"pgd{steps}x2-{strength}"] = clean * right(model, z, y) * right(model, again, y)
        scores[f"fgsm-{strength}"] = clean * right(model, pgd.fgsm(model, x, y, eps=strength / 255), y)
    low = copy.deepcopy(model).bfloat16()
    z = pgd_of(lambda z: low(z.bfloat16()).float(), x, y, EPS, step, steps, seed=2)
    scores["pgd20-32"] = clean * right(model, z, y)
    scores["strong-gradient-in"] = clean  # the checks of maps read no more of it than its name
    lower = {"pgd20-32": (clean * right(low, z.bfloat16(), y)).numpy()}
    scores = {name: values.numpy() for name, values in scores.items()}
    return Evidence(
        model, x, y, PerImageRng(torch.arange(len(x))), EPS, step, steps, scores, None, stored, other, lower
    )


def with_scores(evidence, **scores):
    """The evidence with scores laid over; `pgd10_32` stands for the name `pgd10-32`."""
    named = {name.replace("_", "-"): np.asarray(values, np.float32) for name, values in scores.items()}
    return dataclasses.replace(evidence, scores={**evidence.scores, **named})


def only(evidence, **scores):
    return with_scores(dataclasses.replace(evidence, scores={}), **scores)


def share(accuracy, n=256):
    """The first so many images right."""
    return (np.arange(n) < round(accuracy * n)).astype(np.float32)


def doubted(evidence):
    return {check.name for check in run(evidence) if check.passed is False}


# Sound nets


def test_every_check_is_silent_on_a_sound_net(found):
    assert list(found) == list(CHECKS)
    assert {name for name, check in found.items() if check.passed is False} == set(), found
    assert {name for name, check in found.items() if check.passed is None} == {"black_box"}


def test_a_check_says_its_numbers_and_one_sentence(found):
    for check in found.values():
        assert check.about and "\n" not in check.about
        assert all(type(number) is float for number in check.numbers.values())
        assert bool(check.numbers) == (check.passed is not None)
        assert "-0.0" not in check.about


@pytest.mark.sample("standard-0")
@pytest.mark.parametrize("seed", range(4))
def test_no_false_alarm_on_few_images_whatever_the_random_start(sound, seed):
    few = torch.arange(32 * seed, 32 * (seed + 1))
    evidence = measured(sound.model, sound.other, sound.x[few], sound.y[few])
    evidence = dataclasses.replace(evidence, draws=PerImageRng(few + 100 * seed))
    assert doubted(evidence) == set()


def test_independent_noise_on_equal_accuracies_is_no_alarm():
    """300 evaluations whose attacks are all equally strong; each verdict is its own coin."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(300):
        chance = rng.uniform(0, 1, 128)
        names = ("pgd10-2", "pgd10-4", "pgd10-8", "pgd20-8", "pgd20x3-8", "pgd10x5-8")
        scores = {name: (rng.uniform(size=128) < chance).astype(np.float32) for name in names}
        evidence = Evidence(nn.Identity(), torch.zeros(128), torch.zeros(128), None, 0.1, 0.1, 1, scores)
        alarms += not falls_with_eps(evidence).passed
        alarms += not falls_with_effort(evidence).passed
    assert alarms <= 3  # at most 0.6 are expected of 600


def test_cheap_checks_cost_less_than_31_passes(standard):
    images = {"forward": 0, "backward": 0}

    class Counted(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            images["backward" if x.requires_grad else "forward"] += len(x)
            return self.net(x)

    counted = dataclasses.replace(standard, model=Counted(standard.model), other=Counted(standard.other))
    names = [check.name for check in run(counted, expensive=False)]
    assert names == [name for name in CHECKS if name not in EXPENSIVE]
    assert images["backward"] + images["forward"] / 2 < 31 * len(standard.x)


def test_the_net_is_left_as_it_was_and_answers_repeat(standard):
    before = {k: v.clone() for k, v in standard.model.state_dict().items()}
    assert run(standard, expensive=False) == run(standard, expensive=False)
    assert all(torch.equal(v, before[k]) for k, v in standard.model.state_dict().items())


def test_without_scores_what_needs_the_net_alone_is_still_asked(standard):
    bare = Evidence(standard.model, standard.x, standard.y, standard.draws, EPS, STEP, STEPS)
    passed = {check.name: check.passed for check in run(bare)}
    asked = {
        "finite",
        "normalisation",
        "chance",
        "logits",
        "deterministic",
        "gradients",
        "reach",
        "unbounded",
        *EXPENSIVE,
    }
    asked -= {"every_layer"}  # of the maps that were scored
    assert passed == {name: True if name in asked else None for name in CHECKS}


# Range


@pytest.mark.parametrize("low, high", [(0, 1), (-9e-7, 1 + 9e-7)])
def test_rounding_is_no_breach_of_the_range(low, high):
    check_range(torch.tensor([low, 0.5, high], dtype=torch.float64))


@pytest.mark.parametrize("bad", [-2e-6, 1 + 2e-6, 255.0, float("nan")])
def test_images_outside_the_range_are_refused(standard, bad):
    x = standard.x.clone()
    x[3, 0, 2, 2] = bad
    with pytest.raises(UserError, match=r"images must lie in \[0, 1\]"):
        run(dataclasses.replace(standard, x=x))


# The net


def test_a_net_made_for_normalised_images(nets, digits, standard):
    net = copy.deepcopy(nets(normalise=True))
    assert preprocessing.normalisation(dataclasses.replace(standard, model=net)).passed
    net.normalised_by(torch.zeros(1), torch.ones(1))  # its user should have
    check = preprocessing.normalisation(dataclasses.replace(standard, model=net))
    assert not check.passed and check.numbers["once_more"] > check.numbers["accuracy"]


def test_a_net_that_normalises_once_too_often(standard):
    x = standard.x
    twice = Wrapped(standard.model, before=lambda z: (z - x.mean()) / x.std())
    check = preprocessing.normalisation(dataclasses.replace(standard, model=twice))
    assert not check.passed and check.numbers["once_less"] > check.numbers["accuracy"]


def test_a_net_that_gains_by_more_contrast_is_no_doubt(standard):
    """As nets do that were trained on large perturbations: 160 of 256 right, 186 after normalising."""

    def model(x):
        right = torch.arange(len(x)) < (186 if x.min() < 0 else 160)
        return F.one_hot(torch.where(right, standard.y, (standard.y + 1) % 10), 10).float()

    check = preprocessing.normalisation(dataclasses.replace(standard, model=model))
    assert check.passed and check.numbers["p"] < 1e-6


@pytest.mark.parametrize("kind", ["probabilities", "log-probabilities"])
def test_probabilities_for_logits(standard, kind):
    after = {"probabilities": lambda o: o.softmax(1), "log-probabilities": lambda o: o.log_softmax(1)}[kind]
    check = preprocessing.logits(dataclasses.replace(standard, model=Wrapped(standard.model, after=after)))
    assert check.passed is False and f"give {kind}" in check.about


def noisy(net):
    return Wrapped(net, before=lambda x: x + 0.01 * torch.randn_like(x))


def dropping(net):
    return Wrapped(net, before=lambda x: F.dropout(x, 0.1, training=True))


def rarely_noisy(net):
    return Wrapped(net, after=lambda out: out + 0.5 * (torch.rand(len(out), 1) < 0.05) * torch.randn_like(out))


@pytest.mark.parametrize("plant", [noisy, dropping, rarely_noisy])
def test_a_random_forward_pass(standard, plant):
    check = preprocessing.deterministic(dataclasses.replace(standard, model=plant(standard.model)))
    assert check.passed is False and "random" in check.about


def test_batch_statistics(standard):
    with freezing.frozen(copy.deepcopy(standard.model), train=True) as net:
        check = preprocessing.deterministic(dataclasses.replace(standard, model=net))
    assert check.passed is False and "depends on its batch" in check.about and check.numbers["again"] == 0


def quantised(net):
    return Wrapped(net, before=lambda x: (8 * x).round() / 8)


def huge(net):
    return Wrapped(net, after=lambda out: 1e4 * out)


def sawtooth(net):
    """Hardly another net, but its gradient points anywhere."""
    return Wrapped(net, before=lambda x: x + 0.02 * torch.sin(2000 * x))


@pytest.mark.sample("huge")
@pytest.mark.parametrize("plant", [quantised, huge])
def test_masked_gradients(standard, plant):
    evidence = measured(plant(standard.model), standard.other, standard.x, standard.y, grid=(32,))
    assert gradient_masking.gradients(evidence).numbers["zero"] > 0.5
    for check in (
        gradient_masking.gradients,
        unbounded,
        gradient_masking.random_search,
        gradient_masking.transfer,
    ):
        assert check(evidence).passed is False
    # An honest figure of the same net would have been that of the net within: it is far from it.
    true, claimed = (e.scores["pgd10-32"].mean() for e in (standard, evidence))
    assert claimed > true + 0.3


@pytest.mark.slow
def test_gradients_that_mislead_without_being_zero(standard):
    evidence = measured(sawtooth(standard.model), standard.other, standard.x, standard.y, grid=(32,))
    assert gradient_masking.gradients(evidence).passed  # nothing to see there
    assert gradient_masking.random_search(evidence).passed is False
    assert gradient_masking.transfer(evidence).passed is False


def test_gradients_lost_by_few_images(standard):
    faint = standard.x.flatten(1).mean(1) < standard.x.flatten(1).mean(1).quantile(0.04)
    x = standard.x.clone()
    x[faint, 0, 0, 0] = 1  # marks them
    net = Wrapped(standard.model, before=lambda z: torch.where(z[:, :1, :1, :1] > 0.7, z.detach(), z))
    check = gradient_masking.gradients(dataclasses.replace(standard, model=net, x=x))
    assert check.passed is False
    assert check.numbers["zero"] == pytest.approx(float(faint.float().mean()))


def test_gradients_that_are_not_finite(standard):
    net = Wrapped(standard.model, before=lambda x: x + 0 * (x - x).sqrt())
    check = gradient_masking.gradients(dataclasses.replace(standard, model=net))
    assert check.passed is False and check.numbers["not_finite"] == 1


def test_gradients_that_underflow(standard):
    """Between a margin of 88 and one of 103 float32 loses digits of the probabilities, and beyond all of them."""
    x, model = standard.x, standard.model
    with torch.no_grad():
        out = model(x)
    margin = (out.gather(1, standard.y[:, None]).squeeze(1) - out.topk(2).values[:, 1]).median()
    for scale, passed in ((20 / margin, True), (300 / margin, False)):
        net = Wrapped(model, after=lambda out, scale=scale: scale * out)
        assert gradient_masking.gradients(dataclasses.replace(standard, model=net, eps=1e-3)).passed is passed


# The attack


@pytest.mark.parametrize("step, passed", [(EPS / STEPS, True), (0.9 * EPS / STEPS, False)])
def test_steps_that_do_not_reach_the_border(standard, step, passed):
    assert reach(dataclasses.replace(standard, step=step)).passed is passed


@pytest.mark.parametrize(
    "steps, step, passed", [(STEPS, 2, True), (STEPS, 2.1, False), (STEPS, 30, False), (1, 2.5, True)]
)
def test_steps_that_cross_the_whole_ball(standard, steps, step, passed):
    """A step given in 255ths of 255ths, or for another eps; a single step may end in a corner."""
    check = reach(dataclasses.replace(standard, step=step * EPS, steps=steps))
    assert check.passed is passed and check.about.endswith("crosses the whole ball") is not passed


def test_an_attack_that_is_cut_short(standard):
    weak = measured(standard.model, standard.other, standard.x, standard.y, step=EPS / 50, steps=5, grid=(32,))
    assert not reach(weak).passed and not convergence(weak).passed
    assert reach(standard).passed and convergence(standard).passed


def test_scores_of_another_net(standard, digits):
    assert zero_eps(standard).passed
    clean = standard.scores["clean"].copy()
    clean[:3] = 1 - clean[:3]
    assert not zero_eps(with_scores(standard, clean=clean)).passed
    assert not zero_eps(with_scores(standard, clean=right(Wrapped(standard.model, after=shifted), *digits))).passed


def shifted(out):
    return out.roll(1, 1)


@pytest.mark.parametrize("turned, images, passed", [(1, 32, True), (2, 32, False), (2, 256, True), (3, 256, False)])
def test_few_verdicts_on_the_border_are_no_doubt(standard, turned, images, passed):
    clean = standard.scores["clean"].copy()
    clean[:turned] = 1 - clean[:turned]
    some = dataclasses.replace(standard, x=standard.x[:images], y=standard.y[:images])
    assert zero_eps(with_scores(some, clean=clean)).passed is passed


def test_an_attack_that_harms_at_eps_0(standard):
    clean = standard.scores["clean"]
    assert zero_eps(with_scores(standard, pgd10_0=clean)).passed
    assert not zero_eps(with_scores(standard, pgd10_0=clean * (np.arange(256) % 20 > 0))).passed


def test_index_says_which_scores_belong_to_the_images(standard):
    index = np.random.default_rng(0).permutation(256)[:64]
    some = dataclasses.replace(standard, x=standard.x[index], y=standard.y[index], index=index, stored={})
    some = dataclasses.replace(some, draws=standard.draws.select(torch.from_numpy(index)))
    assert doubted(some) == set()
    clean = standard.scores["clean"].copy()
    clean[index[:5]] = 1 - clean[index[:5]]
    assert zero_eps(with_scores(some, clean=clean)).numbers["differing"] == pytest.approx(5 / 64)


# The scores


def test_accuracy_that_rises_with_eps(standard):
    falling = only(standard, clean=share(0.9), pgd10_4=share(0.7), pgd10_8=share(0.5), pgd10_16=share(0.2))
    assert falls_with_eps(falling).passed
    check = falls_with_eps(with_scores(falling, pgd10_16=share(0.6)))
    assert check.passed is False and "50.0% right under pgd10-8, 60.2% under pgd10-16" in check.about
    assert not falls_with_eps(with_scores(falling, l2_pgd10_64=share(0.2), l2_pgd10_128=share(0.3))).passed
    assert not falls_with_eps(with_scores(falling, clean=share(0.6))).passed


def test_strengths_are_compared_as_numbers_and_within_one_attack(standard):
    mixed = {"pgd10_8": share(0.5), "pgd10_16": share(0.3), "pgd10_4": share(0.7)}
    assert falls_with_eps(only(standard, **mixed)).passed
    assert falls_with_eps(only(standard, **mixed, square_32=share(0.6))).passed
    assert falls_with_eps(only(standard, **mixed, fgsm_8=share(0.6), fgsm_32=share(0.9))).passed
    corruptions = {"fog_1": share(0.2), "fog_2": share(0.8)}
    assert falls_with_eps(only(standard, **corruptions)).passed is None


@pytest.mark.parametrize("more", ["pgd50_8", "pgd10x5_8", "pgd50x5_8"])
def test_accuracy_that_rises_with_effort(standard, more):
    less = only(standard, pgd10_8=share(0.5), pgd10_16=share(0.1))
    assert falls_with_effort(with_scores(less, **{more: share(0.45)})).passed
    assert not falls_with_effort(with_scores(less, **{more: share(0.6)})).passed
    assert falls_with_effort(less).passed is None


def test_more_steps_with_fewer_restarts_are_not_compared(standard):
    scores = {"pgd50_8": share(0.6), "pgd10x5_8": share(0.5)}
    assert falls_with_effort(only(standard, **scores)).passed is None


def test_a_single_image_that_recovers_is_no_doubt(standard):
    recovered = share(0.5)
    recovered[-3:] = 1
    assert falls_with_eps(only(standard, pgd10_8=share(0.5), pgd10_16=recovered)).passed


def test_images_that_are_not_counted_are_left_out(standard):
    part = share(0.9)
    part[128:] = np.nan  # the rest, all wrong elsewhere, was not measured here
    half = np.where(np.arange(256) < 128, 1, 0)
    assert falls_with_eps(only(standard, pgd10_8=half, pgd10_16=part)).passed
    nothing = np.full(256, np.nan)
    names = ("pgd10_8", "pgd50_8", "pgd10_16", "fgsm_8", "square_8")
    uncounted = only(standard, clean=share(0.9), **dict.fromkeys(names, nothing))
    for name in ("falls_with_eps", "falls_with_effort", "one_step", "black_box"):
        assert CHECKS[name](uncounted).passed is None


def test_catastrophic_overfitting(standard):
    collapsed = only(standard, clean=share(0.85), fgsm_8=share(0.8), pgd10_8=share(0.01))
    assert one_step(collapsed).passed is False
    assert one_step(with_scores(collapsed, pgd10_8=share(0.55))).passed  # robust
    assert one_step(with_scores(collapsed, fgsm_8=share(0.3))).passed  # not robust, and looks so
    assert one_step(only(standard, clean=share(0.85), fgsm_8=share(0.8), pgd10_16=share(0.0))).passed is None
    alongside = with_scores(collapsed, fgsm_16=share(0.8), pgd10_16=share(0.5))  # at another eps nothing is wrong
    assert one_step(alongside).passed is False


def test_square_that_finds_more_than_gradients(standard):
    honest = only(standard, pgd10_8=share(0.5), square_8=share(0.6))
    assert gradient_masking.black_box(honest).passed
    assert not gradient_masking.black_box(with_scores(honest, square_8=share(0.45))).passed
    elsewhere = np.roll(share(0.6), 100)  # weaker in all, yet it breaks a fifth that withstood
    check = gradient_masking.black_box(with_scores(honest, square_8=elsewhere))
    assert not check.passed and check.numbers["alone"] == pytest.approx(100 / 256)
    assert gradient_masking.black_box(with_scores(honest, square_8=share(0.4), apgd_t_8=share(0.35))).passed
    assert gradient_masking.black_box(only(standard, pgd10_8=share(0.5), square_16=share(0.1))).passed is None
    for name in ("square_32", "aa_32"):
        found = gradient_masking.random_search(with_scores(standard, **{name: share(0.1)}))
        assert found.passed is None and "Square was measured" in found.about


@pytest.mark.parametrize("left, passed", [(0.5, True), (0.48, True), (0.44, False)])
def test_square_that_finds_what_autoattack_s_others_left(standard, left, passed):
    """It comes last, on what the others left; a few images more are chance."""
    cascade = {"aa_apgd_ce_8": share(0.55), "aa_apgd_t_8": share(0.51), "aa_fab_t_8": share(0.5), "aa_8": share(left)}
    check = gradient_masking.black_box(only(standard, pgd10_8=share(0.58), **cascade))
    assert check.passed is passed and check.numbers["white_box"] == 0.5
    weak = only(standard, pgd10_8=share(0.5), aa_8=share(0.45))  # PGD alone may miss as many
    assert gradient_masking.black_box(weak).passed


def test_scores_may_be_kept_as_bits(standard):
    bits = {name: values.astype(bool) for name, values in standard.scores.items()}
    kept = dataclasses.replace(standard, scores={**bits, "square-32": bits["pgd10-32"]})
    floats = with_scores(standard, square_32=standard.scores["pgd10-32"])
    assert run(kept, expensive=False) == run(floats, expensive=False)


# What was claimed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_named_and_nothing_further_is_said_of_their_images(standard, value):
    class Overflows(nn.Module):
        """Not finite where the first pixel is bright, which no attack within eps changes."""

        def forward(self, x):
            out = standard.model(x)
            return torch.where(x[:, :1, 0, 0] > 0.5, torch.full_like(out, value), out)

    marked = standard.x.clone()
    marked[::16, :, 0, 0] = 1.0
    checks = run(dataclasses.replace(standard, model=Overflows(), x=marked, stored={}), expensive=False)
    assert checks[0].about.startswith("NaN or infinite logits in 16 of 256 images: ")
    assert [check.name for check in checks if check.passed is False] == ["finite"]
    checks = run(dataclasses.replace(standard, model=Overflows(), x=torch.ones_like(marked)))
    assert [check.passed for check in checks] == [False] + [None] * (len(CHECKS) - 1)


def test_starts_whose_logits_are_not_finite_say_nothing_of_gradients(standard):
    """Not finite above a brightness that some images lie just below, so that noise within eps lifts them over it."""
    brightness = standard.x.mean((1, 2, 3))
    limit = brightness.quantile(0.9)

    class Overflows(nn.Module):
        def forward(self, x):
            out = standard.model(x)
            return torch.where((x.mean((1, 2, 3)) > limit)[:, None], torch.full_like(out, torch.nan), out)

    evidence = dataclasses.replace(standard, model=Overflows(), stored={})
    start = 2 * standard.draws.stream("gradients").uniform(*standard.x.shape[1:]) - 1
    lifted = (standard.x + standard.eps * start).clamp(0, 1).mean((1, 2, 3)) > limit
    assert (lifted & (brightness <= limit)).float().mean() > 0.05
    assert [check.name for check in run(evidence, expensive=False) if check.passed is False] == ["finite"]
    none = gradient_masking.gradients(dataclasses.replace(evidence, x=torch.ones_like(standard.x)))
    assert none.passed is None


def test_evidence_of_some_images_is_that_of_these_images(standard):
    which = torch.zeros(256, dtype=torch.bool)
    which[[3, 9, 200]] = True
    some = standard.select(which)
    assert torch.equal(some.x, standard.x[which]) and torch.equal(some.y, standard.y[which])
    assert torch.equal(some.draws.uniform(4), standard.draws.stream().uniform(4)[which])
    assert some.index.tolist() == [3, 9, 200]
    for name, (z, claimed) in some.stored.items():
        assert torch.equal(z, standard.stored[name][0][which[: len(standard.stored[name][0])]])
        assert len(claimed) == len(z)


def test_wrong_stored_verdicts(standard):
    (name, (z, claimed)), *_ = standard.stored.items()
    assert repeats(standard).passed
    wrong = claimed.clone()
    wrong[:5] = 1 - wrong[:5]
    check = repeats(dataclasses.replace(standard, stored={**standard.stored, name: (z, wrong)}))
    assert check.passed is False and check.numbers["differing"] == pytest.approx(5 / 256) and name in check.about


@pytest.mark.parametrize(
    "name, shift, passed",
    [
        ("pgd10-32", 32 / 255, True),
        ("pgd10-32", 33 / 255, False),
        ("l2-pgd10-128", 128 / 255, True),
        ("l2-pgd10-128", 129 / 255, False),
        ("cw", 0.4, True),  # no ball is stated
    ],
)
def test_stored_images_keep_to_the_ball_of_their_name(standard, name, shift, passed):
    z = standard.x.clone()
    z[7, 0, 3, 3] += shift if z[7, 0, 3, 3] < 0.5 else -shift  # one pixel: as long in both norms
    evidence = dataclasses.replace(standard, stored={name: (z, right(standard.model, z, standard.y))})
    assert repeats(evidence).passed is passed


def test_stored_images_keep_to_the_range(standard):
    z = standard.x.clone()
    z[7, 0, 3, 3] = 1.01
    evidence = dataclasses.replace(standard, stored={"cw": (z, right(standard.model, z, standard.y))})
    assert repeats(evidence).passed is False


def test_what_bfloat16_alone_has_broken(standard):
    (name,) = standard.lower
    full = standard.scores[name].copy()
    lower = full.copy()
    lower[np.flatnonzero(full)[:5]] = 0
    full[np.flatnonzero(full == 0)[:20]] = 1  # 20 more that float32 has right
    check = float32(dataclasses.replace(standard, lower={name: lower}))
    assert check.passed is False and check.numbers["unconfirmed"] == pytest.approx(5 / 256)
    assert float32(with_scores(standard, **{name: standard.lower[name] * 0})).passed  # float32 breaks more


# The random search


def test_the_random_search_keeps_to_the_ball_and_finds_the_corner(monkeypatch):
    """Two classes by the sum of all pixels: the search breaks what a corner of the ball breaks, and no more."""
    monkeypatch.setattr(gradient_masking, "QUERIES", 200)
    x = torch.linspace(0.3, 0.5, 64).view(64, 1, 1, 1).expand(64, 3, 4, 4).contiguous()

    def model(z):
        total = z.flatten(1).sum(1) - 0.45 * 48
        return torch.stack([-total, total], 1)

    y = model(x).argmax(1)
    z = gradient_masking._squares(model, x, y, 0.05, PerImageRng(torch.arange(64)))
    assert (z - x).abs().max() <= 0.05 + 1e-6 and z.min() >= 0 and z.max() <= 1
    margin = (x.flatten(1).mean(1) - 0.45).abs()
    broken = model(z).argmax(1) != y
    assert not broken[margin > 0.05 + 1e-6].any()
    assert broken[margin < 0.045].all()
    alone = gradient_masking._squares(model, x[5:6], y[5:6], 0.05, PerImageRng(torch.tensor([5])))
    assert torch.equal(alone[0], z[5])  # neighbours have no say
