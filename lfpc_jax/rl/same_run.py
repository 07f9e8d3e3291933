"""May a run go on in a directory, with this config and these parameters?"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
from typing import Any

from lfpc_jax import config as config_lib
from lfpc_jax.errors import UserError

# Sections, and fields of others, that may change while a run goes on. A
# checkpoint is restored on any mesh; another mesh, or more room for what does
# not fit, needs other slices: nothing changes but rounding and waves' draws.
_FREE = (
  "train",
  "checkpoint",
  "eval",
  "name",
  "alarms",
  "selection",
  "mesh",
  "data.image_capacity",
  "rollout.text_capacity",
  "rollout.waves",
  "rl.micro_batches",
  "rl.rollout_slices",
  "policy.logit_chunk",
  "policy.attention",
  "policy.attention_chunk",
  "policy.remat",
)


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config less what may change."""

  def some(section, fields):
    if not isinstance(fields, dict):
      return fields
    names = (name for name in fields if f"{section}.{name}" not in _FREE)
    return {name: fields[name] for name in names}

  return {k: some(k, fields) for k, fields in config.items() if k not in _FREE}


def check(
  workdir: pathlib.Path, there: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
  """Refuses to go on with a run that was started otherwise.

  Args:
    workdir: the run's directory.
    there: what its checkpoint has beside its state: 'config', 'beginning',
      a digest of the first parameters, and 'data'.
    now: what this one's would have.

  Raises:
    UserError: says what differs.
  """
  changes = config_lib.diff(_kept(there["config"]), _kept(now["config"]))
  if changes:
    raise UserError(
      f"{workdir} holds a run with another config ({'; '.join(changes)}): take "
      "back the change, or give another --workdir"
    )
  if there.get("beginning", now["beginning"]) != now["beginning"]:
    policy = now["config"]["policy"]
    raise UserError(
      f"{workdir} holds a run that began with other parameters than "
      f"policy.path={policy['path']!r}, policy.checkpoint="
      f"{policy['checkpoint']!r} give now: give another --workdir, or remove "
      "that run"
    )
  if there.get("data", now["data"]) != now["data"]:
    raise UserError(
      f"{workdir} holds a run on other data ({there['data']}, now "
      f"{now['data']}): give another --workdir"
    )


def check_place(workdir: pathlib.Path, folder: str) -> None:
  """Refuses to look for a run's checkpoints where it has not put them.

  It would begin anew, and lose what it has logged.

  Args:
    workdir: the run's directory; nothing is said of one that holds none.
    folder: checkpoint.dir of now.

  Raises:
    UserError: the run's own checkpoint.dir is another.
  """
  if not (workdir / config_lib.FILE).exists():
    return
  config = config_lib.read_config(workdir)
  known = config.get("checkpoint", {}).get("dir", "")
  if known != folder:
    raise UserError(
      f"{workdir} holds a run whose checkpoints lie in {known or workdir}: "
      f"give --config.checkpoint.dir={known!r}, or another --workdir"
    )
