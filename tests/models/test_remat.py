"""What each choice of `remat` computes anew, counted in the gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.models import decoder, parameters
from tests.rollout import scripted_policy

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
  config = dataclasses.replace(scripted_policy.config(), remat=remat)
  params = parameters.initialise(config, 0)
  positions = jnp.broadcast_to(jnp.arange(5)[:, None], (2, 5, 3))
  x = jnp.ones((2, 5, config.text.width))

  def loss(params, x):
    cache = decoder.prefill(config, params, x, positions, jnp.full(2, 5))
    return jnp.sum(cache.k) + jnp.sum(cache.v)

  program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, x)
  batched = _products(program.jaxpr)
  return batched.count(False), batched.count(True)


@pytest.mark.parametrize(
  "remat, kernels, attention",
  [("products", False, True), ("layer", True, True)],
)
def test_what_the_backward_pass_computes_again(remat, kernels, attention):
  least = _counted("none")
  assert least == (3 * _KERNELS, 3 * _ATTENTION)  # forward, and two gradients
  again = [x > y for x, y in zip(_counted(remat), least, strict=True)]
  assert again == [kernels, attention]
