"""An example: one question about one image, as every data set gives it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
  """A question about an image, on the host.

  Attributes:
    id: unique within its data set.
    image: the original, u8[H, W, 3].
    question: what is asked, without the options.
    answer: the expected answer.
    category: the kind of question, for reports.
    options: the choices of a multiple-choice question, or ().
    boxes: i32[n, 4] regions of the original that hold the answer, nested, the
      smallest first, (x1, y1, x2, y2) pixel edges, half-open; n may be 0.
    source: the data set.
    group: equal for questions that are scored together, as HR-Bench's four
      rotations; '' for none.
    variant: which one of its group it is.
    image_id: equal for examples with the same image; '' where unknown.
    shrunk: the image was larger than its room and is smaller than published.
  """

  id: str
  image: np.ndarray
  question: str
  answer: str
  category: str
  options: tuple[str, ...]
  boxes: np.ndarray
  source: str
  group: str = ""
  variant: str = ""
  image_id: str = ""
  shrunk: bool = False
