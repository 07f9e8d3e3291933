"""A random policy of the 7B architecture at small width that calls the tool.

Depths, windows and full-attention blocks are those of Qwen2.5-VL-7B; the
decoder's widths are a sixteenth, the tower's a twentieth, and there are a
quarter of the heads. All weights are
random but for one chain: the embeddings of a tool call's tokens stand out of
what the layers add to them, and the head's row of each points to the one
before. So every turn is a call, and every call a crop.
"""

import pathlib

import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import parameters, published
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig
from lfpc_jax.models.parameters import Params

# What is written after the prompt's last token, a line's end. Each comma has
# one successor; the third is a spare token of the vocabulary.
_COMMAS = (", ", ",", ",\t")
_CALL = (
  "\n",
  "<tool_call>",
  '\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [',
  *("100", _COMMAS[0], "120", _COMMAS[1], "800", _COMMAS[2], "860"),
  "]}}\n",
  "</tool_call>",
)
_SOURCE = agent.ASSETS / "tiny_qwen"


def sizes(tokenizer: Tokenizer) -> PolicyConfig:
  """The 7B policy at small width."""
  return PolicyConfig(
    vision=VisionConfig(width=64, mlp_width=171, heads=4),
    text=TextConfig(
      vocab_size=tokenizer.vocab_size,
      width=224,
      mlp_width=1184,
      heads=7,
      kv_heads=1,
      mrope_section=(4, 6, 6),
    ),
    image_token_id=tokenizer.special.image_pad,
  )


def _ids(tokenizer: Tokenizer) -> list[int]:
  table, lengths = tokenizer.token_bytes()
  texts = [row[:n].tobytes() for row, n in zip(table, lengths)]
  return [texts.index(name.encode()) for name in _CALL]


def _calling(params: Params, ids: list[int], width: int) -> Params:
  """The parameters with the chain in embeddings and head."""
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
  embedding, head = (np.array(params[name]) for name in ("embedding", "head"))
  for before, after, direction in zip(ids, ids[1:], basis):
    embedding[before] = 8 * width**0.5 * direction
    head[after] = 4 * direction
  changed = {"embedding": jnp.asarray(embedding), "head": jnp.asarray(head)}
  return params | changed


def write(folder: pathlib.Path) -> None:
  """Writes the policy in the published layout, with its tokeniser."""
  text = (_SOURCE / "tokenizer.json").read_text()
  text = text.replace('"<|unused_0|>"', '",\\t"')
  tokenizer = Tokenizer(text)
  config = sizes(tokenizer)
  params = parameters.initialise(config)
  params = _calling(params, _ids(tokenizer), config.text.width)
  published.save(folder, config, params, source_directory=_SOURCE)
  (folder / "tokenizer.json").write_text(text)
