"""Adapters on the decoder: against PEFT, merged, exported, placed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.errors import UserError
from lfpc_jax.models import decoder, lora, parameters, policy, published
from lfpc_jax.models.config import LORA_TARGETS, LoraConfig
from lfpc_jax.parallel import make_mesh, spec_for, tree_shardings, use_mesh
from tests.models import batches, oracle

_BASE = oracle.config(vision=dict(depth=1, full_attention_blocks=()))
_CONFIG = dataclasses.replace(_BASE, lora=LoraConfig(rank=3, alpha=12.0))
_MODULES = {
  "q": "self_attn.q_proj",
  "k": "self_attn.k_proj",
  "v": "self_attn.v_proj",
  "o": "self_attn.o_proj",
  "gate": "mlp.gate_proj",
  "up": "mlp.up_proj",
  "down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def params():
  """The policy with random adapters, B included."""
  return oracle.random_params(_CONFIG, 4)


@pytest.fixture(scope="module")
def model(params, tmp_path_factory):
  """transformers' model of the base policy."""
  directory = tmp_path_factory.mktemp("base") / "m"
  return oracle.load(_BASE, _without(params), directory)


@pytest.fixture(scope="module")
def sequences():
  prefix = oracle.sequence([[1, 2], (2, 3), [3, 4, 5]], 1)
  return prefix, oracle.sequence([[11, 12, 13], (1, 2), [21, 22, 23]], 2)


@pytest.fixture(scope="module")
def batch(model, sequences):
  prefix, suffix = sequences
  return batches.build(model, [prefix], [[suffix]])


@pytest.fixture(scope="module")
def ours(params, batch):
  """Logits and gradients with the adapters apart."""
  return batches.loss_gradients(_CONFIG, params, batch, (lora.PART,))


@pytest.fixture(scope="module")
def base_logits(params, batch):
  return batches.logits(_BASE, _without(params), batch)


def _without(params):
  return {name: part for name, part in params.items() if name != lora.PART}


def _adapted(model, params):
  """PEFT's model with our adapters."""
  peft = pytest.importorskip("peft")
  settings = peft.LoraConfig(
    r=_CONFIG.lora.rank,
    lora_alpha=_CONFIG.lora.alpha,
    lora_dropout=0.0,
    target_modules=r".*language_model\.layers\..*_proj",
  )
  wrapped = peft.get_peft_model(model, settings)
  with torch.no_grad():
    for name, module in wrapped.named_modules():
      pair = _pair(name, params[lora.PART])
      if pair is not None and hasattr(module, "lora_A"):
        module.lora_A["default"].weight.copy_(torch.tensor(pair[0]))
        module.lora_B["default"].weight.copy_(torch.tensor(pair[1]))
  return wrapped.eval()


def _pair(name, tree):
  """The published A [rank, inputs] and B [outputs, rank] of a module."""
  for target, module in _MODULES.items():
    if name.endswith(module) and "language_model" in name:
      layer = int(name.split("layers.")[1].split(".")[0])
      a, b = (np.array(tree[target][x][layer]) for x in "ab")
      return a.reshape(-1, a.shape[-1]).T, b.reshape(len(b), -1).T
  return None


def test_fresh_adapters_change_no_bit(params, batch, base_logits):
  fresh = lora.with_fresh(_CONFIG, _without(params), seed=5)
  a = np.asarray(fresh[lora.PART]["o"]["a"])  # [L, H, head_dim, rank]
  bound = (a.shape[1] * a.shape[2]) ** -0.5
  assert 0.9 * bound < abs(a).max() <= bound
  assert np.ptp(a[0] - a[1]) > 0  # each layer has its own
  scores = batches.logits(_CONFIG, fresh, batch)
  np.testing.assert_array_equal(scores, base_logits)


def test_a_seed_and_a_precision_decide_fresh_adapters(params):
  make = lambda *args: lora.with_fresh(_CONFIG, _without(params), *args)
  a, same, other = (make(seed)[lora.PART]["q"]["a"] for seed in (1, 1, 2))
  np.testing.assert_array_equal(a, same)
  assert np.any(np.asarray(a) != np.asarray(other))
  half = make(1, "bfloat16")[lora.PART]
  assert {str(x.dtype) for x in jax.tree.leaves(half)} == {"bfloat16"}


def test_b_is_not_rounded_to_be_scaled(params):
  """With alpha / rank no power of two, and adapters kept in bfloat16."""
  config = dataclasses.replace(_BASE, lora=LoraConfig(rank=3, alpha=16.0))
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params[lora.PART])
  found = lora.adapt(config, _without(params) | {lora.PART: half})
  wanted = np.asarray(half["q"]["b"], np.float64) * 16 / 3
  assert oracle.relative_error(found["q"]["b"], wanted) < 1e-6


def test_logits_and_gradients_are_pefts(
  params, model, sequences, ours, base_logits
):
  prefix, suffix = sequences
  scores, gradients = ours
  wrapped = _adapted(model, params)
  try:
    expected = oracle.backward(wrapped, prefix + suffix, len(prefix))
    found = 0
    for name, module in wrapped.named_modules():
      pair = _pair(name, gradients[lora.PART])
      if pair is None or not hasattr(module, "lora_A"):
        continue
      found += 1
      for x, side in zip(pair, (module.lora_A, module.lora_B)):
        theirs = side["default"].weight.grad.numpy()
        assert oracle.relative_error(x, theirs) < 1e-3, name
  finally:
    wrapped.unload()
  assert found == len(LORA_TARGETS) * _CONFIG.text.depth
  n = len(suffix)
  error = oracle.relative_error(scores[0, 0, :n], expected[len(prefix) :])
  print(f"logits, relative to PEFT's: {error:.1e}")
  assert error < 1e-4
  assert oracle.relative_error(base_logits, scores) > 0.1  # they do something


def test_an_export_is_merged_and_transformers_gives_the_same_logits(
  params, sequences, ours, tmp_path
):
  prefix, suffix = sequences
  model = oracle.load(_CONFIG, params, tmp_path / "m")  # saves, then loads
  expected = oracle.logits(model, prefix + suffix)[len(prefix) :]
  scores = ours[0][0, 0, : len(suffix)]
  assert oracle.relative_error(scores, expected) < 1e-4
  config, loaded = published.load(tmp_path / "m")
  assert config == _BASE
  rest = _without(params)
  assert jax.tree.structure(loaded) == jax.tree.structure(rest)
  for target, pair in params[lora.PART].items():
    kernel = rest["layers"][target]["kernel"]
    wanted = _merged_kernel(kernel, pair)
    found = loaded["layers"][target]["kernel"]
    assert oracle.relative_error(found, wanted) < 1e-6
    loaded["layers"][target]["kernel"] = kernel
  # Nothing else has changed, and biases are kept.
  jax.tree.map(np.testing.assert_array_equal, loaded, rest)


def _merged_kernel(kernel, pair):
  """W + alpha / rank * A B of all layers, in float64."""
  kernel, a, b = (
    np.asarray(x, np.float64) for x in (kernel, pair["a"], pair["b"])
  )
  products = [np.tensordot(x, y, 1) for x, y in zip(a, b)]
  return kernel + 4.0 * np.array(products)  # alpha 12, rank 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_kernel_is_rounded_once_to_the_files_precision(
  params, dtype, tmp_path
):
  base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _without(params))
  # Small adapters: most of what they add lies below bfloat16's last bit.
  small = jax.tree.map(lambda x: 0.02 * x, params[lora.PART])
  mixed = base | {lora.PART: small}
  published.save(tmp_path / "m", _CONFIG, mixed, dtype)
  _, loaded = published.load(tmp_path / "m")
  unit = 2.0**-24 if dtype == "float32" else 2.0**-8
  for target, pair in small.items():
    wanted = _merged_kernel(base["layers"][target]["kernel"], pair)
    found = loaded["layers"][target]["kernel"]
    assert found.dtype == dtype
    error = np.abs(np.asarray(found, np.float64) - wanted)
    # Half a unit in the last place, and what float32's sums may lose.
    assert np.all(error <= 1.01 * unit * np.abs(wanted) + 3e-7)


def test_decoding_with_caches_equals_the_whole_forward(params, batch, ours):
  suffix = batch.suffix
  slots = suffix.tokens.shape[-1]

  @batches.fast_jit
  def decode(params, batch):
    x = batches.embed(_CONFIG, params, suffix)
    prefix = batches.prefill(_CONFIG, params, batch.prefix)
    cache = decoder.empty_suffix(_CONFIG, 1, 1, slots)

    def step(cache, at):
      take = lambda array: jax.lax.dynamic_slice_in_dim(array, at, 1, 2)
      states, cache = decoder.extend(
        _CONFIG,
        params,
        take(x),
        take(suffix.positions),
        jnp.full((1, 1, 1), at),
        prefix,
        cache,
      )
      return cache, policy.logits(_CONFIG, params, states)[0, 0, 0]

    return jax.lax.scan(step, cache, jnp.arange(slots))[1]

  n = int(suffix.length[0, 0])
  scores = np.asarray(decode(params, batch))[:n]
  assert oracle.relative_error(scores, ours[0][0, 0, :n]) < 1e-5


def test_adapters_of_some_layers_alone():
  some = LoraConfig(rank=2, targets=("v", "down"))
  config = dataclasses.replace(_BASE, lora=some)
  shapes = parameters.abstract(config)[lora.PART]
  assert shapes["v"]["a"].shape == (2, 32, 2)
  assert shapes["v"]["b"].shape == (2, 2, 2, 8)  # layers, rank, heads, width
  assert shapes.keys() == {"v", "down"}
  text = config.text
  wide = text.depth * 2 * (text.width + text.mlp_width)
  narrow = text.depth * 2 * (text.width + 2 * 8)
  assert parameters.count(config) - parameters.count(_BASE) == wide + narrow


def test_adapters_lie_where_their_kernels_do():
  axes = parameters.logical_axes(_CONFIG)
  for name, pair in axes[lora.PART].items():
    kernel = axes["layers"][name]["kernel"]
    assert pair["a"][:-1] + pair["b"][2:] == kernel
    assert pair["a"][-1] == pair["b"][1] == "lora_rank"
  assert spec_for(axes[lora.PART]["q"]["b"]) == jax.P(
    None, None, "tensor", None
  )
  config = dataclasses.replace(_BASE, lora=LoraConfig(2, targets=("o", "up")))
  axes = parameters.logical_axes(config)[lora.PART]
  with use_mesh(make_mesh(("fsdp", "tensor"), (1, 1), jax.devices()[:1])):
    shardings = tree_shardings(axes, parameters.abstract(config)[lora.PART])
    fresh = lora.initialise(config, 0, shardings)
  for x, sharding in zip(jax.tree.leaves(fresh), jax.tree.leaves(shardings)):
    assert x.sharding == sharding


@pytest.mark.parametrize(
  "fields, says",
  [
    (dict(rank=-1), "policy.lora.rank=-1"),
    (dict(rank=2.5), "policy.lora.rank=2.5"),
    (dict(rank=4.0), "policy.lora.rank=4.0"),
    (dict(rank=True), "policy.lora.rank=True"),
    (dict(rank=4, alpha=0.0), "policy.lora.alpha=0.0"),
    (dict(rank=4, targets=()), "policy.lora.targets=\\(\\)"),
    (dict(rank=4, targets=("q", "q")), "each layer once"),
    (dict(rank=4, targets=("q", "gates")), "'gates'.*did you mean 'gate'"),
  ],
)
def test_adapters_that_cannot_be_are_refused(fields, says):
  with pytest.raises(UserError, match=says) as error:
    LoraConfig(**fields)
  assert "\n" not in str(error.value)


def test_a_rank_above_the_width_is_refused():
  with pytest.raises(UserError, match=r"policy.lora.rank=33 .* width 32"):
    dataclasses.replace(_BASE, lora=LoraConfig(rank=33))
