"""A rollout whose loop is Python's: one compiled step a token, tools outside.

The same model code as ours; what differs is who loops. Every token comes to
the host, which decides what goes on, reads the calls, cuts and resizes the
crops with Pillow, and hands them back. `share` keeps one prefix for a group,
as ours; without it each rollout has a prompt of its own.
"""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.speed.problem import VIEW, Problem
from lfpc_jax.image import views
from lfpc_jax.image.views import QWEN, View
from lfpc_jax.models import decoder, policy, vision
from lfpc_jax.rollout import encoding, sampling

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class HostLoop:
  """Plays a problem's episodes."""

  def __init__(self, problem: Problem, share: bool):
    """Compiles nothing yet."""
    self.problem, self.share = problem, share
    self.policy, self.limits = problem.agent.policy, problem.agent.episodes
    texts = jax.device_get(problem.agent.texts)
    self.before, self.after = texts.before.tolist(), texts.after.tolist()
    self.stops, self.pad = texts.stops, int(texts.image_pad)
    self._prefill = jax.jit(
      functools.partial(encoding.encode_prompt, self.policy, capacity=VIEW)
    )
    self._step = jax.jit(self._decode, donate_argnums=2)
    self._feed = jax.jit(self._observe, donate_argnums=2)
    self._see = jax.jit(functools.partial(vision.encode_views, self.policy))

  def _decode(self, params, prefix, cache, token, position, slot, key):
    """One token of each row: feeds `token`, samples the next."""
    x = jnp.take(params["embedding"], token[..., None], axis=0)
    places = jnp.repeat(position[..., None, None], 3, axis=-1)
    hidden, cache = decoder.extend(
      self.policy, params, x, places, slot[..., None], prefix, cache
    )
    logits = policy.logits(self.policy, params, hidden[:, :, 0])
    token, logp = sampling.sample(key, logits, 1.0, 1.0)
    return cache, token, logp

  def _observe(self, params, prefix, cache, tokens, index, visual, places, at):
    """Feeds an observation."""
    x = policy.embed(self.policy, params, tokens, index, visual, rollout=True)
    _, cache = decoder.extend(self.policy, params, x, places, at, prefix, cache)
    return cache

  def __call__(self):
    """Token ids of each row's turns, [P * G] lists of lists."""
    problem, params = self.problem, self.problem.params
    group = self.limits.group
    batch = problem.pack()
    if not self.share:
      batch = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), batch)
      shape = (len(problem.examples) * group, 1)
    else:
      shape = (len(problem.examples), group)
    prefix = self._prefill(params, batch)
    cache = decoder.empty_suffix(self.policy, *shape, self.limits.slots)
    cache = jax.tree.map(jnp.copy, cache)  # two arrays, for both are donated
    rows = np.arange(len(batch.length))
    last = np.asarray(batch.tokens)[rows, np.asarray(batch.length) - 1]
    token = np.broadcast_to(last[:, None], shape)
    following = np.asarray(batch.next_position)[:, None]
    position = np.broadcast_to(following - 1, shape).copy()
    slot = np.zeros(shape, np.int32)
    key, turns = jax.random.key(0), []
    for turn in range(self.limits.max_turns):
      key, own = jax.random.split(key)
      cache, slot, position, written = self._turn(
        prefix, cache, token, position, slot, own
      )
      turns.append(written)
      if turn + 1 == self.limits.max_turns:
        break
      cache, token, position, slot = self._crop(
        prefix, cache, written, position, slot, shape
      )
    return [
      [part.tolist() for part in row]
      for row in np.stack(turns, axis=2).reshape(
        -1, len(turns), written.shape[-1]
      )
    ]

  def _turn(self, prefix, cache, token, position, slot, key):
    """Decodes until all rows have stopped; here they do so together."""
    written = []
    for number in range(self.limits.max_turn_tokens):
      own = jax.random.fold_in(key, number)
      cache, token, _ = self._step(
        self.problem.params, prefix, cache, token, position, slot, own
      )
      token = np.asarray(token)
      written.append(token)
      slot, position = slot + 1, position + 1
      stopped = np.isin(token, self.stops)
      if stopped.all():
        break
      if stopped.any():
        raise ValueError("rows stop at different tokens")
    return cache, slot, position, np.stack(written, axis=-1)

  def _crop(self, prefix, cache, written, position, slot, shape):
    """Reads the calls, cuts the crops on the host and feeds them."""
    problem, limits = self.problem, self.limits
    decode = problem.agent.tokenizer.decode
    texts = [
      decode(row.tolist()) for row in written.reshape(-1, written.shape[-1])
    ]
    patches, grids = [], []
    for k, text in enumerate(texts):
      example = problem.examples[k // limits.group]
      one, grid = self._patches(example, text)
      patches.append(one)
      grids.append(grid)
    view = View(jnp.asarray(np.stack(patches)), jnp.asarray(grids, jnp.int32))
    visual = self._see(problem.params, view)
    visual = visual.reshape(*shape, *visual.shape[1:])
    grid = np.array(grids)[0]
    assert (np.array(grids) == grid).all(), "crops of several sizes"
    count = int(grid.prod())
    # The pending token, the observation, and last what becomes pending.
    pending = written[..., -1:]
    fed = [*self.before, *[self.pad] * count, *self.after]
    tokens = np.concatenate(
      [pending, np.broadcast_to(fed, (*shape, len(fed)))], axis=-1
    )
    index = np.full(tokens.shape, -1)
    first = 1 + len(self.before)
    index[..., first : first + count] = np.arange(count)
    offsets = np.zeros((len(fed) + 1, 3), int)
    offsets[:first] = np.arange(first)[:, None]
    cells = np.stack(np.unravel_index(np.arange(count), grid), axis=-1)
    offsets[first : first + count, 1:] = cells
    offsets[first : first + count] += first
    end = first + grid.max()
    offsets[first + count :] = (end + np.arange(len(self.after)))[:, None]
    places = position[..., None, None] + offsets
    at = slot[..., None] + np.arange(len(fed) + 1)
    arrays = (tokens[..., :-1], index[..., :-1])
    cache = self._feed(
      problem.params,
      prefix,
      cache,
      *map(jnp.asarray, arrays),
      visual,
      jnp.asarray(places[..., :-1, :]),
      jnp.asarray(at[..., :-1]),
    )
    return cache, tokens[..., -1], places[..., -1, 0], at[..., -1]

  def _patches(self, example, text):
    """Patches f32[N, 4, 588] of the region that a turn calls."""
    x1, y1, x2, y2 = json.loads(_CALL.search(text)[1])["arguments"]["bbox_2d"]
    height, width = example.image.shape[:2]
    rows, cols = self.problem.agent.packer.view_grid(example, VIEW)
    wide, high = width / (28 * cols), height / (28 * rows)
    box = (x1 * wide, y1 * high, x2 * wide, y2 * high)
    image = Image.fromarray(example.image).crop(
      (int(box[0]), int(box[1]), round(box[2]), round(box[3]))
    )
    rows, cols = views.choose_grid(
      image.height,
      image.width,
      self.limits.crop_min_tokens,
      self.limits.crop_max_tokens,
    )
    image = image.resize((28 * cols, 28 * rows), Image.BICUBIC)
    levels = (np.asarray(image) / np.float32(255) - QWEN.mean) / QWEN.std
    cells = levels.reshape(rows, 2, 14, cols, 2, 14, 3)
    cells = cells.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * cols, 4, -1)
    room = self.limits.crop_max_tokens - rows * cols
    cells = np.pad(cells.astype(np.float32), ((0, room), (0, 0), (0, 0)))
    return cells, (rows, cols)
