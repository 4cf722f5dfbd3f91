"""Settings `data.*` and `augment.*`: data set, split and augmentation."""

from dataclasses import dataclass

from harness.setting_types import CountOrZero, ProperShare, ProperShareOrZero, SideOrZero, later


@dataclass(frozen=True)
class DataSource:
    """Data set, split, size and crop.

    val: share of the training images held out for validation. split: seed of that split. limit: use only the first
    `limit` images of each part (0: all). size: resize to this height and width (0: as stored). crop: train on random
    square crops of this side, measure on the centre crop (0: on whole images). image: the column of images, where a
    parquet file has several. test_share: share of the training images that a fixed seed makes the test part, where the
    files have none.
    """

    name: str = "digits"
    val: ProperShare = 0.2
    split: CountOrZero = 0
    limit: CountOrZero = 0
    size: SideOrZero = 0
    crop: SideOrZero = 0
    image: str = later("")
    test_share: ProperShareOrZero = later(0.0)


@dataclass(frozen=True)
class Augment:
    """pad: random crop after padding by so many black pixels. flip: flip images horizontally with probability 0.5."""

    pad: SideOrZero = 0
    flip: bool = False
