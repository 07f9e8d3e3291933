"""A config's mesh section: what it makes, and what it refuses at once."""

import pathlib

import jax
import pytest

from lfpc_jax import config as config_lib
from lfpc_jax import parallel
from lfpc_jax.errors import UserError

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"


def _section(*changes):
  config = config_lib.load_config(
    f"{CONFIG}:smoke", [f"mesh.{change}" for change in changes]
  )
  return config_lib.freeze(config).mesh


def test_one_device_has_no_mesh():
  with parallel.configured(_section(), jax.devices()[:1]) as mesh:
    assert mesh is None and parallel.current_mesh() is None
  with parallel.configured(None) as mesh:
    assert mesh is None


@pytest.mark.parametrize(
  "change, says",
  [
    ("sizes=3,1", "do not match 1 device"),
    ("sizes=-1,-1", "one of them may be -1"),
    ("axes=fsdp", "give one size for each axis"),
    ("rules=promt=fsdp", "did you mean 'prompt'"),
    ("rules=prompt", "write the logical axis, '=' and mesh axes"),
    ("rules=prefix=context", "names the mesh axis 'context'"),
    ("rollout_rules=embed=fdsp", "names the mesh axis 'fdsp'"),
    ("slices=2,1", "divides its size"),
  ],
)
def test_a_wrong_section_is_refused_before_anything_is_compiled(change, says):
  with pytest.raises(UserError, match=says):
    with parallel.configured(_section(change), jax.devices()[:1]):
      pass


def test_rules_are_changed_by_text():
  rules = parallel.parse_rules(("prompt=fsdp+context", "embed="))
  assert rules["prompt"] == ("fsdp", "context") and rules["embed"] == ()
  assert rules["mlp"] == parallel.DEFAULT_RULES["mlp"]


def test_a_share_of_one_process_is_everything():
  share = parallel.batch_share(6)
  assert share == parallel.Share(0, 1, 6) and share.rows == slice(0, 6)
  assert parallel.Share(1, 3, 6).rows == slice(2, 4)


def test_what_is_gathered_from_one_process_is_its_own():
  assert parallel.gather([1, "a"]) == [1, "a"]
  # As it would arrive from another process.
  assert parallel.gather([(1, {"x": (2.5, None)})]) == [[1, {"x": [2.5, None]}]]


def test_only_plain_values_are_gathered():
  with pytest.raises(TypeError, match="not JSON serializable"):
    parallel.gather([object()])
