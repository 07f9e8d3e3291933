"""Which examples a training step sees."""

import dataclasses
import functools

import numpy as np

from lfpc_jax import errors


@dataclasses.dataclass(frozen=True)
class BatchSampler:
  """Which examples a step sees: a pure function of the step.

  Epoch after epoch is laid end to end and cut into batches; each epoch is
  another permutation. Joined in their order, the processes' parts are the
  batch that a single process would see.

  Attributes:
    seed: decides the permutations.
    batch_size: examples of a step, over all processes.
    num_examples: examples of the data set.
    process_index, process_count: this process, and how many there are.
    shuffle: False gives every epoch in stored order, as evaluation wants it.
  """

  seed: int
  batch_size: int
  num_examples: int
  process_index: int = 0
  process_count: int = 1
  shuffle: bool = True

  def __post_init__(self):
    if self.num_examples < 1 or self.batch_size < 1:
      raise errors.UserError(
        f"No batch of {self.batch_size} from {self.num_examples} examples:"
        " both numbers must be positive."
      )
    if not 0 <= self.process_index < self.process_count:
      raise errors.UserError(
        f"Process {self.process_index} of {self.process_count}: indices"
        " start at 0."
      )
    if self.batch_size % self.process_count:
      raise errors.UserError(
        f"batch_size = {self.batch_size} is no multiple of the"
        f" {self.process_count} processes: change one of them."
      )

  @property
  def steps_per_epoch(self) -> int:
    """Steps that see every example at least once, from step 0 on."""
    return -(-self.num_examples // self.batch_size)

  def __call__(self, step: int) -> np.ndarray:
    """The indices of this process's part of a step's batch: i64[local]."""
    local = self.batch_size // self.process_count
    first = step * self.batch_size + self.process_index * local
    epochs, places = np.divmod(first + np.arange(local), self.num_examples)
    if not self.shuffle:
      return places
    orders = {
      epoch: _epoch_order(self.seed, int(epoch), self.num_examples)
      for epoch in np.unique(epochs)
    }
    pairs = zip(epochs, places, strict=True)
    return np.array([orders[epoch][place] for epoch, place in pairs], np.int64)


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, number: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(number)
