"""The oracle: transformers' Qwen2.5-VL, in PyTorch on the CPU, our weights.

The weights travel through `published.save` and `from_pretrained`, so that
every parity test is a test of the export too.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from lfpc_jax.models import layout, parameters, published
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig

IMAGE = 50  # the image token's id in the small configs
TOKENS = dict(
  vision_start_token_id=51, vision_end_token_id=52, video_token_id=53
)


def config(text: dict | None = None, vision: dict | None = None, **fields):
  """A small policy: 3 blocks in the tower, 2 layers in the decoder."""
  text = dict(
    vocab_size=64,
    width=32,
    mlp_width=40,
    depth=2,
    heads=4,
    kv_heads=2,
    mrope_section=(1, 2, 1),
    rope_theta=10_000.0,
  ) | (text or {})
  vision = dict(
    depth=3, width=32, mlp_width=36, heads=2, full_attention_blocks=(1,)
  ) | (vision or {})
  return PolicyConfig(
    vision=VisionConfig(**vision),
    text=TextConfig(**text),
    image_token_id=IMAGE,
    **fields,
  )


def random_params(config: PolicyConfig, seed: int = 0):
  """Parameters large enough that attention is far from uniform."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    leaf, fan_in = path[-1].key, 16
    if leaf == "kernel":
      fan_in = x.shape[-2]
      if path[-2].key in ("qkv", "q", "k", "v"):
        fan_in = x.shape[1]
      elif path[-2].key in ("proj", "o"):
        fan_in = x.shape[1] * x.shape[2]
    noise = rng.normal(size=x.shape, scale=fan_in**-0.5)
    return jnp.asarray(noise + (leaf == "scale"), jnp.float32)

  shapes = parameters.abstract(config)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def load(config: PolicyConfig, params, directory: pathlib.Path):
  """The transformers model with these weights."""
  params = jax.tree.map(np.asarray, params)  # NumPy's slices compile nothing
  published.save(directory, config, params, **TOKENS)
  model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    directory, dtype=torch.float32, attn_implementation="eager"
  )
  return model.eval()


@dataclasses.dataclass(frozen=True)
class Sequence:
  """A flat token sequence and its images.

  tokens: ids [T]. visual_index: the running number over all images of each
  visual token, else -1, [T]. grids: (rows, cols) of each image. patches: of
  each image [rows * cols, 4, 588].
  """

  tokens: np.ndarray
  visual_index: np.ndarray
  grids: tuple[tuple[int, int], ...]
  patches: tuple[np.ndarray, ...]

  def __len__(self) -> int:
    """Number of tokens."""
    return len(self.tokens)

  def __add__(self, other: "Sequence") -> "Sequence":
    """This sequence, then the other."""
    seen = sum(rows * cols for rows, cols in self.grids)
    index = np.where(other.visual_index < 0, -1, other.visual_index + seen)
    return Sequence(
      np.concatenate([self.tokens, other.tokens]),
      np.concatenate([self.visual_index, index]),
      self.grids + other.grids,
      self.patches + other.patches,
    )


def sequence(pieces: list, seed: int = 0) -> Sequence:
  """Builds a sequence of ids `[..]` and grids `(rows, cols)`: random images."""
  rng = np.random.default_rng(seed)
  tokens, index, grids, patches, count = [], [], [], [], 0
  for piece in pieces:
    if isinstance(piece, tuple):
      size = piece[0] * piece[1]
      tokens += [51] + [IMAGE] * size + [52]
      index += [-1, *range(count, count + size), -1]
      grids.append(piece)
      patches.append(rng.normal(size=(size, 4, 588)).astype(np.float32))
      count += size
    else:
      tokens += piece
      index += [-1] * len(piece)
  return Sequence(
    np.array(tokens), np.array(index), tuple(grids), tuple(patches)
  )


def inputs(sequence: Sequence) -> dict[str, torch.Tensor]:
  """What the transformers model takes for this sequence."""
  tokens = torch.tensor(sequence.tokens)[None]
  result = dict(
    input_ids=tokens,
    mm_token_type_ids=torch.tensor(sequence.visual_index >= 0)[None].int(),
  )
  if sequence.grids:
    # The processor stores each frame of the pair: [channel, frame, y, x].
    flat = np.concatenate(sequence.patches).reshape(-1, 3, 1, 196)
    flat = np.repeat(flat, 2, axis=2).reshape(len(flat), -1)
    grids = [(1, 2 * rows, 2 * cols) for rows, cols in sequence.grids]
    result["pixel_values"] = torch.tensor(flat)
    result["image_grid_thw"] = torch.tensor(grids)
  return result


def positions(model, sequence: Sequence) -> np.ndarray:
  """transformers' three-axis rotary positions [T, 3]."""
  given = inputs(sequence)
  result, _ = model.model.get_rope_index(
    given["input_ids"],
    given["mm_token_type_ids"],
    given.get("image_grid_thw"),
  )
  return result[:, 0].numpy().T


def logits(model, sequence: Sequence) -> np.ndarray:
  """Logits [T, V] of the flat sequence."""
  with torch.no_grad():
    return model(**inputs(sequence)).logits[0].numpy()


def backward(model, sequence: Sequence, start: int) -> np.ndarray:
  """Adds the gradients of the token loss; returns the logits [T, V].

  The loss is the sum of the negative log-probabilities of the tokens after
  slot `start`, each predicted from the slot before it.
  """
  scores = model(**inputs(sequence)).logits[0]
  targets = torch.tensor(sequence.tokens[start + 1 :])
  torch.nn.functional.cross_entropy(
    scores[start:-1], targets, reduction="sum"
  ).backward()
  return scores.detach().numpy()


def gradients(model) -> dict[str, np.ndarray]:
  """The accumulated gradients, by published name."""
  return {
    layout.canonical(name): torch.zeros_like(p).numpy()
    if p.grad is None
    else p.grad.numpy()
    for name, p in model.named_parameters()
  }


def published_tree(config: PolicyConfig, tree) -> dict[str, np.ndarray]:
  """A tree like the parameters' by published name and shape."""
  result = {}
  for tensor, layer, name, _ in layout.entries(config):
    leaf = layout.lookup(tree, tensor.path)
    leaf = np.asarray(leaf[layer] if tensor.stacked else leaf)
    result[name] = layout.to_published(config, tensor, leaf)
  return result


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
  """Largest difference over the reference's largest magnitude."""
  ours, reference = np.asarray(ours), np.asarray(reference)
  assert ours.shape == reference.shape
  scale = max(float(np.max(np.abs(reference))), 1e-30)
  return float(np.max(np.abs(ours - reference))) / scale
