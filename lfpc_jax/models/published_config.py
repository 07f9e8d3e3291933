"""A policy's sizes, in and out of the published config.json."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from lfpc_jax.errors import UserError
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig

# Our field, published key, and the value that transformers gives a file
# without the key: some published files hold only what differs from it.
_VISION_KEYS = (
  ("depth", "depth", 32),
  ("width", "hidden_size", 3584),
  ("mlp_width", "intermediate_size", 3420),
  ("heads", "num_heads", 16),
  ("patch_size", "patch_size", 14),
  ("merge_size", "spatial_merge_size", 2),
  ("temporal_patch_size", "temporal_patch_size", 2),
  ("window_size", "window_size", 112),
  ("full_attention_blocks", "fullatt_block_indexes", (7, 15, 23, 31)),
)
_TEXT_KEYS = (
  ("vocab_size", "vocab_size", 152_064),
  ("width", "hidden_size", 8192),
  ("mlp_width", "intermediate_size", 29_568),
  ("depth", "num_hidden_layers", 80),
  ("heads", "num_attention_heads", 64),
  ("kv_heads", "num_key_value_heads", 8),
  ("norm_epsilon", "rms_norm_eps", 1e-5),
  ("max_positions", "max_position_embeddings", 32_768),
)
_LISTS = ("full_attention_blocks",)
_MAY_BE_0 = ("norm_epsilon",)


def _pick(data: dict, keys: tuple, where: str) -> dict[str, Any]:
  """Our fields of a section.

  Raises:
    UserError: a value has another type or sign than the field wants.
  """
  found = {}
  for ours, key, default in keys:
    value = data.get(key, default)
    if ours in _LISTS:
      good = isinstance(value, (list, tuple))
      good = good and all(type(x) is int for x in value)
      value = tuple(value) if good else value
    else:
      kinds = (int, float) if isinstance(default, float) else (int,)
      good = type(value) in kinds and (value > 0 or ours in _MAY_BE_0)
    if not good:
      raise UserError(f"{where}: {key}={value!r} is no size of a Qwen2.5-VL")
    found[ours] = value
  return found


def from_published(
  data: dict[str, Any], where: str = "config.json", **extra: Any
) -> PolicyConfig:
  """Reads a published config, flat (the hub's files) or nested (newer ones).

  A key that is not there has transformers' own default.

  Args:
    data: parsed config.json.
    where: named in errors.
    **extra: further PolicyConfig fields, such as `dtype`.

  Raises:
    UserError: another architecture, a value that is no size, or a feature
      that the policy does not have (sliding windows, scaled rotary positions).
  """
  kind = data.get("model_type") if isinstance(data, dict) else None
  if kind != "qwen2_5_vl":
    raise UserError(
      f"{where}: model_type is {kind!r}, not 'qwen2_5_vl': "
      "only Qwen2.5-VL checkpoints can be loaded"
    )
  text = data.get("text_config") or data
  vision = data.get("vision_config") or {}
  for part, section in (("", text), ("vision_config.", vision)):
    if section.get("hidden_act", "silu") != "silu":
      raise UserError(
        f"{where}: {part}hidden_act={section['hidden_act']!r} is not "
        "supported, only 'silu'"
      )
  if data.get("use_sliding_window") or text.get("use_sliding_window"):
    raise UserError(f"{where}: use_sliding_window=true is not supported")
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in ("default", "mrope"):
    raise UserError(f"{where}: rotary type {kind!r} is not supported")
  theta = rope.get("rope_theta", text.get("rope_theta", 1_000_000.0))
  channels = vision.get("in_channels", vision.get("in_chans", 3))
  vision_rope = vision.get("rope_parameters") or {}
  if text.get("num_key_value_heads", 0) is None:
    text = text | {"num_key_value_heads": text.get("num_attention_heads", 64)}
  return PolicyConfig(
    vision=VisionConfig(
      channels=channels,
      rope_theta=vision_rope.get("rope_theta", 10_000.0),
      **_pick(vision, _VISION_KEYS, f"{where}: vision_config"),
    ),
    text=TextConfig(
      rope_theta=float(theta),
      mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
      **_pick(text, _TEXT_KEYS, where),
    ),
    # Older nested files have it inside, beside the outer default.
    tie_word_embeddings=any(
      bool(part.get("tie_word_embeddings")) for part in (data, text)
    ),
    image_token_id=int(data.get("image_token_id", 151_655)),
    **extra,
  )


def to_published(config: PolicyConfig, **extra: Any) -> dict[str, Any]:
  """The published, flat config.json that vLLM and transformers load.

  Args:
    config: the policy.
    **extra: further top-level keys (token ids, dtype) to store.
  """
  vision = {key: getattr(config.vision, ours) for ours, key, _ in _VISION_KEYS}
  vision["fullatt_block_indexes"] = list(vision["fullatt_block_indexes"])
  vision |= {
    "model_type": "qwen2_5_vl",
    "hidden_act": "silu",
    "in_channels": config.vision.channels,
    "in_chans": config.vision.channels,
    "out_hidden_size": config.text.width,
    "tokens_per_second": 2,
  }
  if config.vision.rope_theta != 10_000.0:
    vision["rope_parameters"] = {
      "rope_type": "axial",
      "rope_theta": config.vision.rope_theta,
    }
  text = {key: getattr(config.text, ours) for ours, key, _ in _TEXT_KEYS}
  return {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "sliding_window": config.text.max_positions,
    "max_window_layers": config.text.depth,
    "initializer_range": 0.02,
    "rope_theta": config.text.rope_theta,
    "rope_scaling": {
      "type": "mrope",
      "mrope_section": list(config.text.mrope_section),
    },
    "tie_word_embeddings": config.tie_word_embeddings,
    "image_token_id": config.image_token_id,
    "vision_config": vision,
    **text,
    **extra,
  }


def load_config(directory: str | pathlib.Path, **extra: Any) -> PolicyConfig:
  """Reads `directory/config.json`; `extra` as in `from_published`.

  Raises:
    UserError: the file is missing, not JSON, or not a Qwen2.5-VL.
  """
  path = pathlib.Path(directory) / "config.json"
  try:
    data = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise UserError(
      f"{path} does not exist: give the directory of a published model"
    ) from error
  except ValueError as error:
    raise UserError(f"{path} is not valid JSON ({error})") from error
  try:
    return from_published(data, where=str(path), **extra)
  # A number where a section should be, text where a number should be.
  except (AttributeError, TypeError, ValueError, OverflowError) as error:
    raise UserError(
      f"{path}: a value is not what a Qwen2.5-VL has there ({error}): download "
      "the file again"
    ) from error


def check_same(config: PolicyConfig, other: PolicyConfig, where: Any) -> None:
  """Refuses files of a policy that computes something else.

  Args:
    config: the policy that the files should hold.
    other: what their config.json says.
    where: named in errors.

  Raises:
    UserError: a size, or anything else that changes a number, differs.
  """
  found = (_numbers_of(config), _numbers_of(other))
  for name, ours in found[0].items():
    theirs = found[1][name]
    if ours != theirs:
      raise UserError(
        f"{where}: {name} is {theirs}, and {ours} in the policy of "
        "--config.policy.path: give the path of the same model"
      )


def _numbers_of(config: PolicyConfig) -> dict[str, Any]:
  """What decides a policy's outputs, by name."""
  found = {
    f"{part}.{name}": value
    for part in ("text", "vision")
    for name, value in dataclasses.asdict(getattr(config, part)).items()
  }
  del found["text.max_positions"]  # a limit that nothing is computed from
  for name in ("tie_word_embeddings", "image_token_id"):
    found[name] = getattr(config, name)
  return found
