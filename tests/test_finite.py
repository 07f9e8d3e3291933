"""NaN and infinity are found wherever they are, and named."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import finite

_KINDS = (jnp.float32, jnp.bfloat16, jnp.float16)


def _arrays(kind):
  rng = np.random.default_rng(0)
  sizes = {"a": (5,), "b": (3, 4, 33), "c": (), "none": (0, 3)}
  made = {k: jnp.asarray(rng.normal(size=s), kind) for k, s in sizes.items()}
  return made | {"words": jnp.arange(9), "limit": jnp.finfo(kind).max[None]}


@pytest.mark.parametrize("kind", _KINDS)
def test_finite_arrays_have_no_bad_one(kind):
  assert finite.first_bad(_arrays(kind)) is None


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_bad_number_is_found_at_any_place(kind, bad):
  whole = _arrays(kind)
  for name, place in (
    ("a", 0),
    ("a", 4),
    ("b", (0, 0, 0)),
    ("b", (1, 3, 17)),
    ("b", (2, 3, 32)),
    ("c", ()),
  ):
    damaged = whole | {name: whole[name].at[place].set(bad)}
    row = place if isinstance(place, int) else (*place, 0)[0]
    assert finite.first_bad(damaged) == (name, row)


def test_the_first_of_several_is_named():
  bad = jnp.full((2, 2), jnp.nan)
  assert finite.first_bad({"z": bad, "a": bad}) == ("z", 0)


def test_nothing_of_the_arrays_size_is_made_beside_them():
  array = jnp.ones((8, 512, 512), jnp.bfloat16)
  memory = finite._all_finite.lower([array]).compile().memory_analysis()
  assert memory.temp_size_in_bytes < array.nbytes / 100


_MESH = """
import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
from lfpc_jax import finite
mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"))
for spec in ((), ("fsdp",), ("fsdp", "tensor"), (None, ("fsdp", "tensor"))):
  place = NamedSharding(mesh, PartitionSpec(*spec))
  for bad in (1, np.nan, np.inf):
    x = np.ones((8, 12), np.float32)
    x[5, 7] = bad
    found = finite.first_bad({"x": jax.device_put(x, place)})
    assert found == (None if bad == 1 else ("x", 5)), (spec, bad, found)
"""


def test_on_a_mesh():
  setup = "import jax; jax.config.update('jax_num_cpu_devices', 4)"
  subprocess.run([sys.executable, "-c", f"{setup}\n{_MESH}"], check=True)
