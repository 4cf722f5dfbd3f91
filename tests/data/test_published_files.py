import hashlib

import numpy as np
import pytest

from harness.data.corruptions.published_files import Change, change, find
from harness.errors import UserError

N = 12


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 10, N)


@pytest.fixture
def root(tmp_path, images, labels):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return tmp_path


def test_finds_either_spelling_and_nothing_else(root):
    assert find("cifar10", root).path == root / "CIFAR-10-C"
    assert find("cifar100", root) is None
    assert find("digits", root) is None
    (root / "CIFAR-10-C").rename(root / "cifar-100-c")
    assert find("cifar10", root) is None
    assert find("cifar100", root).path == root / "cifar-100-c"


def test_images_are_the_severity_s_rows_in_the_order_asked_for(root, images):
    folder, order = find("cifar10", root), np.random.default_rng(2).permutation(N)
    assert folder.n == N and folder.corruptions == ("fog",)
    for severity in (1, 3, 5):
        rows = images[(severity - 1) * N : severity * N]
        mapped = folder.images("fog", severity)
        np.testing.assert_array_equal(mapped, rows)
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(folder.images("fog", severity, order), rows[order])
        np.testing.assert_array_equal(folder.images("fog", severity, order[:4]), rows[order[:4]])


def test_labels_must_match_in_the_order_asked_for(root, labels):
    folder, order = find("cifar10", root), np.random.default_rng(2).permutation(N)
    folder.check(labels)
    folder.check(labels[order], order)
    folder.check(labels[order][:5], order[:5])
    with pytest.raises(
        UserError, match=r"differs from the labels of \d+ of 12 test images, first at row \d+: other data"
    ):
        folder.check(labels, order)
    with pytest.raises(UserError, match="has 12 labels at a severity, and the test images have 11"):
        folder.check(labels[:11])
    with pytest.raises(UserError, match="has 12 labels"):
        folder.check(np.zeros(20, int), np.arange(20))


def test_labels_are_checked_at_every_severity(root, labels):
    five = np.tile(labels, 5)
    five[4 * N + 7] += 1
    np.save(root / "CIFAR-10-C" / "labels.npy", five)
    with pytest.raises(UserError, match="of 1 of 12 test images, first at row 7"):
        find("cifar10", root).check(labels)


def test_digest_is_of_the_file(root):
    expected = hashlib.sha256((root / "CIFAR-10-C" / "fog.npy").read_bytes()).hexdigest()[:16]
    assert find("cifar10", root).digest("fog") == expected


def test_unknown_names_and_severities(root):
    folder = find("cifar10", root)
    for ask in (lambda: folder.images("fogg", 1), lambda: folder.digest("fogg")):
        with pytest.raises(UserError, match="corruption 'fogg' is not known; did you mean 'fog'"):
            ask()
    for severity in (0, 6):
        with pytest.raises(UserError, match=f"severity is 1, 2, 3, 4 or 5, not {severity}"):
            folder.images("fog", severity)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "cut short or damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:20]), "cut short or damaged"),
        (lambda file: file.write_bytes(b""), "not an .npy file"),
        (lambda file: file.write_text("<!DOCTYPE html><html>not found</html>"), "not an .npy file"),
        (lambda file: np.save(file, np.array([{}], object), allow_pickle=True), "cut short or damaged"),
        (lambda file: np.save(file, np.zeros((5 * N, 32, 32, 3), np.float32)), r"float32 \(60, 32, 32, 3\), not 8-bit"),
        (lambda file: np.save(file, np.zeros((5 * N, 3, 32, 32), np.uint8)), "not 8-bit images"),
        (lambda file: np.save(file, np.zeros((N, 32, 32, 3), np.uint8)), "holds 12 images, not 12 at each of 5"),
    ],
)
def test_a_damaged_file_is_one_line(root, damage, message):
    damage(root / "CIFAR-10-C" / "fog.npy")
    with pytest.raises(UserError, match=message) as raised:
        find("cifar10", root).images("fog", 1)
    assert "\n" not in str(raised.value) and "fog.npy" in str(raised.value)


@pytest.mark.parametrize("labels", [np.zeros(5 * N), np.zeros((5, N), int), np.zeros(5 * N + 1, int), np.zeros(0, int)])
def test_labels_of_another_kind_are_one_line(root, labels):
    np.save(root / "CIFAR-10-C" / "labels.npy", labels)
    with pytest.raises(UserError, match=r"labels.npy' holds .*, not whole numbers"):
        find("cifar10", root)


def test_missing_labels_are_one_line(root):
    (root / "CIFAR-10-C" / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"cannot read .*labels\.npy': No such file"):
        find("cifar10", root)


def test_change_in_levels():
    clean = np.full((2, 4, 4, 3), 250, np.uint8)
    corrupted = clean.copy()
    corrupted[0], corrupted[1] = 255, 244
    found = change(clean, corrupted)
    assert found.mean == pytest.approx(-0.5)
    assert found.rms == pytest.approx(((25 + 36) / 2) ** 0.5)


def test_near_means_both_numbers():
    published = Change(10, 20)
    assert Change(11.2, 21.2).is_close(published)
    assert not Change(11.3, 20).is_close(published)
    assert not Change(10, 18.7).is_close(published)
    assert Change(0, 0.2).is_close(Change(0, 0)) and not Change(0, 0.3).is_close(Change(0, 0))
