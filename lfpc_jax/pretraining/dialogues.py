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
from lfpc_jax.models import decoder
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining import pool as pool_lib
from lfpc_jax.pretraining import views
from lfpc_jax.pretraining.features import CROPS, Features

_STYLE = "short"
_TARGETS = 16  # the policy's own tokens in the longest conversation
_BINS = 20  # rows and columns that the position heads name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dialogues:
  """P images with G conversations each.

  prefix_tokens, prefix_positions, prefix_visual: i32[P, S], [P, S, 3], [P, S].
  length: filled prefix slots, i32[P].
  view: the tower's outputs, [P, N, D].
  tokens, positions, visual: the suffixes, i32[P, G, T], [.., 3], [P, G, T].
  target_slot: suffix slots whose next token is the policy's, i32[P, G, 16].
  weight: of those in the loss, 0 for padding, f32[P, G, 16].
  crops: the tower's outputs for the crops, [P, G, 16, D].
  """

  prefix_tokens: jax.Array
  prefix_positions: jax.Array
  prefix_visual: jax.Array
  length: jax.Array
  view: jax.Array
  tokens: jax.Array
  positions: jax.Array
  visual: jax.Array
  target_slot: jax.Array
  weight: jax.Array
  crops: jax.Array


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

  def prefix(self, grid: tuple[int, int], capacity: int):
    """System text and image, padded to `capacity` visual tokens.

    Returns:
      tokens, positions, visual index, length, and the next rotary position.
    """
    a, number = len(self.head), grid[0] * grid[1]
    tokens = self.head + [self.pad] * number + self.close
    k = np.arange(number)
    image = np.stack(
      [np.full(number, a), a + k // grid[1], a + k % grid[1]], -1
    )
    text = np.repeat(np.arange(a)[:, None], 3, 1)
    end = a + max(grid)
    close = end + np.repeat(np.arange(len(self.close))[:, None], 3, 1)
    positions = np.concatenate([text, image, close])
    visual = np.full(len(tokens), -1)
    visual[a : a + number] = k
    pad = capacity - number
    return (
      np.pad(tokens, (0, pad)).astype(np.int32),
      np.pad(positions, ((0, pad), (0, 0))).astype(np.int32),
      np.pad(visual, (0, pad), constant_values=-1).astype(np.int32),
      np.int32(len(tokens)),
      end + len(self.close),
    )

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


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the conversations of a batch have in common.

  Attributes:
    level: visual tokens of the view; 0 for a crop as the whole image.
    calls: whether they call the tool.
    prompts: number of images, P.
    group: conversations about one image, G.
    share: of all batches.
  """

  level: int
  calls: bool
  prompts: int
  group: int
  share: float

  @property
  def slots(self) -> int:
    """Suffix slots that the longest such conversation needs."""
    return 62 if self.calls else 24


KINDS = (
  Kind(0, False, 48, 2, 0.2),
  Kind(16, False, 16, 4, 0.05),
  Kind(16, True, 12, 6, 0.25),
  Kind(64, False, 12, 8, 0.05),
  Kind(64, True, 10, 6, 0.05),
  Kind(324, False, 6, 12, 0.25),
  Kind(324, True, 5, 8, 0.15),
)
"""Short conversations are cheap, so that most answers are read directly."""


def _visible(pool, features, m, s, c, partner) -> bool:
  """Whether a crop shows the digit of sign s, and its partner if asked."""
  box = features.crop_boxes[m, s, c]
  parts = [pool.digits[m, s]] + (
    [pool.signs[m, partner]] if partner >= 0 else []
  )
  return all(
    (part[:2] >= box[:2] - 2).all() and (part[2:] <= box[2:] + 2).all()
    for part in parts
  )


def _draw(rng, pool, features, m, in_crop):
  """A sign, one of its crops, and the question's text.

  With `in_crop` the crop is one that shows what the question is about.
  """
  count = int((pool.colour[m] >= 0).sum())
  for _ in range(50):
    s, c = int(rng.integers(count)), int(rng.integers(CROPS))
    partner = int(pool.partner[m, s])
    related = partner >= 0 and rng.random() < 0.5
    asked = partner if related else -1
    if not in_crop or _visible(pool, features, m, s, c, asked):
      break
  colour = pool_lib.COLOURS[pool.colour[m, partner if related else s]]
  where = f"the sign next to the {colour}" if related else f"the {colour}"
  return s, c, f"What digit is on {where} sign?"


def make_batch(
  rng: np.random.Generator,
  pool: pool_lib.Pool,
  features: Features,
  writer: Writer,
  kinds: tuple[Kind, ...] = KINDS,
) -> Dialogues:
  """Conversations of one random kind about random scenes.

  Args:
    rng: source of randomness.
    pool: the scenes.
    features: the tower's outputs for them.
    writer: makes the text.
    kinds: what to choose from, each a program of its own shapes.
  """
  shares = np.array([kind.share for kind in kinds])
  kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
  rows = []
  for m in rng.integers(len(features.crops), size=kind.prompts):
    rows.append(_prompt_row(rng, pool, features, writer, kind, int(m)))
  return Dialogues(*(np.stack(column) for column in zip(*rows, strict=True)))


def _prompt_row(rng, pool, features, writer, kind: Kind, m: int):
  """The arrays of one image and its conversations."""
  size = pool.images.shape[1]
  if kind.level:
    side = int(kind.level**0.5)
    grid, view = (side, side), features.levels[kind.level][m]
    scale = np.full(4, side * views.CELL / size)
  else:
    # A crop is the whole image; all its conversations ask about one sign.
    first, crop, _ = _draw(rng, pool, features, m, True)
    grid = tuple(int(v) for v in features.crop_grids[m, first, crop])
    view = features.crops[m, first, crop]
  head = writer.prefix(grid, len(view))
  parts = []
  for _ in range(kind.group):
    s, c, question = _draw(rng, pool, features, m, False)
    while not kind.level and (s, c) != (first, crop):
      s, c, question = _draw(rng, pool, features, m, True)
    call = None
    if kind.calls:
      x1, y1, x2, y2 = features.crop_boxes[m, s, c] * scale
      call = (int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2)))
    text = writer.conversation(
      question, call, features.crop_grids[m, s, c], pool.digit[m, s], head[4]
    )
    crop_view = features.crops[m, s, c] if kind.calls else view[:1] * 0
    parts.append((*_padded(text, kind.slots), crop_view))
  return (*head[:4], view, *(np.stack(p) for p in zip(*parts, strict=True)))


def _padded(text, slots: int):
  """One conversation in T slots, with the slots that predict its tokens."""
  ids, place, visual, weight, answer = text
  n = len(ids)
  tokens, index = np.zeros(slots, np.int32), np.full(slots, -1, np.int32)
  positions = np.zeros((slots, 3), np.int32)
  tokens[:n], positions[:n], index[:n] = ids, place, visual
  predicted = np.flatnonzero(weight > 0)
  slot, value = np.zeros(_TARGETS, np.int32), np.zeros(_TARGETS, np.float32)
  slot[: len(predicted)] = predicted - 1
  # The answer's digit is what matters, the fixed text around it is easy.
  value[: len(predicted)] = np.where(predicted - 1 == answer, 3.0, 1.0)
  return tokens, positions, index, slot, value


def init_heads(key: jax.Array, width: int) -> Params:
  """Auxiliary heads that name row and column of an image token."""
  shape = (2, width, _BINS)
  return {"position": jax.random.normal(key, shape) * width**-0.5}


def _position_loss(config, trained, x, batch):
  """After two layers an image token must name its row and its column.

  Without it, nothing in the policy ever learns absolute coordinates: rotary
  positions are relative, and the text before the image is the only anchor.
  """
  policy = trained["policy"]
  shallow = {"layers": jax.tree.map(lambda p: p[:2], policy["layers"])}
  positions, visual = batch.prefix_positions, batch.prefix_visual >= 0
  hidden, _ = decoder.run_prefix(config, shallow, x, positions, batch.length)
  hidden = hidden * jax.lax.rsqrt(jnp.mean(hidden**2, -1, keepdims=True) + 1e-6)
  first = jnp.argmax(visual, axis=1)
  start = jnp.take_along_axis(positions[..., 0], first[:, None], axis=1)
  total = 0.0
  for axis in range(2):
    scores = hidden @ trained["heads"]["position"][axis]
    target = jnp.clip(positions[..., axis + 1] - start, 0, _BINS - 1)
    logp = jax.nn.log_softmax(scores)
    picked = jnp.take_along_axis(logp, target[..., None], -1)[..., 0]
    total -= jnp.sum(picked * visual) / jnp.sum(visual)
  return total / 2


def loss(
  config: PolicyConfig, trained: Params, batch: Dialogues
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted next-token loss of the policy's own tokens, and the heads'."""
  policy = trained["policy"]
  x = policy_lib.embed(
    config, policy, batch.prefix_tokens, batch.prefix_visual, batch.view
  )
  cache = decoder.prefill(
    config, policy, x, batch.prefix_positions, batch.length
  )
  y = policy_lib.embed(config, policy, batch.tokens, batch.visual, batch.crops)
  slots = jnp.broadcast_to(jnp.arange(y.shape[2]), y.shape[:3])
  hidden, _ = decoder.extend(config, policy, y, batch.positions, slots, cache)
  hidden = jnp.take_along_axis(hidden, batch.target_slot[..., None], axis=2)
  targets = jnp.take_along_axis(batch.tokens, batch.target_slot + 1, axis=2)
  scores = policy_lib.logits(config, policy, hidden)
  logp = jax.nn.log_softmax(scores)
  picked = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
  text = -jnp.sum(picked * batch.weight) / jnp.sum(batch.weight)
  where = _position_loss(config, trained, x, batch)
  digit = batch.weight == 3.0
  right = jnp.sum((jnp.argmax(scores, -1) == targets) & digit) / jnp.sum(digit)
  calls = batch.crops.shape[2] > 1
  form = "crop" if calls else "direct"
  metrics = {
    "loss": text,
    "where": where,
    f"{form}_{batch.view.shape[1]}_{batch.tokens.shape[0]}": right,
  }
  if calls:
    others = batch.weight == 1.0
    metrics["call"] = -jnp.sum(picked * others) / jnp.sum(others)
  return text + 0.3 * where, metrics
