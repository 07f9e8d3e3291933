"""Second step: the whole policy learns to converse, on a frozen tower.

Each conversation follows one of two forms: the answer at once, or a tool call
with a rough box, the crop, then the answer. Boxes are rough by construction
(random side and centre around the sign), so the policy locates only roughly;
often the crop misses the digit, and the policy learns to fall back on the
global view. The tower's outputs are computed once for the whole pool.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.data import prompts
from lfpc_jax.data.tokenizer import Tokenizer, Verbatim
from lfpc_jax.image.views import View
from lfpc_jax.models import decoder
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.models import vision
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining import pool as pool_lib
from lfpc_jax.pretraining import views

LEVELS = (16, 64, 324)  # visual tokens of the global view
CROP_TOKENS = (9, 16)
CROPS = 4  # cached for each sign
_STYLE = "short"
_BINS = 20  # rows and columns that the position heads name


@dataclasses.dataclass(frozen=True)
class Features:
  """The tower's outputs for the pool.

  levels: for each level, f16[M, level, D]; all scenes are square.
  crops: f16[M, 8, CROPS, 16, D], around each sign.
  crop_boxes: i32[M, 8, CROPS, 4] in original pixels.
  crop_grids: i32[M, 8, CROPS, 2].
  """

  levels: dict[int, np.ndarray]
  crops: np.ndarray
  crop_boxes: np.ndarray
  crop_grids: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dialogues:
  """P scenes with G conversations each, targets next to inputs.

  tokens, weight: prefix i32[P, S]; suffix i32 and f32[P, G, T]. `weight` of
    suffix slot t is that of predicting the token in slot t + 1.
  """

  prefix_tokens: jax.Array
  prefix_positions: jax.Array
  prefix_visual: jax.Array
  view: jax.Array
  tokens: jax.Array
  positions: jax.Array
  visual: jax.Array
  crops: jax.Array
  weight: jax.Array
  digit_slot: jax.Array


def compute_features(
  config: PolicyConfig,
  params: Params,
  pool: pool_lib.Pool,
  number: int,
  seed: int,
  progress=lambda text: None,
) -> Features:
  """Runs the tower over views and crops of the first `number` scenes."""
  rng = np.random.default_rng(seed)
  size, width = pool.images.shape[1], config.text.width
  levels = {n: np.zeros((number, n, width), np.float16) for n in LEVELS}
  shape = (number, pool_lib.MAX_SIGNS, CROPS)
  crops = np.zeros((*shape, CROP_TOKENS[1], width), np.float16)
  boxes, grids = np.zeros((*shape, 4), np.int32), np.ones((*shape, 2), np.int32)
  encode = jax.jit(lambda p, v: vision.encode_views(config, p, v))

  def run(cuts):
    view = View(
      np.stack([c.patches for c in cuts]),
      np.array([c.grid for c in cuts], np.int32),
    )
    return np.asarray(encode(params, view), np.float16)

  for first in range(0, number, 16):
    scenes = range(first, min(first + 16, number))
    for level in LEVELS:
      whole = (0, 0, size, size)
      cuts = [
        views.cut(pool.images[m], whole, (level, level), level) for m in scenes
      ]
      levels[level][first : first + len(cuts)] = run(cuts)
    cuts, places = [], []
    for m in scenes:
      for s in range(int((pool.colour[m] >= 0).sum())):
        for c in range(CROPS):
          box = views.sign_region(rng, pool.signs[m, s], size, (0.7, 4.0))
          most = CROP_TOKENS[1]
          cuts.append(views.cut(pool.images[m], box, CROP_TOKENS, most))
          places.append((m, s, c))
    pad = -len(cuts) % 128
    out = run(cuts + cuts[:1] * pad)
    for place, cut, feature in zip(places, cuts, out, strict=False):
      crops[place], boxes[place], grids[place] = feature, cut.box, cut.grid
    if first % 512 == 0:
      progress(f"features of {first} / {number} scenes")
  return Features(levels, crops, boxes, grids)


class Writer:
  """Turns scenes into token sequences, in the prompt style of the policy."""

  def __init__(self, tokenizer: Tokenizer):
    """Encodes what all conversations share, once."""
    self.tokenizer = tokenizer
    head, _, tail = prompts.prompt_text("?", style=_STYLE)
    head = tokenizer.encode(head)
    place = head.index(tokenizer.special.image_pad)
    self.head, self.close = head[:place], head[place + 1 :]
    self.tail = tokenizer.encode(tail)
    before, after = prompts.observation_tokens(tokenizer, _STYLE)
    self.before, self.after = list(before), list(after)
    self.pad = tokenizer.special.image_pad
    self.cache: dict[str, list[int]] = {}

  def _ids(self, text: str) -> list[int]:
    if text not in self.cache:
      self.cache[text] = self.tokenizer.encode(Verbatim(text))
    return self.cache[text]

  def _plain(self, text: str) -> list[int]:
    if text not in self.cache:
      self.cache[text] = self.tokenizer.encode(text)
    return self.cache[text]

  def prefix(self, level: int, side: int):
    """Tokens, positions and visual index of system text and image."""
    a = len(self.head)
    tokens = self.head + [self.pad] * level + self.close
    k = np.arange(level)
    image = np.stack([np.full(level, a), a + k // side, a + k % side], -1)
    text = np.repeat(np.arange(a)[:, None], 3, 1)
    end = a + side + np.repeat(np.arange(len(self.close))[:, None], 3, 1)
    positions = np.concatenate([text, image, end])
    visual = np.full(len(tokens), -1)
    visual[a : a + level] = k
    return np.array(tokens), positions, visual, a + side + len(self.close)

  def conversation(self, question, call, grid, answer, position):
    """Tokens, positions, visual index, weights and the answer's slot.

    Args:
      question: its text.
      call: the box as shown, four integers, or None to answer at once.
      grid: (rows, cols) of the crop.
      answer: the answer's text.
      position: rotary position of the first token.
    """
    parts = [(self._ids(question), 0.0), (self.tail, 0.0)]
    if call is not None:
      text = (
        '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
        + ", ".join(str(v) for v in call)
        + "]}}\n</tool_call>"
      )
      visual = [self.pad] * (grid[0] * grid[1])
      parts += [(self.tokenizer.encode(text), 1.0), (self.before, 0.0)]
      parts += [(visual, 0.0), (self.after, 0.0)]
    final = self._plain(f"<answer>{answer}</answer><|im_end|>")
    parts.append((final, 1.0))
    tokens = np.concatenate([np.array(p, np.int64) for p, _ in parts])
    weight = np.concatenate([np.full(len(p), w) for p, w in parts])
    positions = np.repeat(np.arange(len(tokens))[:, None], 3, 1)
    index = np.full(len(tokens), -1)
    if call is not None:
      first = sum(len(p) for p, _ in parts[:4])
      k = np.arange(grid[0] * grid[1])
      index[first + k] = k
      spot = np.stack([0 * k, k // grid[1], k % grid[1]], -1)
      positions[first + k] = first + spot
      positions[first + len(k) :] += max(grid) - len(k)
    return tokens, positions + position, index, weight, len(tokens) - 4


def make_batch(
  rng: np.random.Generator,
  pool: pool_lib.Pool,
  features: Features,
  writer: Writer,
  direct: dict[int, float],
  group: int = 8,
  slots: int = 64,
) -> Dialogues:
  """Conversations about random scenes at one random level.

  Args:
    rng: source of randomness.
    pool: the scenes.
    features: the tower's outputs for them.
    writer: makes the text.
    direct: for each level, the share of conversations that answer at once.
    group: conversations about one scene.
    slots: suffix slots T.
  """
  level = int(rng.choice(LEVELS, p=(0.45, 0.15, 0.4)))
  prompts_, side = {16: 18, 64: 16, 324: 10}[level], int(level**0.5)
  number = len(features.crops)
  head = writer.prefix(level, side)
  scale = side * views.CELL / pool.images.shape[1]
  scenes = rng.integers(number, size=prompts_)
  shape = (prompts_, group, slots)
  tokens, index = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
  positions = np.zeros((*shape, 3), np.int32)
  weight = np.zeros(shape, np.float32)
  crops = np.zeros((*shape[:2], *features.crops.shape[3:]), np.float16)
  digit_slot = np.zeros(shape[:2], np.int32)
  for p, m in enumerate(scenes):
    count = int((pool.colour[m] >= 0).sum())
    for g in range(group):
      s, c = int(rng.integers(count)), int(rng.integers(CROPS))
      partner = int(pool.partner[m, s])
      related = partner >= 0 and rng.random() < 0.5
      colour = pool_lib.COLOURS[pool.colour[m, partner if related else s]]
      where = f"the sign next to the {colour}" if related else f"the {colour}"
      question = f"What digit is on {where} sign?"
      call = None
      if rng.random() >= direct[level]:
        x1, y1, x2, y2 = features.crop_boxes[m, s, c] * scale
        call = (int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2)))
      ids, place, visual, w, slot = writer.conversation(
        question,
        call,
        features.crop_grids[m, s, c],
        pool.digit[m, s],
        head[3],
      )
      n = len(ids)
      tokens[p, g, :n], positions[p, g, :n] = ids, place
      index[p, g, :n] = visual
      weight[p, g, : n - 1] = w[1:]
      weight[p, g, slot] = 3.0 if call or level > 100 else 0.3
      digit_slot[p, g] = slot
      crops[p, g] = features.crops[m, s, c]
  def repeat(x):
    return np.repeat(np.asarray(x, np.int32)[None], prompts_, 0)

  return Dialogues(
    repeat(head[0]),
    repeat(head[1]),
    repeat(head[2]),
    features.levels[level][scenes],
    tokens,
    positions,
    index,
    crops,
    weight,
    digit_slot,
  )


def init_heads(key: jax.Array, width: int) -> Params:
  """Auxiliary heads that name row and column of an image token."""
  shape = (2, width, _BINS)
  return {"position": jax.random.normal(key, shape) * width**-0.5}


def _position_loss(config, trained, x, positions, visual):
  """After two layers an image token must name its row and its column.

  Without it, nothing in the policy ever learns absolute coordinates: rotary
  positions are relative, and the text before the image is the only anchor.
  """
  policy = trained["policy"]
  shallow = {"layers": jax.tree.map(lambda p: p[:2], policy["layers"])}
  length = jnp.full(x.shape[0], x.shape[1])
  hidden, _ = decoder.run_prefix(config, shallow, x, positions, length)
  hidden = hidden * jax.lax.rsqrt(jnp.mean(hidden**2, -1, keepdims=True) + 1e-6)
  start = positions[:, :1, 0] + jnp.argmax(visual >= 0, axis=1)[:, None]
  total = 0.0
  for axis in range(2):
    scores = hidden @ trained["heads"]["position"][axis]
    target = jnp.clip(positions[..., axis + 1] - start, 0, _BINS - 1)
    logp = jax.nn.log_softmax(scores)
    picked = jnp.take_along_axis(logp, target[..., None], -1)[..., 0]
    total -= jnp.sum(picked * (visual >= 0)) / jnp.sum(visual >= 0)
  return total / 2


def loss(
  config: PolicyConfig, trained: Params, batch: Dialogues
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted next-token loss of the policy's own tokens, and the heads'."""
  policy = trained["policy"]
  x = policy_lib.embed(
    config, policy, batch.prefix_tokens, batch.prefix_visual, batch.view
  )
  length = jnp.full(x.shape[0], x.shape[1])
  cache = decoder.prefill(config, policy, x, batch.prefix_positions, length)
  y = policy_lib.embed(config, policy, batch.tokens, batch.visual, batch.crops)
  slots = jnp.broadcast_to(jnp.arange(y.shape[2]), y.shape[:3])
  hidden, _ = decoder.extend(config, policy, y, batch.positions, slots, cache)
  targets = jnp.roll(batch.tokens, -1, axis=-1)
  scores = policy_lib.logits(config, policy, hidden)
  logp = jax.nn.log_softmax(scores)
  picked = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
  text = -jnp.sum(picked * batch.weight) / jnp.sum(batch.weight)
  where = _position_loss(
    config, trained, x, batch.prefix_positions, batch.prefix_visual
  )
  slot = batch.digit_slot[..., None]
  right = jnp.take_along_axis(jnp.argmax(scores, -1) == targets, slot, -1)[..., 0]
  cropped = jnp.any(batch.visual >= 0, axis=-1)
  level = batch.view.shape[1]

  def share(mask):
    # Not a number where nothing counts; the loop's mean leaves it out.
    return jnp.sum(right & mask) / jnp.sum(mask)

  numbers = (batch.weight == 1.0) & cropped[..., None]
  return text + 0.3 * where, {
    "loss": text,
    "where": where,
    "call": -jnp.sum(picked * numbers) / jnp.sum(numbers),
    f"direct_{level}": share(~cropped),
    f"crop_{level}": share(cropped),
  }
