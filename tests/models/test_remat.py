"""What each choice of `remat` computes anew, counted in the gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.models import decoder, parameters
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig

TEXT = TextConfig(
  vocab_size=32,
  width=16,
  mlp_width=24,
  depth=3,
  heads=2,
  kv_heads=1,
  mrope_section=(2, 1, 1),
)
CONFIG = PolicyConfig(
  vision=VisionConfig(depth=1, width=16, mlp_width=16, heads=2),
  text=TEXT,
)
_KERNELS, _ATTENTION = 7, 2  # products in a layer: q, k, v, o, gate, up, down


def _programs(value):
  """The jaxprs within an equation's parameter."""
  values = value if isinstance(value, (tuple, list)) else (value,)
  inner = [getattr(x, "jaxpr", x) for x in values]
  return [x for x in inner if hasattr(x, "eqns")]


def _products(program) -> list[bool]:
  """Of each product in a program: whether it has a batch axis."""
  found = []
  for equation in program.eqns:
    if equation.primitive.name == "dot_general":
      _, (batch, _) = equation.params["dimension_numbers"]
      found.append(bool(batch))
    for value in equation.params.values():
      for inner in _programs(value):
        found += _products(inner)
  return found


def _counted(remat: str) -> tuple[int, int]:
  """Products with a kernel, and of attention, in a prefill's gradient."""
  config = dataclasses.replace(CONFIG, remat=remat)
  params = parameters.initialise(config, 0)
  positions = jnp.broadcast_to(jnp.arange(5)[:, None], (2, 5, 3))
  x = jnp.ones((2, 5, TEXT.width))

  def loss(params, x):
    cache = decoder.prefill(config, params, x, positions, jnp.full(2, 5))
    return jnp.sum(cache.k) + jnp.sum(cache.v)

  program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, x)
  batched = _products(program.jaxpr)
  return batched.count(False), batched.count(True)


@pytest.mark.parametrize(
  "remat, kernels, attention",
  [("none", 0, 0), ("products", 0, 1), ("layer", 1, 1)],
)
def test_what_the_backward_pass_computes_again(remat, kernels, attention):
  again = _counted(remat)
  least = _counted("none")
  assert least == (3 * _KERNELS, 3 * _ATTENTION)
  assert again[0] - least[0] in _between(kernels, _KERNELS)
  assert again[1] - least[1] in _between(attention, _ATTENTION)


def _between(some: int, most: int) -> range:
  """Nothing, or at least one product and at most all of a layer."""
  return range(1, most + 1) if some else range(1)
