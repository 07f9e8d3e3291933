"""Every setting that can change a row of an evaluation, as plain values."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import jax

import lfpc_jax
from lfpc_jax import config as config_lib
from lfpc_jax import parallel, source
from lfpc_jax.agent import Agent
from lfpc_jax.data import described
from lfpc_jax.models import fused
from lfpc_jax.models.parameters import Params, params_digest

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "transformers")
_THREADS = 4


def make(
  config: Any,
  agent: Agent,
  name: str,
  checkpoint: str,
  params: Params,
  examples: Any,
) -> dict[str, Any]:
  """The manifest of an evaluation, on the active mesh.

  A judge decides about rows that are there; scores.json names its settings.

  Args:
    config: a whole config.
    agent: the policy's files.
    name: the policy's.
    checkpoint: where it is from.
    params: its parameters.
    examples: the questions.
  """
  settings = json.loads(config_lib.config_json(config))
  del settings["eval"]["judge"]
  sets = described.describe({**config.data, "mix": ()}, config.eval.split)
  return {
    "policy": name,
    "checkpoint": checkpoint,
    "parameters": params_digest(params),
    "files": policy_files(agent.directory),
    "questions": questions_digest(examples),
    "sets": {f"{x.name}/{x.split}": dataclasses.asdict(x) for x in sets},
    "config": settings,
    "code": source.digest(),
    "python": platform.python_version(),
    "versions": {"lfpc_jax": lfpc_jax.__version__}
    | {p: importlib.metadata.version(p) for p in _PACKAGES},
    **_machine(),
    "attention": fused.chosen(agent.policy),
    "matmul_precision": str(jax.config.jax_default_matmul_precision),
  }


def _machine() -> dict[str, Any]:
  """The devices, and how the config's mesh came out on them."""
  mesh = parallel.current_mesh()
  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "processes": jax.process_count(),
    "mesh": dict(mesh.shape) if mesh else {},
  }


def policy_files(directory: pathlib.Path) -> dict[str, str]:
  """A digest of each file of a published policy that is none of weights.

  Tokeniser, chat template, sizes and the image processor's settings are
  among them.
  """
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for path in sorted(directory.iterdir())
    if path.name.endswith((".json", ".jinja", ".txt"))
    and not path.name.endswith(".index.json")
    and path.is_file()
  }


def questions_digest(examples: Any) -> str:
  """The number of questions, and digits that change with any of them.

  With the questions change their order, their options and those' order, and
  any byte of their images. Each file is read once: what it says stays known.
  """

  def line(number: int) -> str:
    image = examples.image_digest(number)
    fields = vars(examples.words(number)) | {
      "image": image,
      "boxes": examples.words(number).boxes.tolist(),
      "size": examples.size(number),
    }
    return json.dumps(fields)

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    lines = list(threads.map(line, range(len(examples))))
  text = hashlib.sha256("\n".join(lines).encode()).hexdigest()
  return f"{len(lines)}-{text[:12]}"
