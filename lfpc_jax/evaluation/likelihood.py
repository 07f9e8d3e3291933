"""V*Bench's official question: which option does the policy find likeliest?

Nothing is generated. The policy is asked without the options and without the
tool, and each option's text is laid in its mouth as the answer. The options
of a question are the G suffixes of one prefix, so that the prompt is read
once; `benchmarks.vstar.choose_by_likelihood` compares what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax import parallel
from lfpc_jax.agent import Agent
from lfpc_jax.data import prompts
from lfpc_jax.data.examples import Example
from lfpc_jax.data.tokenizer import Tokenizer, Verbatim
from lfpc_jax.errors import UserError
from lfpc_jax.models import decoder, policy
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout import encoding
from lfpc_jax.rollout.types import Batch

Room = tuple[int, int]  # (options, tokens of an option) that there is room for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Options:
  """The options of P questions as tokens.

  Attributes:
    tokens: ids i32[P, K, T], zero after the end.
    length: tokens of each option, i32[P, K]; 0 where a question has fewer.
  """

  tokens: jax.Array
  length: jax.Array


def option_tokens(tokenizer: Tokenizer, option: str) -> list[int]:
  """An option's ids, up to the token that begins the answer's closing tag.

  The official tool counts the one token that ends the turn. Here the end of
  the answer is a tag of several, of which the first alone is undecided.
  """
  ids = tokenizer.encode((Verbatim(option), prompts.ANSWER_CLOSING))
  count = 1
  while len(tokenizer.decode(ids[:count])) <= len(option):
    count += 1
  return ids[:count]


def room_for(tokenizer: Tokenizer, asked: Sequence[Example]) -> Room:
  """The most options of a question, and the most tokens of an option.

  Raises:
    UserError: a question has fewer than two options.
  """
  few = next((e.id for e in asked if len(e.options) < 2), None)
  if few is not None:
    raise UserError(
      f"question {few!r} has fewer than two options to compare: set "
      "eval.likelihood=False"
    )
  longest = max(
    len(option_tokens(tokenizer, option)) for e in asked for option in e.options
  )
  return max(len(e.options) for e in asked), longest


def pack_options(
  tokenizer: Tokenizer, examples: Sequence[Example], room: Room
) -> Options:
  """The options of each example, NumPy on the host."""
  tokens = np.zeros((len(examples), *room), np.int32)
  length = np.zeros((len(examples), room[0]), np.int32)
  for row, example in enumerate(examples):
    for k, option in enumerate(example.options):
      ids = option_tokens(tokenizer, option)
      tokens[row, k, : len(ids)] = ids
      length[row, k] = len(ids)
  return Options(tokens, length)


def log_likelihoods(
  config: PolicyConfig,
  params: Params,
  batch: Batch,
  options: Options,
  capacity: int,
) -> jax.Array:
  """log p(token t of option k | prompt, tokens < t).

  Args:
    config: the policy.
    params: its parameters.
    batch: the prompts.
    options: theirs.
    capacity: visual tokens of the largest global view.

  Returns:
    f32[P, K, T]; beyond an option's length it has no meaning.
  """
  prefix = encoding.encode_prompt(config, params, batch, capacity)
  p, k, t = options.tokens.shape
  rows = jnp.arange(p)
  # The prompt's last token, which the prefix leaves out, comes first.
  last = batch.tokens[rows, batch.length - 1]
  last = jnp.broadcast_to(last[:, None, None], (p, k, 1))
  tokens = jnp.concatenate([last, options.tokens[..., :-1]], axis=-1)
  slots = jnp.broadcast_to(jnp.arange(t), (p, k, t))
  # Text counts up by one, and the prompt ends in text.
  place = batch.next_position[:, None, None] - 1 + slots
  x = jnp.take(params["embedding"], tokens, axis=0)
  x = parallel.constrain(x, ("prompt", "rollout", "suffix", "features"))
  positions = jnp.repeat(place[..., None], 3, axis=-1)
  hidden, _ = decoder.extend(config, params, x, positions, slots, prefix)
  return policy.log_probabilities(config, params, hidden, options.tokens)[0]


class OptionScorer:
  """Asks a policy for the likelihood of options, at one budget."""

  def __init__(self, agent: Agent, budget: int):
    """Compiles nothing yet; `budget` is the visual tokens of the view."""
    self._agent = agent
    self._packer = agent_lib.direct_packer(agent)
    self._budget = budget
    self._program = jax.jit(
      functools.partial(log_likelihoods, agent.policy, capacity=budget)
    )

  def pack(
    self, examples: Sequence[Example], room: Room, originals: np.ndarray
  ) -> tuple[Batch, Options]:
    """Prompts without options, and the options; NumPy on the host."""
    plain = [dataclasses.replace(e, options=()) for e in examples]
    budgets = [self._budget] * len(plain)
    batch = self._packer.pack(plain, budgets, originals)
    return batch, pack_options(self._agent.tokenizer, examples, room)

  def __call__(
    self, params: Params, batch: Batch, options: Options
  ) -> list[tuple[tuple[float, ...], ...]]:
    """For each of this process's questions and each option, of each token."""
    found = self._program(params, batch, options)
    found, length = parallel.fetch((found, options.length))
    return [
      tuple(tuple(v[:n].tolist()) for v, n in zip(values, row) if n)
      for values, row in zip(found, length)
    ]
