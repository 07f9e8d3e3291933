"""config.json in and out, and what a wrong one says."""

import copy
import dataclasses
import json

import pytest
import transformers

from lfpc_jax.errors import UserError
from lfpc_jax.models import published_config
from lfpc_jax.models.config import (
  PUBLISHED,
  PolicyConfig,
  TextConfig,
  VisionConfig,
)

# Qwen/Qwen2.5-VL-7B-Instruct's config.json
FLAT = {
  "architectures": ["Qwen2_5_VLForConditionalGeneration"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
  "vision_token_id": 151654,
  "image_token_id": 151655,
  "video_token_id": 151656,
  "hidden_act": "silu",
  "hidden_size": 3584,
  "initializer_range": 0.02,
  "intermediate_size": 18944,
  "max_position_embeddings": 128000,
  "max_window_layers": 28,
  "model_type": "qwen2_5_vl",
  "num_attention_heads": 28,
  "num_hidden_layers": 28,
  "num_key_value_heads": 4,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 32768,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "use_cache": True,
  "use_sliding_window": False,
  "vision_config": {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
  },
  "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
  "vocab_size": 152064,
}


def test_the_published_7b_file_is_the_7b_preset():
  assert published_config.from_published(FLAT) == PUBLISHED["7b"]


@pytest.mark.parametrize("size", PUBLISHED)
def test_what_transformers_reads_from_our_file_and_writes_is_the_same(
  size, tmp_path
):
  config = dataclasses.replace(PUBLISHED[size], image_token_id=7)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(published_config.to_published(config)))
  assert published_config.load_config(tmp_path) == config
  theirs = transformers.AutoConfig.from_pretrained(tmp_path)
  assert theirs.text_config.hidden_size == config.text.width
  assert theirs.vision_config.out_hidden_size == config.text.width
  assert theirs.tie_word_embeddings == config.tie_word_embeddings
  theirs.save_pretrained(tmp_path)  # the newer, nested form
  assert "text_config" in json.loads(path.read_text())
  assert published_config.load_config(tmp_path) == config


def test_unusual_sizes_survive_both_forms(tmp_path):
  config = PolicyConfig(
    vision=VisionConfig(
      depth=5,
      width=48,
      heads=3,
      mlp_width=50,
      full_attention_blocks=(),
      window_size=56,
      rope_theta=500.0,
    ),
    text=TextConfig(
      vocab_size=99,
      width=64,
      heads=4,
      kv_heads=1,
      depth=3,
      mlp_width=70,
      norm_epsilon=1e-5,
      rope_theta=5000.0,
      mrope_section=(2, 3, 3),
      max_positions=512,
    ),
    tie_word_embeddings=True,
    image_token_id=9,
  )
  (tmp_path / "config.json").write_text(
    json.dumps(published_config.to_published(config))
  )
  assert published_config.load_config(tmp_path) == config
  theirs = transformers.AutoConfig.from_pretrained(tmp_path)
  assert theirs.text_config.rope_parameters["rope_theta"] == 5000.0
  theirs.save_pretrained(tmp_path)
  assert published_config.load_config(tmp_path) == config


def _as_transformers_reads(data, folder):
  """Our config of what transformers writes with every default spelt out."""
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(data))
  theirs = transformers.AutoConfig.from_pretrained(folder)
  text, vision = theirs.text_config, theirs.vision_config
  return PolicyConfig(
    vision=VisionConfig(
      depth=vision.depth,
      width=vision.hidden_size,
      mlp_width=vision.intermediate_size,
      heads=vision.num_heads,
      patch_size=vision.patch_size,
      merge_size=vision.spatial_merge_size,
      temporal_patch_size=vision.temporal_patch_size,
      window_size=vision.window_size,
      full_attention_blocks=tuple(vision.fullatt_block_indexes),
    ),
    text=TextConfig(
      vocab_size=text.vocab_size,
      width=text.hidden_size,
      mlp_width=text.intermediate_size,
      depth=text.num_hidden_layers,
      heads=text.num_attention_heads,
      kv_heads=text.num_key_value_heads,
      norm_epsilon=text.rms_norm_eps,
      rope_theta=text.rope_parameters["rope_theta"],
      max_positions=text.max_position_embeddings,
    ),
    tie_word_embeddings=theirs.tie_word_embeddings,
    image_token_id=theirs.image_token_id,
  )


_SHORT_VISION = {
  "model_type": "qwen2_5_vl",
  "hidden_size": 1280,
  "intermediate_size": 3456,
  "out_hidden_size": 5120,
}
_NESTED_TEXT = {
  "model_type": "qwen2_5_vl_text",
  "hidden_size": 1024,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
}


@pytest.mark.parametrize(
  "data",
  [
    FLAT | {"vision_config": _SHORT_VISION},
    {k: v for k, v in FLAT.items() if k != "rms_norm_eps"},
    {"model_type": "qwen2_5_vl", "vision_config": _SHORT_VISION},
    FLAT | {"num_key_value_heads": None},
    {
      "model_type": "qwen2_5_vl",
      "text_config": _NESTED_TEXT | {"tie_word_embeddings": True},
      "vision_config": _SHORT_VISION,
      "tie_word_embeddings": False,
    },
    {
      "model_type": "qwen2_5_vl",
      "text_config": _NESTED_TEXT,
      "vision_config": {"hidden_size": 1280},
      "tie_word_embeddings": True,
    },
  ],
  ids=["vision", "no epsilon", "defaults", "all heads", "inner tie", "outer"],
)
def test_a_file_that_leaves_defaults_out_reads_as_in_transformers(
  data, tmp_path
):
  wanted = _as_transformers_reads(data, tmp_path / "a")
  assert published_config.from_published(data) == wanted


def test_extra_fields_are_the_callers(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(FLAT))
  config = published_config.load_config(
    tmp_path, dtype="bfloat16", remat="none"
  )
  assert (config.dtype, config.remat) == ("bfloat16", "none")


def _changed(**fields):
  return copy.deepcopy(FLAT) | fields


@pytest.mark.parametrize(
  "data, says",
  [
    (_changed(model_type="qwen2_vl"), "'qwen2_vl', not 'qwen2_5_vl'"),
    ({}, "None, not 'qwen2_5_vl'"),
    (_changed(use_sliding_window=True), "use_sliding_window"),
    (_changed(rope_scaling={"type": "yarn", "factor": 4}), "'yarn'"),
    (_changed(hidden_size=None), "hidden_size=None is no size"),
    (_changed(num_attention_heads=0), "num_attention_heads=0 is no size"),
    (_changed(intermediate_size="18944"), "intermediate_size='18944'"),
    (
      _changed(vision_config={"fullatt_block_indexes": 7}),
      "vision_config: fullatt_block_indexes=7",
    ),
    (_changed(hidden_act="gelu"), "hidden_act='gelu'"),
    (
      _changed(vision_config=FLAT["vision_config"] | {"hidden_act": "relu"}),
      "vision_config.hidden_act='relu'",
    ),
    (_changed(num_key_value_heads=5), "text.heads % text.kv_heads is 3"),
    (
      _changed(rope_scaling={"type": "mrope", "mrope_section": [8, 8, 8]}),
      "mrope_section",
    ),
  ],
)
def test_a_config_that_no_policy_can_have(data, says):
  with pytest.raises(UserError) as error:
    published_config.from_published(data)
  assert says in str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
  with pytest.raises(UserError, match="config.json does not exist"):
    published_config.load_config(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json is not valid JSON"):
    published_config.load_config(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(UserError, match="config.json"):
    published_config.load_config(tmp_path)


def test_an_unknown_remat_policy_is_refused():
  with pytest.raises(UserError, match="'all'"):
    PolicyConfig(remat="all")
