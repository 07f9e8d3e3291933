"""A random policy that calls the tool in every turn, word for word.

All weights are random but for one chain: the embeddings of a tool call's
tokens stand out of what the layers add to them, and the head's row of each
points to the one before. So every turn is the same call, and every call a
crop, whatever the sizes: what a rollout costs can be measured, and compared
with other systems' token by token, without a trained policy.
"""

from collections.abc import Callable, Sequence
import pathlib

import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import parameters, published
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params

# Each comma has one successor; the third is a spare token of the vocabulary.
_COMMAS = (", ", ",", ",\t")
_SOURCE = agent.ASSETS / "tiny_qwen"


def call(box: tuple[int, int, int, int], thought: int = 0) -> tuple[str, ...]:
  """The tokens of a turn, after the prompt's last one.

  Args:
    box: as the policy writes it, in pixels of the view; four different
      numbers below 900.
    thought: tokens before the call, at most 99.
  """
  numbers = [str(number) for number in box]
  return (
    *(str(900 + k) for k in range(thought)),
    "<tool_call>",
    '\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [',
    *(numbers[0], _COMMAS[0], numbers[1], _COMMAS[1], numbers[2], _COMMAS[2]),
    *(numbers[3], "]}}\n"),
    "</tool_call>",
  )


def _ids(tokenizer: Tokenizer, turn: Sequence[str]) -> list[int]:
  table, lengths = tokenizer.token_bytes()
  texts = [row[:n].tobytes() for row, n in zip(table, lengths)]
  return [texts.index(name.encode()) for name in ("\n", *turn)]


def calling(
  params: Params, tokenizer: Tokenizer, turn: Sequence[str]
) -> Params:
  """The parameters with the chain in embeddings and head.

  Args:
    params: a policy's, its head not tied.
    tokenizer: of a policy that `write` has written.
    turn: what `call` gives.
  """
  ids, width = _ids(tokenizer, turn), params["embedding"].shape[1]
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
  embedding, head = (np.array(params[name]) for name in ("embedding", "head"))
  for before, after, direction in zip(ids, ids[1:], basis):
    embedding[before] = 8 * width**0.5 * direction
    head[after] = 4 * direction
  changed = {"embedding": jnp.asarray(embedding), "head": jnp.asarray(head)}
  return params | changed


def write(
  folder: pathlib.Path,
  sizes: Callable[[Tokenizer], PolicyConfig],
  turn: Sequence[str],
) -> None:
  """Writes the policy in the published layout, with its tokeniser.

  Args:
    folder: of the policy.
    sizes: of a policy with the tokeniser's vocabulary, its head not tied.
    turn: what `call` gives.
  """
  text = (_SOURCE / "tokenizer.json").read_text()
  text = text.replace('"<|unused_0|>"', '",\\t"')
  tokenizer = Tokenizer(text)
  config = sizes(tokenizer)
  params = parameters.initialise(config)
  params = calling(params, tokenizer, turn)
  published.save(folder, config, params, source_directory=_SOURCE)
  (folder / "tokenizer.json").write_text(text)
