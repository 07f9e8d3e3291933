"""What a rollout and its update encode: global views, prompts and crops."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lfpc_jax import parallel, slicing
from lfpc_jax.image import views
from lfpc_jax.image.views import View
from lfpc_jax.models import decoder, policy, vision
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout.types import Batch


def encode_views(
  config: PolicyConfig,
  params: Params,
  batch: Batch,
  capacity: int,
  waves: int = 1,
) -> jax.Array:
  """Renders and encodes the global views, [P, N, D].

  Prompts that share an original share its view, which is encoded once.

  Args:
    config: the policy.
    params: its parameters; the tower alone is used.
    batch: the prompts.
    capacity: visual tokens of the largest global view, N.
    waves: slices of the prompts that are encoded one after another, where the
      patches of all at once are too much; each prompt has its own original.
  """
  if waves > 1:
    visual = jax.lax.map(
      lambda index: encode_views(
        config,
        params,
        jax.tree.map(lambda x: slicing.take(x, 0, waves, index), batch),
        capacity,
      ),
      jnp.arange(waves),
    )
    visual = slicing.join(visual, 0)
    return parallel.constrain(visual, ("prompt", "visual_token", "features"))
  share = len(batch.size) // len(batch.originals)
  height, width = batch.size[::share, 0], batch.size[::share, 1]
  zero = jnp.zeros_like(height)
  whole = jnp.stack([zero, zero, width, height], axis=-1)
  render = parallel.per_shard(
    lambda *args: views.render_views(*args, capacity),
    (("prompt",),) * 3,
    ("prompt",),
  )
  view = render(batch.originals, whole, batch.grid[::share])
  visual = vision.encode_views(config, params, view)
  visual = jnp.repeat(visual, share, axis=0)
  return parallel.constrain(visual, ("prompt", "visual_token", "features"))


def encode_prompt(
  config: PolicyConfig,
  params: Params,
  batch: Batch,
  capacity: int,
  rollout: bool = False,
) -> decoder.PrefixCache:
  """Prefills the prompts; encodes their views if the batch has them not.

  The prompt's last token is left to the suffix, whose first output predicts
  the policy's first token. Arguments as in `encode_views`; `rollout` as in
  `policy.embed`.
  """
  visual = batch.visual
  if visual is None:
    visual = encode_views(config, params, batch, capacity)
  x = policy.embed(
    config, params, batch.tokens, batch.visual_index, visual, rollout
  )
  x = parallel.constrain(x, ("prompt", "prefix", "features"))
  length = batch.length - 1
  return decoder.prefill(config, params, x, batch.positions, length)


def encode_crops(
  config: PolicyConfig,
  params: Params,
  originals: jax.Array,
  boxes: jax.Array,
  grids: jax.Array,
  valid: jax.Array,
  capacity: int,
  change: Callable[[View], View] = lambda view: view,
) -> jax.Array:
  """Cuts one crop per rollout from the originals and encodes it.

  Args:
    config: the policy.
    params: its parameters.
    originals: u8[I, Ho, Wo, 3], each of P / I prompts in a row.
    boxes: in original pixels, i32[P, G, 4].
    grids: (rows, cols) of the crops, i32[P, G, 2].
    valid: which rollouts crop, bool[P, G].
    capacity: visual tokens of the largest crop, N.
    change: applied to the rendered crops [P, G], for probes.

  Returns:
    Visual tokens [P, G, N, D].
  """
  rows = ("prompt", "rollout")
  render = parallel.per_shard(
    lambda *args: views.render_crops(*args, capacity),
    (("prompt",), rows, rows, rows),
    rows,
  )
  view = change(render(originals, boxes, grids, valid))
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), view)
  visual = vision.encode_views(config, params, View(flat.patches, flat.grid))
  visual = visual.reshape(*valid.shape, *visual.shape[1:])
  return parallel.constrain(visual, (*rows, "visual_token", "features"))
