"""The plots: places against closed forms, contrast against WCAG's formula, and that odd input draws sound SVG."""

import itertools
import math
import random
import re
from xml.etree import ElementTree

import pytest

from reports.present import plots
from reports.present.plots import (
    accuracy_vs_eps,
    axes,
    bars,
    heatmap,
    hyperparameters,
    intervals,
    learning_curves,
    pareto,
)
from reports.present.plots.axes import Axis

NAN = math.nan
EVIL = '<img src=x onerror="alert(1)">&amp;\' "quoted"'


def parsed(text):
    """The SVG's tree; well-formed, named or hidden, of marks that say the same twice, without NaN or scripts."""
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.get("aria-hidden") == "true" or (root.get("role") == "img" and root.get("aria-label"))
    for element in root.iter():
        assert element.tag in {"svg", "g", "text", "title", "line", "rect", "circle", "polyline", "polygon"}
        assert not {"id", "onload", "fill", "stroke"} & set(element.keys())
        for key, value in element.items():
            assert key in ("aria-label", "data-say") or not re.search(r"\b(nan|inf)", value), (key, value)
        if element.get("data-say") is not None:
            assert element.find("title").text == element.get("data-say") != ""
    return root


def shapes(root, tag, kind):
    """The elements with a tag and, among their classes, this one."""
    return [e for e in root.iter(tag) if kind in e.get("class", "").split()]


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def texts(root, kind="tick"):
    return [e.text if not len(e) else e[0].tail for e in shapes(root, "text", kind)]


def vertices(element):
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


# ---- axes


def test_an_axis_is_linear_or_logarithmic_and_ends_at_its_ends():
    assert [Axis(10, 20, 100, 300).at(v) for v in (10, 15, 20, -5, 99)] == [100, 200, 300, 100, 300]
    log = Axis(0.01, 100, 0, 40, log=True)
    assert [log.at(v) for v in (0.01, 0.1, 1, 100, 0, -3)] == pytest.approx([0, 10, 20, 40, 0, 0])
    assert Axis(0, 1, 90, 10).at(0.25) == 70  # upwards


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.5], [0.0, 1.0], [0.301, 0.302], [0.12, 0.58], []])
def test_scales_hold_their_values(values):
    low, high, ticks = axes.shares(values)
    assert 0 <= low <= min(values, default=0) and max(values, default=0) <= high <= 1 + 1e-9
    assert 2 <= len(ticks) <= 6 and (ticks[0], ticks[-1]) == pytest.approx((low, high))


@pytest.mark.parametrize("values", [[-1.0], [0.0], [1.0], [-0.3], [-1.0, 1.0], [-0.2, 0.9], [-0.021, -0.02], [-1.2, 0]])
def test_scales_of_correlations_go_below_zero(values):
    low, high, ticks = axes.shares(values, -1.0)
    assert -1 <= low <= max(min(values), -1) + 1e-9 and max(values) <= high + 1e-9 and high <= 1
    assert 2 <= len(ticks) <= 6 and (ticks[0], ticks[-1]) == pytest.approx((low, high))


@pytest.mark.parametrize("values", [[1.5], [-0.4, -0.3], [1.1, 1.2]])
def test_scales_go_up_even_where_all_values_lie_outside(values):
    low, high, ticks = axes.shares(values)
    assert low < high and len(ticks) >= 2


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_round_and_inside(log):
    rng = random.Random(0)
    for _ in range(500):
        low, high = axes.widened([10 ** rng.uniform(-12, 12), 10 ** rng.uniform(-12, 12)], log)
        most = rng.randint(3, 6)
        found = axes.ticks(low, high, most, log)
        assert 1 <= len(found) <= most
        room = 1e-6 * (high - low)
        assert all(low - room <= v <= high + room for v in found)
        assert found == sorted(found) and len({axes.number(v, axes.figures(found)) for v in found}) == len(found)


def test_ticks_by_hand():
    assert axes.ticks(0, 18, 5) == [0, 5, 10, 15]
    assert axes.ticks(0.0167, 0.15, 4, log=True) == [0.02, 0.05, 0.1]
    assert axes.ticks(1e-8, 1, 5, log=True) == [1e-8, 1e-6, 1e-4, 1e-2, 1]
    assert axes.ticks(2.1, 2.6, 6, log=True) == pytest.approx([2.1, 2.2, 2.3, 2.4, 2.5, 2.6])  # too narrow for powers


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-12, 1e12])
@pytest.mark.parametrize("log", [False, True])
def test_one_value_gets_an_axis_around_it(value, log):
    low, high = axes.widened([value, NAN, value], log)
    assert low < high and (low > 0 or not log)
    assert low < value < high or (log and value <= 0)


def test_numbers_as_people_write_them():
    found = [axes.number(v) for v in (0, -0.0, 0.016667, 12.0, 12.34, 1234.4, 2e-5, -0.5, 1e-12, 1.5e7)]
    assert found == ["0", "0", "0.0167", "12", "12.3", "1234", "2e−5", "−0.5", "1e−12", "1.5e7"]
    assert [axes.percent(v) for v in (0.456, 1, 0, -0.0001, -0.5)] == ["45.6 %", "100 %", "0 %", "0 %", "−50 %"]
    assert axes.amount(0.456, 0.0123) == "45.6 ± 1.2 %" and axes.amount(2.5, 0.128, " s") == "2.5 ± 0.13 s"
    assert axes.amount(NAN) == "–" and axes.amount(2.5, NAN, " s") == "2.5 s"


def test_labels_of_a_narrow_range_differ():
    assert [axes.number(v, axes.figures([1000.1, 1000.2])) for v in (1000.1, 1000.2)] == ["1000.1", "1000.2"]
    assert axes.figures([0.5, 1.0, 1.0]) == 3 and axes.figures([]) == 3


def test_labels_below_never_touch_and_stay_inside():
    axis = Axis(0, 100, 36, 186)
    parts = axes.below(axis, 10, [(0, "0.0167"), (100, "0.1525"), (3, "lost"), (50, "0.05"), (99, "lost")], 200)
    root = ElementTree.fromstring(f"<svg>{''.join(parts)}</svg>")
    assert [e.text for e in root] == ["0.0167", "0.1525", "0.05"]
    spans = sorted((float(e.get("x")), axes.wide(e.text) / 2) for e in root)
    assert spans[0][0] - spans[0][1] >= 0 and spans[-1][0] + spans[-1][1] <= 200
    assert all(a + half <= b - other for (a, half), (b, other) in itertools.pairwise(spans))


# ---- intervals and curves


def test_intervals_lie_where_their_numbers_are():
    rows, axis = plots.interval_chart(
        [plots.Dot(0.5, 0.1, (0.45, 0.55), "best"), plots.Dot(0.2, NAN), plots.Dot(0.8, NAN)]
    )
    root = parsed(rows[0])
    parsed(axis)
    width = intervals.RIGHT - intervals.LEFT
    assert (
        shapes(root, "circle", "dot")[0].get("cx") == f"{intervals.LEFT + width * 0.5:.2f}%"
    )  # the scale is 20 to 80 %
    (bar,) = shapes(root, "line", "range")
    assert (bar.get("x1"), bar.get("x2")) == (f"{4 + width / 3:.2f}%", f"{4 + width * 2 / 3:.2f}%")
    assert bar.get("data-say") == "50 ± 10 %"
    assert [e.get("data-say") for e in shapes(root, "line", "seed")] == ["one seed: 45 %", "one seed: 55 %"]
    assert not shapes(parsed(rows[1]), "line", "range")


def test_a_curve_says_its_values_and_the_others_their_names():
    own = plots.Curve("pgd", ((0, 0.9, 0.02), (8, 0.62, NAN), (16, 0.3, 0.1)))
    root = parsed(plots.curve(own, [plots.Curve(EVIL, ((0, 0.95, NAN), (16, 0, NAN)))]))
    assert root.get("aria-label") == "pgd: 90 % clean, 62 % at 8/255, 30 % at 16/255"
    dots = shapes(root, "circle", "own")
    assert [d.get("data-say") for d in dots] == ["90 ± 2 % clean", "62 % at 8/255", "30 ± 10 % at 16/255"]
    right, foot = axes.NARROW - accuracy_vs_eps.RIGHT, accuracy_vs_eps.HEIGHT - accuracy_vs_eps.FOOT
    assert [numbers(d, "cx")[0] for d in dots] == [accuracy_vs_eps.LEFT, (accuracy_vs_eps.LEFT + right) / 2, right]
    assert numbers(dots[0], "cy")[0] == pytest.approx(foot - 0.9 * (foot - accuracy_vs_eps.TOP), abs=0.05)
    (other,) = shapes(root, "polyline", "other")
    assert other.get("data-say") == EVIL and vertices(other)[-1] == (right, foot)
    assert texts(root) == ["0", "50", "100", "clean", "8", "16"]


# ---- heat


def luminance(colour):
    """WCAG's relative luminance of linear sRGB."""
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), colour, strict=True))


def linear(text):
    """Linear sRGB of `#rrggbb`."""
    parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


M1 = [(0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566)]
M1 += [(0.0883024619, 0.2817188376, 0.6299787005)]
BACK = [(4.0767416621, -3.3077115913, 0.2309699292), (-1.2684380046, 2.6097574011, -0.3413193965)]
BACK += [(-0.0041960863, -0.7034186147, 1.7076147010)]


def mixed(a, b, share):
    """CSS's `color-mix(in oklab, a, b share)` as linear sRGB: a mean of the cube roots of cone responses."""

    def cones(colour):
        return [sum(w * c for w, c in zip(row, colour, strict=True)) ** (1 / 3) for row in M1]

    # OKLab is linear in these roots, so that mixing them is mixing in OKLab.
    roots = [(1 - share) * x + share * y for x, y in zip(cones(linear(a)), cones(linear(b)), strict=True)]
    return [min(max(sum(w * r**3 for w, r in zip(row, roots, strict=True)), 0), 1) for row in BACK]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_numbers_on_heat_can_be_read(mode):
    block = heatmap.CSS.split("@media")[mode]
    ends = [re.search(rf"--heat-{end}: (#\w{{6}})", block)[1] for end in ("low", "high")]
    inks = {kind: 0.0 if re.search(rf"--on-{kind}: #000", block) else 1.0 for kind in ("low", "high")}
    assert sorted(inks.values()) == [0, 1]
    for percent in range(101):
        root = ElementTree.fromstring(plots.heat(["r"], ["c"], [[percent / 100]], title=""))
        ink = inks[next(kind for kind in inks if shapes(root, "text", kind))]
        there = luminance(mixed(*ends, percent / 100))
        bright, dark = max(ink, there), min(ink, there)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_heat_in_words_and_cells():
    root = parsed(plots.heat(["fog", EVIL], [1, 2], [[0.123, NAN], [0.456, 2.0]], low=0.1, high=0.5, title="pgd"))
    expected = f"pgd: mean 86 %, lowest 12.3 % (fog 1), highest 200 % ({EVIL} 2)"
    assert root.get("aria-label") == expected
    cells = [e for e in root.iter("g")]
    assert [c.get("data-say") for c in cells] == [
        "fog 1: 12.3 %",
        "fog 2: no figure",
        f"{EVIL} 1: 45.6 %",
        f"{EVIL} 2: 200 %",
    ]
    assert [c.get("class") for c in cells] == ["s6", "empty", "s89", "s100"]
    assert [c.find("text").text for c in cells] == ["12", "–", "46", "200"]
    first, last = (numbers(c.find("rect"), "x", "y", "width") for c in (cells[0], cells[-1]))
    assert last[0] + last[2] == pytest.approx(axes.WIDE - 1, abs=0.2)
    assert last[0] - first[0] == pytest.approx(first[2] + 2, abs=0.2) and last[1] - first[1] == heatmap.ROW
    assert cells[1].get("class") == "empty"


def test_heat_with_many_columns_grows_and_with_none_is_sound():
    wide = parsed(plots.heat(["a"], range(40), [[0.5] * 40], title="t"))
    assert float(wide.get("viewBox").split()[2]) >= 40 * heatmap.LEAST
    assert wide.get("width") == f"{float(wide.get('viewBox').split()[2]):.0f}"
    assert parsed(plots.heat([], [], [], title="t")).get("aria-label") == "t: no figures"
    with pytest.raises(ValueError):
        plots.heat(["a"], [1, 2], [[0.5]], title="t")


# ---- front


def cell(name, x, y, **more):
    return plots.Point(name, x, y, **more)


def test_the_front_is_strong_and_joined_by_steps():
    points = [cell("a", 0.2, 0.8, kind="best"), cell("b", 0.6, 0.4), cell("c", 0.1, 0.3), cell("gone", NAN, 1.0)]
    root = parsed(plots.front(points, x="clean", y="robust"))
    dots = {e.get("data-say").partition(":")[0]: e for e in root.iter("circle")}
    assert {name: "faint" in e.get("class") for name, e in dots.items()} == {"a": False, "b": False, "c": True}
    assert "best" in dots["a"].get("class") and dots["c"].get("data-say") == "c: robust 30 %, clean 10 %"
    (a, b) = (tuple(numbers(dots[n], "cx", "cy")) for n in "ab")
    (steps,) = shapes(root, "polyline", "steps")
    foot = pareto.HEIGHT - pareto.FOOT
    assert vertices(steps) == [(pareto.LEFT, a[1]), a, (a[0], b[1]), b, (b[0], foot)]
    assert root.get("aria-label").startswith("2 of 3 are on the Pareto front of robust and clean: a: robust 80 %")
    assert texts(root, "label") == ["a", "b"]


def test_less_can_be_better():
    points = [cell("slow", 100.0, 0.9), cell("fast", 1.0, 0.5), cell("worst", 50.0, 0.4, half_x=60.0)]
    root = parsed(plots.front(points, x="training", y="robust", less_x=True, log_x=True, unit_x=" s"))
    dots = {e.get("data-say").partition(":")[0]: e for e in root.iter("circle")}
    assert [n for n, e in sorted(dots.items()) if "faint" not in e.get("class")] == ["fast", "slow"]
    slow, fast = (tuple(numbers(dots[n], "cx", "cy")) for n in ("slow", "fast"))
    (steps,) = shapes(root, "polyline", "steps")
    right, foot = axes.WIDE - pareto.RIGHT, pareto.HEIGHT - pareto.FOOT
    expected = [(fast[0], foot), fast, (slow[0], fast[1]), slow, (right, slow[1])]
    assert sorted(vertices(steps)) == sorted(expected)
    assert "training, s, less is better" in texts(root)
    assert dots["worst"].get("data-say") == "worst: robust 40 %, training 50 ± 60 s"


def boxes(root):
    found = []
    for e in shapes(root, "text", "label"):
        x, y = numbers(e, "x", "y")
        found.append((x, y - 11, x + axes.wide(e.text), y + 4))
    return found


def apart(a, b):
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("seed", range(20))
def test_names_touch_neither_each_other_nor_points(seed):
    rng = random.Random(seed)
    count = rng.randint(1, 14)
    front = [
        cell(f"method {i}", 0.5 + 0.03 * i, 0.9 - 0.05 * i + 0.01 * rng.random(), half_y=0.02) for i in range(count)
    ]
    others = [cell(f"other {i}", 0.5 * rng.random(), 0.3 * rng.random()) for i in range(20)]
    root = parsed(plots.front([*front, *others], x="clean", y="robust"))
    found = boxes(root)
    assert len(found) == count and all(b[0] >= 0 and b[2] <= axes.WIDE for b in found)
    dots = [(x - 5, y - 5, x + 5, y + 5) for x, y in (numbers(e, "cx", "cy") for e in root.iter("circle"))]
    for i, box in enumerate(found):
        assert all(apart(box, other) for other in [*found[:i], *dots])


def test_beyond_twelve_or_with_long_names_there_is_a_key():
    many = [cell(f"m{i}", i / 20, 1 - i / 20) for i in range(13)]
    root = parsed(plots.front(many, x="clean", y="robust"))
    assert texts(root, "label") == [str(i) for i in range(1, 14)]
    key = [e.text for e in root.iter("text") if (e.text or "").startswith("m")]
    assert key == [f"m{i}" for i in range(13)]
    height = float(root.get("viewBox").split()[3])
    assert max(float(e.get("y")) for e in root.iter("text")) < height
    long = parsed(plots.front([cell("a" * 60, 0.5, 0.5)], x="clean", y="robust"))
    assert texts(long, "label") == ["1"] and any(e.get("data-say") == "a" * 60 for e in long.iter("text"))


def test_odd_fronts_are_sound():
    same = [cell("a", 0.5, 0.5), cell("b", 0.5, 0.5)]
    assert len(texts(parsed(plots.front(same, x="x", y="y")), "label")) == 2
    crowd = [cell(f"p{i}", 0.5 + 1e-6 * i, 0.5 - 1e-6 * i) for i in range(60)]
    assert len(texts(parsed(plots.front(crowd, x="x", y="y")), "label")) == 60
    parsed(plots.front([], x="x", y="y"))
    parsed(plots.front([cell(EVIL, 1e9, -0.7, half_x=1e12)], x=EVIL, y=EVIL, unit_x=EVIL, log_x=True))
    parsed(plots.front([cell("free", 0.0, 0.5)], x="x", y="y", log_x=True))  # no logarithm: left out


# ---- against


def centres(root, kind):
    return [tuple(numbers(e, "cx", "cy")) for e in shapes(root, "circle", kind)]


def test_values_at_the_ends_of_the_domain_lie_at_the_ends_of_the_axis():
    points = [(0.01, 0.2, "complete"), (0.1, 0.4, "pruned"), (1.0, 0.8, "complete")]
    root = parsed(plots.against(points, label="lr", log=True, low=0.01, high=1.0, chosen=1.0))
    left, right = hyperparameters.LEFT, axes.NARROW - hyperparameters.RIGHT
    foot = hyperparameters.HEIGHT - hyperparameters.FOOT
    assert centres(root, "complete") == [(left, foot)]  # the scale is 20 to 80 %
    assert centres(root, "winner") == [(right, hyperparameters.TOP)]
    assert centres(root, "pruned") == [
        ((left + right) / 2, pytest.approx(foot - (foot - hyperparameters.TOP) / 3, abs=0.05))
    ]
    assert [numbers(e, "x1", "x2") for e in shapes(root, "line", "end")] == [[left, left], [right, right]]
    assert [numbers(e, "x1", "x2") for e in shapes(root, "line", "chosen")] == [[right, right]]
    assert [e.get("data-say") for e in root.iter("circle")] == ["0.1: 40 %, pruned", "0.01: 20 %", "1: 80 %"]
    assert root.get("aria-label") == ("Goal against lr: 2 complete trials, 1 pruned; best 80 % at 1; the winner has 1")
    assert {"0.01", "0.1", "1", "lr (log)"} <= set(texts(root))


def test_values_beyond_the_domain_widen_the_axis():
    root = parsed(plots.against([(0.0, 0.5, "complete"), (2.0, 0.6, "complete")], label="a", low=0.0, high=1.0))
    middle = (hyperparameters.LEFT + axes.NARROW - hyperparameters.RIGHT) / 2
    assert numbers(shapes(root, "line", "end")[1], "x1") == [middle]


def test_a_unit_stands_behind_values():
    text = plots.against([(8.0, 0.5, "complete")], label="eps", low=4, high=8, chosen=8.0000001, unit="/255")
    root = parsed(text)
    assert centres(root, "winner") and "eps (/255)" in texts(root) and {"4", "8"} <= set(texts(root))
    assert "best 50 % at 8/255; the winner has 8/255" in root.get("aria-label")


def test_categories_stand_in_order_with_their_names():
    points = [("power", 0.5, "complete"), ("linear", 0.6, "complete"), ("a very long category", 0.4, "pruned")]
    root = parsed(plots.against(points, label="schedule", chosen="linear", low=0.0, high=1.0))
    slot = (axes.NARROW - hyperparameters.LEFT - hyperparameters.RIGHT) / 3
    assert centres(root, "winner")[0][0] == pytest.approx(hyperparameters.LEFT + 1.5 * slot, abs=0.05)
    names = [t for t in texts(root) if not t[0].isdigit()]
    assert names == ["a very long c…", "linear", "power", "schedule"]
    assert not shapes(root, "line", "end")
    level = parsed(plots.against([("on", 0.5, "complete"), ("off", 0.6, "complete")], label="x"))
    assert not [e for e in level.iter("text") if e.get("transform")]
    mixed_up = parsed(plots.against([("none", 0.5, "complete"), (10, 0.6, "complete")], label="x", chosen=10))
    assert centres(mixed_up, "winner")


def test_trials_of_one_value_stand_beside_each_other():
    root = parsed(plots.against([("x", 0.5, "complete")] * 3, label="x"))
    found = centres(root, "complete")
    assert len(set(found)) == 3 and len({y for _, y in found}) == 1
    assert min(abs(a - b) for a, _ in found for b, _ in found if a != b) == 2 * hyperparameters.RADIUS


def test_against_odd_values():
    for points in ([], [(1.0, NAN, "pruned")], [(NAN, 0.5, "complete")], [(0.0, 0.5, "complete")]):
        for log in (False, True):
            parsed(plots.against(points, label=EVIL, log=log, unit=EVIL))
    parsed(plots.against([(EVIL, 0.5, "complete")], label="x", chosen=EVIL))
    parsed(plots.against([(1e-300, -0.5, "complete"), (1e300, 1.5, "pruned")], label="x", log=True, low=1e-9, high=1e9))


def test_a_thousand_trials_stay_small():
    rng = random.Random(0)
    points = [(10 ** rng.uniform(-4, 0), rng.random(), rng.choice(["complete", "pruned"])) for _ in range(1000)]
    text = plots.against(points, label="optim.lr", log=True, low=1e-4, high=1.0, chosen=points[0][0])
    assert len(list(parsed(text).iter("circle"))) == 1000
    assert len(text.encode()) < 150_000
    shuffled = rng.sample(points, len(points))
    assert plots.against(shuffled, label="optim.lr", log=True, low=1e-4, high=1.0, chosen=points[0][0]) == text


# ---- bars


def test_bars_begin_at_zero_and_are_as_long_as_their_values():
    items = [("lr", 0.6, 0.2, "over 9 cells"), ("eps", 0.2, NAN, ""), (EVIL, NAN, NAN, "")]
    root = parsed(plots.bar_chart(items, unit="%"))
    found = shapes(root, "rect", "bar")
    assert [numbers(e, "x", "width") for e in found] == [
        [0, 255],
        [0, 85],
    ]  # 340 units are 0.8, the end of the interval
    (half,) = shapes(root, "line", "half")
    assert numbers(half, "x1", "x2") == [170, 340]
    assert [e.get("data-say") for e in found] == ["lr: 60 ± 20 %, over 9 cells", "eps: 20 %"]
    assert texts(root) == ["60 ± 20 %", "20 %", "–"]
    assert root.get("aria-label") == f"lr 60 ± 20 %; eps 20 %; {EVIL} –"
    assert float(root.get("viewBox").split()[3]) == 3 * bars.ROW


def test_bars_can_go_below_zero():
    root = parsed(plots.bar_chart([("up", 3.0, NAN, ""), ("down", -1.0, NAN, "")], unit=" points"))
    assert [numbers(e, "x", "width") for e in shapes(root, "rect", "bar")] == [[85, 255], [0, 85]]


def test_on_a_logarithmic_scale_bars_are_dots():
    items = [("a", 1.0, NAN, ""), ("b", 10.0, NAN, ""), ("c", 100.0, 200.0, ""), ("zero", 0.0, NAN, "")]
    root = parsed(plots.bar_chart(items, unit=" s", log=True))
    (a,), (b,), (c,), (zero,) = (numbers(e, "cx") for e in shapes(root, "circle", "dot"))
    assert zero == 0 < a and b - a == pytest.approx(c - b, abs=0.11)
    assert not shapes(root, "rect", "bar")
    assert numbers(shapes(root, "line", "half")[0], "x1") == [0]  # what lies below 0 ends at the end


def test_long_names_of_bars_leave_room_for_the_number():
    root = parsed(plots.bar_chart([("n" * 80, 12345.0, 123.0, "")], unit=" s"))
    (label,) = [e for e in root.iter("text") if e.get("data-say")]
    assert label.get("data-say") == "n" * 80 and label[0].tail.endswith("…")
    assert axes.wide(label[0].tail) + axes.wide("12345 ± 123 s") <= axes.WIDE
    parsed(plots.bar_chart([]))
    parsed(plots.bar_chart([("nothing", 0.0, 0.0, "")], log=True))
    parsed(plots.bar_chart([("nothing", 0.0, 0.0, "")]))


# ---- epochs


def test_learning_marks_the_best_and_the_last_point_of_seeds():
    runs = [
        plots.Course("trial 1", ((5, 0.2), (10, 0.3))),
        plots.Course("trial 2", ((5, 0.25),), "pruned"),
        plots.Course("seed 1", ((5, 0.5), (10, 0.6), (20, 0.4)), "seed"),
        plots.Course("seed 2", ((5, 0.3), (10, NAN), (20, 0.5)), "seed"),
        plots.Course("empty", ((5, NAN),), "seed"),
    ]
    root = parsed(plots.learning(runs, epochs=20, chosen="trial 1"))
    right, foot = axes.NARROW - learning_curves.RIGHT, learning_curves.HEIGHT - learning_curves.FOOT
    middle = (learning_curves.LEFT + right) / 2
    assert centres(root, "best") == [
        (middle, learning_curves.TOP),
        (right, pytest.approx(foot - 0.75 * (foot - learning_curves.TOP))),
    ]
    assert centres(root, "last") == [(right, pytest.approx(foot - 0.5 * (foot - learning_curves.TOP)))]
    assert [e.get("data-say") for e in root.iter("circle")] == [
        "seed 1: last 40 % at epoch 20",
        "seed 1: best 60 % at epoch 10",
        "seed 2: best and last 50 % at epoch 20",
    ]
    said = root.get("aria-label")
    assert said.endswith("2 trials of the search, 2 seeds; seeds: mean best 55 %, mean last 45 %, gap 10 points")
    (pruned,) = shapes(root, "polyline", "pruned")
    assert pruned.get("data-say") == "trial 2: best 25 % at epoch 5, last 25 %, pruned"
    assert len(shapes(root, "line", "cross")) == 2
    (chosen,) = shapes(root, "polyline", "chosen")
    assert chosen.get("data-say").startswith("trial 1:") and vertices(chosen)[1][0] == middle


def test_learning_without_curves_is_sound():
    for runs in ([], [plots.Course(EVIL, ())], [plots.Course(EVIL, ((0, 0.0),), "seed")]):
        parsed(plots.learning(runs, epochs=0))
    beyond = parsed(plots.learning([plots.Course("long", ((30, 0.5),), "seed")], epochs=10))
    assert centres(beyond, "best")[0][0] == axes.NARROW - learning_curves.RIGHT


def test_rungs_leave_a_gap_where_nothing_is_known():
    root = parsed(plots.rungs([(5, -1.0, 40), (10, 0.0, 40), (15, NAN, 1), (20, 1.0, 30)]))
    left, right, foot = (
        learning_curves.LEFT,
        axes.NARROW - learning_curves.RIGHT,
        learning_curves.HEIGHT - learning_curves.FOOT,
    )
    middle = (learning_curves.TOP + foot) / 2
    quarter = left + (right - left) / 4
    assert centres(root, "dot") == [(quarter, foot), ((left + right) / 2, middle), (right, learning_curves.TOP)]
    (way,) = shapes(root, "line", "way")
    assert numbers(way, "x1", "y1", "x2", "y2") == [quarter, foot, (left + right) / 2, middle]
    assert [e.get("data-say") for e in root.iter("circle")][2] == "epoch 20: 1.00, n = 30"
    assert {"−1", "0", "1", "20", "n 30"} <= set(texts(root))
    for items in ([], [(3, NAN, 0)], [(0, 0.5, 6)]):
        parsed(plots.rungs(items))


# ---- the style


def test_every_class_has_a_rule_and_every_rule_a_class():
    nan_row = [NAN, 0.9]
    points = [
        cell(k, 0.1 * i, 1 - 0.1 * i, half_x=0.01, half_y=0.01, kind=k) for i, k in enumerate(("best", "control"))
    ]
    rows, axis = plots.interval_chart([plots.Dot(0.5, 0.1, (0.4,), kind) for kind in ("best", "rest", "control")], 0.3)
    crowd = [cell(f"name {i}", 0.5 + i / 100, 0.5 - i / 100) for i in range(6)] + [cell("far", 0.0, 0.0)]
    drawn = [
        *rows,
        axis,
        plots.curve(plots.Curve("a", ((0, 1, 0.1), (8, 0.5, 0.1))), [plots.Curve("b", ((0, 1, NAN), (8, 0, NAN)))]),
        plots.heat(["a"], [1, 2], [nan_row], title="t"),
        plots.heat(["a"], [1], [[0.1]], title="t"),
        plots.front([*points, cell("low", 0.0, 0.0), cell("c", 0.0, 0.1, kind="control")], x="x", y="y"),
        plots.front(crowd, x="x", y="y"),
        plots.against(
            [(1, 0.5, "complete"), (2, 0.5, "complete"), (3, 0.1, "pruned")], label="x", low=1, high=3, chosen=1
        ),
        plots.bar_chart([("a", 1.0, 0.1, "")]),
        plots.bar_chart([("a", 1.0, 0.1, ""), ("b", 2.0, NAN, "")], log=True),
        plots.learning(
            [plots.Course(k, ((1, 0.1), (2, 0.2), (3, 0.1)), k) for k in ("search", "pruned", "seed")],
            epochs=3,
            chosen="search",
        ),
        plots.rungs([(1, 0.1, 6), (2, 0.5, 6)]),
    ]
    used = {kind for text in drawn for e in parsed(text).iter() for kind in e.get("class", "").split()}
    styled = set(re.findall(r"\.([a-z]+\d*)", re.sub(r"\{[^{}]*\}", "", plots.CSS)))
    shades = {kind for kind in styled if re.fullmatch(r"s\d+", kind)}
    assert shades == {f"s{percent}" for percent in range(101)} and shades & used
    styled, used = styled - shades, used - shades
    assert styled - used == set()
    assert used - styled == {"rest"}  # what is neither best nor control
    known = {"page", "ink", "soft", "line", "faint", "far", "accent", "tint"}
    own = set(re.findall(r"--([\w-]+):", plots.CSS)) | {"v"}
    assert set(re.findall(r"var\(--([\w-]+)", plots.CSS)) <= known | own
    assert plots.CSS.count("{") == plots.CSS.count("}")
