"""Sizes of a Qwen2.5-VL policy."""

from __future__ import annotations

import dataclasses
import difflib

from lfpc_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """The vision tower: window attention, 2-D rotary positions, a merger."""

  depth: int = 32
  width: int = 1280
  mlp_width: int = 3420
  heads: int = 16
  patch_size: int = 14
  merge_size: int = 2
  temporal_patch_size: int = 2
  channels: int = 3
  window_size: int = 112  # pixels
  full_attention_blocks: tuple[int, ...] = (7, 15, 23, 31)
  rope_theta: float = 10_000.0

  @property
  def head_dim(self) -> int:
    """Width of one attention head."""
    return self.width // self.heads

  @property
  def cell(self) -> int:
    """Pixels along one side of a visual token."""
    return self.patch_size * self.merge_size

  @property
  def window(self) -> int:
    """Visual tokens along one side of an attention window."""
    return self.window_size // self.cell

  @property
  def patch_dim(self) -> int:
    """Values of one patch of one frame: channels x patch x patch."""
    return self.channels * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The decoder: grouped queries, multimodal rotary positions, SwiGLU."""

  vocab_size: int = 152_064
  width: int = 3584
  mlp_width: int = 18_944
  depth: int = 28
  heads: int = 28
  kv_heads: int = 4
  norm_epsilon: float = 1e-6
  rope_theta: float = 1_000_000.0
  mrope_section: tuple[int, int, int] = (16, 24, 24)
  max_positions: int = 128_000

  @property
  def head_dim(self) -> int:
    """Width of one attention head."""
    return self.width // self.heads


DTYPES = ("float32", "bfloat16")


def check_dtype(field: str, dtype: str) -> str:
  """`dtype`, if policies can be kept, run and trained in it.

  Raises:
    UserError: they cannot; names the config's field.
  """
  if dtype not in DTYPES:
    raise UserError(f"{field}={dtype!r}: choose one of {', '.join(DTYPES)}")
  return dtype


REMATS = ("none", "products", "layer")
ATTENTIONS = ("auto", "xla", "splash", "cudnn")
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters on the decoder's linear layers (arXiv 2106.09685).

  Attributes:
    rank: columns of A and rows of B; 0 means no adapters.
    alpha: the adapters' output is multiplied by alpha / rank.
    targets: which linear layers have one, of `LORA_TARGETS`.
  """

  rank: int = 0
  alpha: float = 16.0
  targets: tuple[str, ...] = LORA_TARGETS

  def __post_init__(self) -> None:
    """Refuses adapters that cannot be made."""
    object.__setattr__(self, "targets", tuple(self.targets))
    if type(self.rank) is not int or self.rank < 0:
      raise UserError(
        f"policy.lora.rank={self.rank}: give a whole number, 0 for no adapters"
      )
    if not self.alpha > 0:
      raise UserError(f"policy.lora.alpha={self.alpha}: must be > 0")
    if not self.targets or len(set(self.targets)) < len(self.targets):
      raise UserError(
        f"policy.lora.targets={self.targets!r}: name each layer once, at "
        f"least one of {', '.join(LORA_TARGETS)}"
      )
    for name in self.targets:
      if name not in LORA_TARGETS:
        near = difflib.get_close_matches(str(name), LORA_TARGETS, 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
          f"policy.lora.targets: the decoder has no layer {name!r}, only "
          f"{', '.join(LORA_TARGETS)}{hint}"
        )

  @property
  def scale(self) -> float:
    """What the adapters' output is multiplied by."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
  """A whole policy.

  `dtype` is the precision of matrix products and activations; parameters
  keep the precision they are stored in, and softmax, norms and
  log-sum-exp always run in float32.
  """

  vision: VisionConfig = VisionConfig()
  text: TextConfig = TextConfig()
  tie_word_embeddings: bool = False
  image_token_id: int = 151_655
  dtype: str = "float32"
  remat: str = "layer"  # one of `REMATS`, see models/layers.py
  logit_chunk: int = 1024  # tokens' worth of logits at one time; 0: all
  attention: str = "auto"  # one of `ATTENTIONS`, see models/fused.py
  attention_chunk: int = 1024  # of XLA: queries whose scores exist at one time
  lora: LoraConfig = LoraConfig()

  def __post_init__(self) -> None:
    """Refuses sizes that no Qwen2.5-VL can have."""
    text, vision = self.text, self.vision
    checks = {
      "text.width % text.heads": text.width % text.heads,
      "text.heads % text.kv_heads": text.heads % text.kv_heads,
      "vision.width % vision.heads": vision.width % vision.heads,
      "vision.head_dim % 4": vision.head_dim % 4,
      "text.head_dim/2 - sum(text.mrope_section)": text.head_dim // 2
      - sum(text.mrope_section),
      "vision.window_size % cell": vision.window_size % vision.cell,
    }
    for name, rest in checks.items():
      if rest:
        raise UserError(f"policy config: {name} is {rest}, must be 0")
    if self.remat not in REMATS:
      raise UserError(
        f"policy.remat={self.remat!r}: choose one of {', '.join(REMATS)}"
      )
    if self.attention not in ATTENTIONS:
      raise UserError(
        f"policy.attention={self.attention!r}: choose one of "
        f"{', '.join(ATTENTIONS)}"
      )
    if self.attention == "cudnn" and self.dtype != "bfloat16":
      raise UserError(
        f"policy.attention='cudnn' computes in bfloat16, and policy.dtype is "
        f"{self.dtype}: set --config.policy.dtype=bfloat16, or another kernel"
      )
    if self.lora.rank > text.width:
      raise UserError(
        f"policy.lora.rank={self.lora.rank} is above the decoder's width "
        f"{text.width}: choose a lower rank"
      )


def _text(width, mlp_width, depth, heads, kv_heads, vocab_size=152_064):
  return TextConfig(
    vocab_size=vocab_size,
    width=width,
    mlp_width=mlp_width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
  )


PUBLISHED = {
  "3b": PolicyConfig(
    text=_text(2048, 11_008, 36, 16, 2, 151_936), tie_word_embeddings=True
  ),
  "7b": PolicyConfig(text=_text(3584, 18_944, 28, 28, 4)),
  "32b": PolicyConfig(
    vision=VisionConfig(mlp_width=3456),
    text=_text(5120, 27_648, 64, 40, 8),
  ),
  "72b": PolicyConfig(
    vision=VisionConfig(mlp_width=3456),
    text=_text(8192, 29_568, 80, 64, 8),
  ),
}
"""Qwen2.5-VL-Instruct as published; vision widths are 1280 throughout."""
