"""A data set of one's own for Python code: arrays, a torch `Dataset` or a Hugging Face one, stored when it is used.

Data.from_arrays(x, y, test=(x_test, y_test))    Data.from_dataset(train, test)      as `harness.api.Data`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from harness.data import dataset_objects
from harness.data.arrays import Arrays, from_arrays
from harness.errors import UserError
from harness.storage.workspace import Workspace


@dataclass(frozen=True, eq=False)
class OwnData:
    """Images and labels of one's own, perhaps with boxes and masks. test: None, and `data.test_share` draws a part."""

    train: Arrays
    test: Arrays | None = None
    classes: tuple[str, ...] = ()
    name: str = "arrays"

    @classmethod
    def from_arrays(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        boxes: ArrayLike | None = None,
        masks: ArrayLike | None = None,
        *,
        test: Sequence[Any] | None = None,
        classes: Sequence[str] = (),
        name: str = "arrays",
    ) -> "OwnData":
        """Arrays or tensors: x (N, C, H, W), C 1 or 3, uint8 or whole 255ths; y (N,) whole numbers from 0.

        boxes: (N, 4) x1, y1, x2, y2 in pixels, inclusive. masks: (N, H, W): 0 background, 1 object, 255 unknown. test:
        the same columns of the test images. classes: the names of the labels. Raises `UserError`, when the data are
        used, for anything that is not so.
        """
        if test is not None and not 2 <= len(test) <= 4:
            raise UserError(f"test takes x and y, and perhaps boxes and masks, not {len(test)} arrays")
        tested = None if test is None else Arrays(*test)
        return cls(Arrays(x, y, boxes, masks), tested, tuple(map(str, classes)), name)

    @classmethod
    def from_dataset(cls, train: Any, test: Any = None, *, name: str = "dataset") -> "OwnData":
        """A torch `Dataset` of (image, label), or a Hugging Face one with a column of images and one of labels.

        Images: of Pillow, arrays or tensors, of one size. Raises `UserError` for anything else.
        """
        x, y, classes = dataset_objects.columns(train)
        tested = None if test is None else Arrays(*dataset_objects.columns(test)[:2])
        return cls(Arrays(x, y), tested, tuple(classes), name)

    def stored(self, workspace: Workspace) -> str:
        """Store it below the data root, unless it is there. Returns the name of the data set: with a digest of it."""
        return from_arrays(self.train, self.test, workspace, name=self.name, classes=self.classes)
