"""Examples to arrays: prompts are packed, originals padded to one size."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from lfpc_jax.data import prompts
from lfpc_jax.data.examples import Example
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.errors import UserError
from lfpc_jax.image import views
from lfpc_jax.rollout.types import Batch


def in_place(
  examples: Sequence[Example], originals: np.ndarray
) -> list[Example]:
  """The examples, their images as parts of `originals`.

  So the host holds the pixels of a batch once, not decoded and packed.

  Args:
    examples: P of them.
    originals: what `Packer.originals` made of them, u8[I, Ho, Wo, 3].
  """
  share = len(examples) // len(originals)
  found = []
  for k, example in enumerate(examples):
    height, width = example.image.shape[:2]
    image = originals[k // share, :height, :width]
    found.append(dataclasses.replace(example, image=image))
  return found


@dataclasses.dataclass(frozen=True)
class Packer:
  """Packs examples into batches of fixed shapes.

  Attributes:
    tokenizer: the policy's.
    style: prompt style, a key of prompts.STYLES.
    view_capacity: visual tokens of the largest global view.
    view_min_tokens: a smaller image is enlarged to this many visual tokens.
    text_capacity: prompt tokens that are not visual.
    image_capacity: (height, width) of the largest original.
    target_capacity: nested boxes of an example; of more, the smallest are kept.
    direct: prompts for an answer at once, without the tool.
  """

  tokenizer: Tokenizer
  style: str
  view_capacity: int
  view_min_tokens: int
  text_capacity: int
  image_capacity: tuple[int, int]
  target_capacity: int = 4
  direct: bool = False

  def view_grid(self, example: Example, tokens: int) -> tuple[int, int]:
    """(rows, cols) of the global view at a budget of visual tokens."""
    height, width = example.image.shape[:2]
    least = min(self.view_min_tokens, tokens)
    return views.choose_grid(height, width, least, tokens)

  def pack(
    self,
    examples: Sequence[Example],
    budgets: Sequence[int],
    originals: np.ndarray | None = None,
  ) -> Batch:
    """Makes a batch of NumPy arrays.

    Args:
      examples: P of them.
      budgets: visual tokens of each one's global view.
      originals: what `originals` gives for them, if it is there already.

    Raises:
      UserError: an original, a view or a prompt exceeds its capacity.
    """
    rows = [
      self._row(example, budget)
      for example, budget in zip(examples, budgets, strict=True)
    ]
    if originals is None:
      originals = self.originals(examples)
    columns = (np.stack(column) for column in zip(*rows, strict=True))
    names = (f.name for f in dataclasses.fields(Batch))
    rest = (n for n in names if n not in ("originals", "visual"))
    return Batch(originals=originals, **dict(zip(rest, columns, strict=True)))

  def originals(
    self, examples: Sequence[Example], share: int = 1
  ) -> np.ndarray:
    """The examples' images in one array, u8[P / share, Ho, Wo, 3].

    What lies beyond the images takes no memory of the host until it is
    written to.

    Args:
      examples: P of them.
      share: so many in a row have one image.

    Raises:
      UserError: an image exceeds the capacity.
    """
    distinct = examples[::share]
    array = np.zeros((len(distinct), *self.image_capacity, 3), np.uint8)
    for place, example in zip(array, distinct):
      self._check_image(example)
      height, width = example.image.shape[:2]
      place[:height, :width] = example.image
    return array

  def check(self, example: Example, budget: int) -> None:
    """Raises what `pack` would; the image's pixels do not matter.

    Raises:
      UserError: the original, the view or the prompt exceeds its capacity.
    """
    self._check_image(example)
    self._row(example, budget)

  def _check_image(self, example: Example) -> None:
    height, width = example.image.shape[:2]
    if height > self.image_capacity[0] or width > self.image_capacity[1]:
      raise UserError(
        f"example {example.id}: its image of {height} x {width} pixels "
        f"exceeds data.image_capacity {tuple(self.image_capacity)}: raise it, "
        "or set data.oversize=shrink"
      )

  def _row(self, example: Example, budget: int) -> tuple[np.ndarray, ...]:
    grid = self.view_grid(example, budget)
    if grid[0] * grid[1] > self.view_capacity:
      raise UserError(
        f"example {example.id}: its view of {grid[0]} x {grid[1]} visual "
        f"tokens exceeds the capacity of {self.view_capacity}: a thin picture "
        "has a token for each cell; raise gap.tokens (where gap.mode is "
        "'fixed', else gap.full_tokens), or leave the picture out"
      )
    text = prompts.prompt_text(
      example.question, example.options, self.style, self.direct
    )
    slots = self.view_capacity + self.text_capacity
    packed = prompts.pack_prompt(self.tokenizer, text, grid, slots)
    boxes = np.zeros((self.target_capacity, 4), np.int32)
    number = min(len(example.boxes), self.target_capacity)
    boxes[:number] = example.boxes[:number]
    return (
      packed.tokens,
      packed.positions,
      packed.visual_index,
      packed.length,
      packed.next_position,
      np.array(example.image.shape[:2], np.int32),
      np.array(grid, np.int32),
      boxes,
      np.arange(self.target_capacity) < number,
    )
