import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from harness.contracts.corruptions import CONTRACT, draws, photos
from harness.data.corruptions import filters
from harness.data.corruptions import textures as corruptions_textures
from harness.data.corruptions.names import ART, EXTRA, SEVERITIES, STANDARD
from harness.data.corruptions.published_files import Change, change
from harness.data.corruptions.registry import CORRUPTIONS, Corruption, corrupt
from harness.data.readers.builtin import shapes
from harness.errors import UserError
from harness.evaluation import suites
from harness.evaluation.settings import Attribution, Measure
from harness.randomness import PerImageRng

# What the published generator makes of the first 128 test images of `shapes` as loaded (mean and root mean square of
# the change in 8-bit levels, severities 1 to 5), run with scikit-image 0.26, OpenCV 5.0, SciPy 1.17 and ImageMagick
# 6.9.11; ten times where it draws numbers, twice for glass_blur.
REFERENCE = {
    "gaussian_noise": ((-0.30, 10.01), (-0.12, 14.87), (0.13, 19.60), (0.30, 21.92), (0.49, 24.18)),
    "shot_noise": ((-0.50, 6.26), (-0.50, 8.81), (-0.56, 13.80), (-0.51, 15.90), (-0.65, 19.36)),
    "impulse_noise": ((0.51, 14.82), (1.02, 20.94), (1.52, 25.64), (2.53, 33.10), (3.53, 39.18)),
    "defocus_blur": ((-0.50, 2.94), (-0.50, 7.15), (-0.50, 10.52), (-0.49, 14.82), (-0.44, 17.93)),
    "glass_blur": ((-0.02, 26.41), (-1.04, 26.23), (-0.96, 23.42), (-0.96, 35.24), (-0.91, 32.39)),
    "motion_blur": ((-0.49, 13.10), (-0.49, 18.40), (-0.51, 22.23), (-0.50, 22.35), (-0.52, 25.50)),
    "zoom_blur": ((0.70, 15.58), (1.72, 17.88), (2.58, 20.80), (3.69, 23.69), (4.90, 26.51)),
    "snow": ((9.79, 13.03), (22.27, 25.70), (24.17, 30.36), (35.62, 41.35), (51.14, 56.63)),
    "frost": ((31.96, 33.48), (47.09, 49.49), (54.87, 58.86), (51.64, 56.15), (53.25, 59.49)),
    "fog": ((7.35, 14.17), (15.18, 28.55), (20.14, 37.01), (23.64, 43.94), (27.66, 52.91)),
    "brightness": ((8.46, 9.29), (17.38, 19.10), (25.99, 28.65), (34.23, 37.88), (49.52, 55.25)),
    "contrast": ((-0.50, 13.11), (-0.51, 26.20), (-0.50, 31.44), (-0.50, 36.68), (-0.50, 44.53)),
    "elastic_transform": ((-0.33, 35.29), (-0.45, 32.91), (-0.44, 29.72), (-0.52, 27.71), (-0.40, 23.83)),
    "pixelate": ((0.06, 7.69), (0.12, 10.08), (0.15, 11.62), (0.25, 13.97), (0.37, 16.94)),
    "jpeg_compression": ((0.04, 12.83), (0.08, 15.32), (0.07, 16.10), (0.07, 16.85), (0.05, 17.78)),
    "speckle_noise": ((-0.52, 5.67), (-0.57, 9.31), (-0.61, 11.10), (-0.72, 14.63), (-0.86, 18.04)),
    "gaussian_blur": ((-0.50, 2.90), (-0.50, 10.50), (-0.50, 12.89), (-0.50, 14.62), (-0.50, 17.14)),
    "spatter": ((1.10, 8.39), (2.96, 13.65), (7.10, 19.71), (-1.12, 11.04), (-1.93, 14.56)),
    "saturate": ((18.23, 27.18), (23.52, 35.03), (-9.30, 14.64), (-17.16, 28.98), (-21.53, 38.25)),
}
# Those without random numbers follow it level by level; the others as far as their numbers differ.
SHARE = dict.fromkeys(("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "gaussian_blur"), 0.002)
SHARE |= {"saturate": 0.002, "jpeg_compression": 0.02, "frost": 0.08, "spatter": 0.08}
TIMES = {"fog": 5}  # how often each image is corrupted: the changes of 128 clouds have a spread of 2 % of their size


def levels(x):
    return (x * 255).round().numpy()


@pytest.fixture(scope="module")
def shape_images():
    x = shapes(32).test.x
    return x[np.random.default_rng(0).permutation(len(x))[:128]]  # as `datasets.load` orders them


@pytest.mark.parametrize("name", REFERENCE)
def test_changes_as_much_as_the_published_generator(name, shape_images):
    clean = np.concatenate([shape_images] * TIMES.get(name, 1))
    x = torch.from_numpy(clean).float() / 255
    for severity, (mean, rms) in zip(SEVERITIES, REFERENCE[name], strict=True):
        corrupted = levels(corrupt(name, x, severity, draws(len(x))))
        ours, published = change(clean, corrupted), Change(mean, rms)
        levels_off = 0.02 if SHARE.get(name) == 0.002 else 0.25
        assert ours.is_close(published, SHARE.get(name, 0.04), levels_off), (severity, ours, published)


def test_the_groups_are_fifteen_four_and_fifteen():
    assert len(REFERENCE) == 19 and len(STANDARD) == len(ART) == 15 and len(EXTRA) == 4
    assert set(STANDARD) | set(EXTRA) == set(REFERENCE) and not set(STANDARD) & set(EXTRA)
    assert EXTRA == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert set(STANDARD) - set(ART) == {"frost"} and set(ART) - set(STANDARD) == {"speckle_noise"}


def test_unknown_names_severities_and_shapes():
    x = photos(2)
    with pytest.raises(UserError, match="corruption 'gausian_noise' is not known; did you mean 'gaussian_noise'"):
        corrupt("gausian_noise", x, 1, draws(2))
    for severity in (0, 6, 2.5, "3"):
        with pytest.raises(UserError, match="severity is 1, 2, 3, 4 or 5, not"):
            corrupt("fog", x, severity, draws(2))
    with pytest.raises(UserError, match=r"1 or 3 channels, \(B, C, H, W\), not \(2, 2, 8, 8\)"):
        corrupt("fog", torch.zeros(2, 2, 8, 8), 1, draws(2))


# The contract, over every name


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_what_it_promises(name, promise):
    promise(name)


def dust(x, severity, draws):
    return filters.truncated(filters.unit(x) * (draws.uniform(1, *x.shape[2:]) > 0.1 * severity))


def negative(x, severity, draws):
    return filters.truncated(1 - filters.unit(x) / severity)


@pytest.mark.parametrize("made_up", [Corruption(dust), Corruption(negative, random=False)], ids=["dust", "negative"])
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_a_new_corruption_needs_nothing_but_its_entry(made_up, promise, monkeypatch):
    monkeypatch.setitem(CORRUPTIONS, "made_up", made_up)
    promise("made_up")


@pytest.mark.parametrize(
    ("wrong", "promise", "advice"),
    [
        (lambda x, s, d: 0.9 * x, CONTRACT[0], "end with `filters.truncated`"),
        (lambda x, s, d: x, CONTRACT[1], "changes nothing"),
        (lambda x, s, d: filters.truncated(x * x.mean()), CONTRACT[2], "depends on the batch"),
        (lambda x, s, d: filters.truncated(x * torch.rand(1)), CONTRACT[3], "draw from `draws` only"),
        (negative, CONTRACT[3], "declares `random=True`, but equal images become equal"),
    ],
)
def test_a_promise_that_is_broken_is_said(wrong, promise, advice, monkeypatch):
    monkeypatch.setitem(CORRUPTIONS, "made_up", Corruption(wrong))
    with pytest.raises(AssertionError, match=f"^made_up: .*{advice}"):
        promise("made_up")


def test_a_new_corruption_is_of_no_published_mean(monkeypatch):
    context = suites.EvaluationContext(Measure(), Attribution(), (3, 32, 32))
    before = suites.corruption_suite(context)
    monkeypatch.setitem(CORRUPTIONS, "made_up", Corruption(dust))
    after = suites.corruption_suite(context)
    assert {"made_up", "made_up-5"} <= set(after) - set(before)
    for mean, n in (("corrupted", 15), ("corrupted_art", 15)):
        assert after[mean] == before[mean] and len(after[mean].protocol["corruptions"]) == n


@pytest.mark.parametrize("name", REFERENCE)
def test_a_grey_image_stays_grey_in_one_channel_or_three(name):
    """What is the same for all channels does to three equal ones what it does to one."""
    x = (photos(3, 1) * 100).round() / 255  # dark enough that no channel is clipped
    one, three = (corrupt(name, z, 2, draws(3)) for z in (x, x.repeat(1, 3, 1, 1)))
    if name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"):  # drawn per channel
        assert not torch.equal(three[:, 0], three[:, 1])
    elif name in ("frost", "spatter"):  # coloured
        luma = filters.luma(three)
        assert (luma - one).abs().max() < 2.1 / 255
    else:
        assert (three - one).abs().max() <= 1.01 / 255


# Noise


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.04), (5, 0.1)])
def test_gaussian_noise_has_its_sigma(severity, sigma):
    noise = corrupt("gaussian_noise", torch.full((40, 3, 32, 32), 0.5), severity, draws(40)) * 255 - 128
    n = noise.numel()
    assert noise.mean() == pytest.approx(-0.5, abs=5 * sigma * 255 / n**0.5)  # truncated, not rounded
    assert noise.std() == pytest.approx(sigma * 255, rel=5 / (2 * n) ** 0.5 + 0.001)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (5, 50)])
def test_shot_noise_has_the_variance_of_photons(severity, photons):
    noise = corrupt("shot_noise", torch.full((40, 3, 32, 32), 102 / 255), severity, draws(40))
    assert noise.var() == pytest.approx(0.4 / photons, rel=0.05)
    assert corrupt("shot_noise", torch.zeros(1, 1, 8, 8), severity, draws(1)).max() == 0


@pytest.mark.parametrize(("severity", "amount"), [(1, 0.01), (5, 0.07)])
def test_impulse_noise_is_half_salt_half_pepper(severity, amount):
    x = torch.full((40, 3, 32, 32), 100 / 255)
    z, n = corrupt("impulse_noise", x, severity, draws(40)), x.numel()
    for value in (0, 1):
        share = (z == value).float().mean().item()
        assert abs(share - amount / 2) < 5 * math.sqrt(amount / 2 / n)
    assert ((z == 0) | (z == 1) | (z == x)).all()


def test_speckle_noise_is_in_proportion():
    stds = [
        corrupt("speckle_noise", torch.full((20, 3, 32, 32), level / 255), 2, draws(20)).std() * 255
        for level in (60, 120)
    ]
    assert stds[0] == pytest.approx(6, rel=0.03) and stds[1] == pytest.approx(12, rel=0.03)
    assert corrupt("speckle_noise", torch.zeros(1, 1, 8, 8), 5, draws(1)).max() == 0


# Blur


def test_gaussian_blur_is_scipy_s():
    x = photos(2)
    for severity, sigma in enumerate((0.4, 0.6, 0.7, 0.8, 1), 1):
        expected = ndimage.gaussian_filter(levels(x).astype(float) / 255, (0, 0, sigma, sigma), mode="nearest")
        np.testing.assert_array_equal(levels(corrupt("gaussian_blur", x, severity, draws(2))), np.floor(expected * 255))


@pytest.mark.parametrize(("radius", "alias"), [(0.3, 0.4), (1, 0.2), (1.5, 0.1), (7, 0.5), (10.5, 0.1)])
def test_disk_sums_to_one_is_symmetric_and_has_its_radius(radius, alias):
    kernel = filters.disk(radius, alias)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0))
    at = torch.arange(len(kernel)) - len(kernel) // 2
    inside = at[:, None] ** 2 + at**2 <= max(0, radius - 2) ** 2
    assert kernel[inside].min() > 0.5 * kernel.max()
    assert kernel[at[:, None] ** 2 + at**2 > (radius + 3) ** 2].abs().sum() < 1e-6


def test_defocus_blur_of_a_point_is_the_disk():
    x = torch.zeros(1, 1, 32, 32)
    x[..., 16, 16] = 1
    z = corrupt("defocus_blur", x, 5, draws(1))[0, 0]
    expected = (filters.disk(1.5, 0.1) * 255).floor() / 255
    reach = len(expected) // 2
    around = slice(16 - reach, 17 + reach)
    torch.testing.assert_close(z[around, around], expected.float())
    assert z.sum() == pytest.approx(expected.sum().item())


def test_glass_blur_takes_neighbours_from_above_and_left():
    """Almost without blur (severity 1), a pixel is itself, the one above, the one to the left, or both; as often."""
    values = torch.arange(32 * 32).view(32, 32) % 251
    x = (values / 255).view(1, 1, 32, 32).repeat(20, 1, 1, 1)
    z = (corrupt("glass_blur", x, 1, draws(20)) * 255).round().long()[:, 0]
    assert (z[:, :2] == values[:2]).all() and (z[:, :, :2] == values[:, :2]).all()
    inner = z[:, 2:, 2:]
    neighbours = [values[2 - dy : 32 - dy, 2 - dx : 32 - dx] for dy in (0, 1) for dx in (0, 1)]
    assert sum(inner == one for one in neighbours).eq(1).all()
    for one in neighbours:
        assert (inner == one).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_motion_blur_of_a_point_is_a_half_line_of_gaussian_weights():
    x = torch.zeros(200, 1, 65, 65)
    x[..., 32, 32] = 1
    z = filters.motion_blurred(x, 9, 2.5, torch.linspace(-45, 45, 200))[:, 0]
    weights = np.exp(-0.5 * (np.arange(19) / 2.5) ** 2)
    for angle, image in zip(np.linspace(-45, 45, 200), z, strict=True):
        assert image.sum().item() == pytest.approx(1, abs=1e-5)
        assert image[32, 32].item() == pytest.approx(weights[0] / weights.sum(), rel=1e-4)
        rows, columns = image.nonzero(as_tuple=True)
        rows, columns = rows - 32, columns - 32
        assert columns.max() <= 0 and columns.min() <= -6  # what is read to the right is drawn to the left
        beside = columns * math.sin(math.radians(angle)) - rows * math.cos(math.radians(angle))
        assert beside.abs().max() < 0.75


def test_motion_blur_leaves_a_flat_image():
    x = torch.full((3, 3, 32, 32), 200 / 255)
    assert (corrupt("motion_blur", x, 5, draws(3)) - x).abs().max() < 1.01 / 255


@pytest.mark.parametrize("factor", [1.0, 1.06, 1.13, 1.25, 1.75, 2.25])
def test_zoom_is_scipy_s(factor):
    x = photos(1, 3)
    cut = math.ceil(32 / factor)
    first = (32 - cut) // 2
    middle = x[0, :, first : first + cut, first : first + cut].double().numpy()
    expected = ndimage.zoom(middle, (1, factor, factor), order=1)
    trim = (expected.shape[1] - 32) // 2
    expected = expected[:, trim : trim + 32, trim : trim + 32]
    np.testing.assert_allclose(filters.zoomed(x.double(), factor)[0].numpy(), expected, atol=1e-12)


# Weather


def test_plasma_by_hand_at_two_pixels():
    """One square and two diamonds of noise on a map that repeats itself."""
    u = draws(1)
    noise = [(2 * u.uniform(1, 1).double().item() - 1) * 1e4 for _ in range(3)]
    middle = noise[0]
    top, left = (2 * middle / 4 + n for n in noise[1:])
    cloud = np.array([[0, top], [left, middle]])
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    np.testing.assert_allclose(corruptions_textures.plasma(2, 3, draws(1))[0, 0], cloud, atol=1e-12)


def test_plasma_fills_zero_to_one_and_is_smoother_for_a_larger_decay():
    rough, smooth = (corruptions_textures.plasma(64, decay, draws(8)) for decay in (1.5, 3))
    for cloud in (rough, smooth):
        assert cloud.shape == (8, 1, 64, 64)
        assert (cloud.amin((1, 2, 3)) == 0).all() and (cloud.amax((1, 2, 3)) == 1).all()
    assert smooth.diff(dim=-1).abs().mean() < 0.6 * rough.diff(dim=-1).abs().mean()


def test_fog_brightens_the_dark_keeps_the_brightest_and_rises_with_severity():
    x = photos(8) * 0.25
    x[..., 0, 0] = 1
    means = [corrupt("fog", x, severity, draws(8)).mean().item() for severity in SEVERITIES]
    assert means[0] > x.mean() and means == sorted(means)
    z = corrupt("fog", x, 5, draws(8))
    assert (z[..., 0, 0] > 101.5 / 255).all()  # (1 + 1.5 * 0) / (1 + 1.5), where a cloud is thinnest
    assert (corrupt("fog", x / 2, 5, draws(8)) <= 128.01 / 255).all()


def test_snow_is_paler_and_the_layer_has_a_turned_twin():
    x = torch.zeros(4, 1, 32, 32)
    z = corrupt("snow", x, 4, draws(4)) - 0.15 * 0.5  # black is raised by (1 - 0.85) * 0.5
    assert (z >= -1 / 255).all() and z.mean() > 0.02
    torch.testing.assert_close(z, z.flip(-1, -2))


def test_frost_textures_are_five_always_the_same_and_crystalline():
    textures = corruptions_textures.frost_textures()
    corruptions_textures.frost_textures.cache_clear()
    again = corruptions_textures.frost_textures()
    assert torch.equal(textures, again) and textures.shape[:2] == (5, 3)
    assert textures.min() >= 0 and textures.max() <= 1
    grey = textures.mean(1)
    for lag, least, most in ((1, 0.4, 0.75), (8, 0.05, 0.5)):  # between noise and a smooth cloud
        here, there = grey[..., :-lag].flatten(1), grey[..., lag:].flatten(1)
        for a, b in zip(here, there, strict=True):
            assert least < np.corrcoef(a, b)[0, 1] < most


def test_frost_has_the_high_frequencies_of_the_photographs():
    """A frozen figure: 6000 random crops of the five published photographs, resized to a fifth, have 0.00473."""
    tiles = corruptions_textures.frost_textures().unfold(2, 32, 16).unfold(3, 32, 16)
    power = torch.fft.fft2(tiles).abs().square() / 32**4
    frequencies = torch.fft.fftfreq(32)
    high = torch.hypot(frequencies[:, None], frequencies) > 0.25
    assert power[..., high].sum(-1).mean().item() == pytest.approx(0.00473, rel=0.03)


def test_frost_is_a_weighted_sum_of_image_and_texture():
    black = corrupt("frost", torch.zeros(64, 3, 32, 32), 5, draws(64))
    x = torch.full((64, 3, 32, 32), 80 / 255)
    torch.testing.assert_close(corrupt("frost", x, 5, draws(64)) - black, 0.75 * x, rtol=0, atol=1.01 / 255)
    assert black.mean() == pytest.approx(0.45 * corruptions_textures.frost_textures().mean().item(), rel=0.1)


def test_spatter_is_bright_water_then_dark_mud():
    x = torch.full((32, 3, 32, 32), 0.5)
    for severity in SEVERITIES:
        z = corrupt("spatter", x, severity, draws(32)) * 255
        changed = (z - 127.5).abs() > 1
        assert 0.01 < changed.float().mean() < 0.9
        assert (z[changed].mean() > 127) == (severity <= 3)


def test_edges_outline_a_square():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 4:12, 4:12] = 200
    edges = corruptions_textures.canny(x, 50, 150)[0, 0]
    assert not edges[6:10, 6:10].any() and not edges[:3].any() and not edges[13:].any()
    assert edges[7, [3, 4]].any() and edges[7, [11, 12]].any() and edges[[3, 4], 7].any()
    assert not corruptions_textures.canny(torch.full((1, 1, 8, 8), 9.0), 50, 150).any()


def test_chamfer_distances_are_sums_of_moves():
    edges = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    edges[..., 0, 0] = True
    distance = corruptions_textures._chamfer(edges)[0, 0]
    for (row, column), expected in {(0, 5): 5, (3, 3): 4.2, (1, 2): 2.1969, (2, 5): 5.3938, (8, 4): 8.7876}.items():
        assert distance[row, column].item() == pytest.approx(expected)
    euclid = ndimage.distance_transform_edt(~edges[0, 0].numpy())
    assert abs(distance.numpy() - euclid).max() < 0.03 * euclid.max()


def test_equalised_levels_are_their_ranks():
    levels = torch.tensor([[[[0.0, 0, 3, 3], [3, 3, 9, 9]]], [[[7.0, 7, 7, 7], [7, 7, 7, 7]]]])
    found = corruptions_textures._equalised(levels)
    torch.testing.assert_close(found[0], torch.tensor([[[0.0, 0, 170, 170], [170, 170, 255, 255]]]))
    torch.testing.assert_close(found[1], levels[1])


# Digital


def _by_colorsys(x, change):
    pixels = x.double().permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in pixels]
    return torch.tensor(changed).view(len(x), *x.shape[2:], 3).permute(0, 3, 1, 2)


def _within_a_level_below(z, expected):
    below = expected * 255 - z * 255
    assert below.min() > -1e-3 and below.max() < 1 + 1e-3


@pytest.mark.parametrize(("severity", "add"), [(1, 0.05), (4, 0.2), (5, 0.3)])
def test_brightness_is_value_in_hsv(severity, add):
    x = photos(2, height=16, width=16)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, 1
    expected = _by_colorsys(x, lambda h, s, v: (h, s, min(1, v + add)))
    _within_a_level_below(corrupt("brightness", x, severity, draws(2)), expected)


@pytest.mark.parametrize(("severity", "times", "add"), [(1, 0.3, 0), (3, 1.5, 0), (5, 2.5, 0.2)])
def test_saturate_is_saturation_in_hsv(severity, times, add):
    x = photos(2, height=16, width=16)
    x[0, :, 0, 0], x[0, :, 0, 1], x[0, :, 0, 2] = 0, 1, 77 / 255  # grey gets a little red, as published
    expected = _by_colorsys(x, lambda h, s, v: (h, min(1, s * times + add), v))
    _within_a_level_below(corrupt("saturate", x, severity, draws(2)), expected)


def test_saturate_leaves_images_of_one_channel():
    x = photos(2, 1)
    assert torch.equal(corrupt("saturate", x, 5, draws(2)), x)


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.75), (5, 0.15)])
def test_contrast_is_about_each_channel_s_mean(severity, factor):
    x = photos(2)
    mean = x.double().mean((2, 3), keepdim=True)
    _within_a_level_below(corrupt("contrast", x, severity, draws(2)), (x - mean) * factor + mean)


def test_pixelate_leaves_a_flat_image_and_grows_blocks_with_the_image():
    flat = torch.full((1, 3, 32, 32), 90 / 255)
    assert torch.equal(corrupt("pixelate", flat, 5, draws(1)), flat)
    z = corrupt("pixelate", torch.rand(1, 1, 224, 224), 5, draws(1))[0, 0]
    assert len(torch.unique_consecutive(z, dim=0)) == len(torch.unique_consecutive(z.T, dim=0)) == int(32 * 0.65)


def test_jpeg_is_pillow_s(tmp_path):
    x = photos(1)
    Image.fromarray(levels(x)[0].transpose(1, 2, 0).astype(np.uint8)).save(tmp_path / "x.jpg", quality=40)
    expected = np.asarray(Image.open(tmp_path / "x.jpg")).transpose(2, 0, 1)
    np.testing.assert_array_equal(levels(corrupt("jpeg_compression", x, 5, draws(1)))[0], expected)


@pytest.mark.parametrize(("whole", "mode"), [(True, "mirror"), (False, "reflect")])
def test_sampling_between_pixels_is_scipy_s(whole, mode):
    x, generator = photos(1), torch.Generator().manual_seed(0)
    rows, columns = (torch.rand(1, 32, 32, generator=generator).double() * 44 - 6 for _ in range(2))
    z = filters.sampled(x, rows, columns, whole=whole)[0]
    for channel in range(3):
        places = [rows[0].numpy(), columns[0].numpy()]
        expected = ndimage.map_coordinates(x[0, channel].double().numpy(), places, order=1, mode=mode)
        np.testing.assert_allclose(z[channel].numpy(), expected, atol=1e-5)


def test_elastic_noise_is_smoothed_as_scipy_does():
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), 6.4, mode="reflect", truncate=3)
    found = filters.smooth(x, 6.4, truncate=3, reflected=True)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-12)


def test_elastic_transform_of_a_ramp_is_affine_at_severity_1():
    """Without shifts of single pixels, rows and columns move to linear functions of place, away from the border."""
    ramp = torch.arange(32.0).expand(32, 32)
    x = torch.stack([ramp, ramp.T, ramp]).expand(4, 3, 32, 32) / 255 * 4
    z = corrupt("elastic_transform", x, 1, draws(4))[:, :2, 12:20, 12:20] * 255 / 4
    for axis in (2, 3):
        assert z.diff(dim=axis).diff(dim=axis).abs().max() <= 0.51  # two truncations of a quarter
    assert (z - x[:, :2, 12:20, 12:20] * 255 / 4).abs().max() < 8
    assert (z - x[:, :2, 12:20, 12:20] * 255 / 4).abs().mean() > 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_gpu_gives_the_same_up_to_a_level(name):
    x = photos(8)
    here = corrupt(name, x, 3, draws(8))
    there = corrupt(name, x.cuda(), 3, PerImageRng(torch.arange(8).cuda())).cpu()
    assert (here != there).float().mean() < 0.01 and (here - there).abs().max() < 1.01 / 255
