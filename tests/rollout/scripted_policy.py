"""A policy that follows scripts, by its weights alone.

Each prompt ends in a token of its own, and the episode that follows it is
known beforehand: a crop and an answer, invalid JSON, a call for ever. The
weights are made, not trained:

- the embeddings of the scripts' tokens are orthogonal, and the head's row of
  token b points to all tokens that b follows in some script;
- one attention head finds the prompt's last token, wherever it is, and adds
  the script's direction; the head's row of b points to those of its scripts.

So the successor in this script wins, by a margin. All other weights are
random: every token's logits depend on the whole context and on the pixels.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent
from lfpc_jax.data import examples, tokenizer
from lfpc_jax.data.batches import Packer
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig
from lfpc_jax.rollout import episode
from lfpc_jax.rollout.probes import Probe
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import EpisodeConfig
from tests.models import oracle

# Tokens by name; a plain number is that number's token.
COMMAS = (", ", ",", ",\t")  # each comma of a box has one successor
OPEN = '\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
CLOSE = "]}}\n"
CALL, CALL_END, IM_END = "<tool_call>", "</tool_call>", "<|im_end|>"
SPELLED_END = ("<", "/", "tool", "_", "call", ">")
AFTER_CROP = "980"  # last token of a crop's observation
ANSWER = (*("<answer>", "7", "</answer>"), IM_END)


def after_error(failure: Failure) -> str:
  """Last token of an error's observation."""
  return str(970 + failure)


def call(box, end=(CALL_END,)):
  """The tokens of a call; `box` has up to four numbers."""
  numbers = [str(box[0])]
  for comma, number in zip(COMMAS, box[1:]):
    numbers += [comma, str(number)]
  return (CALL, OPEN, *numbers, CLOSE, *end)


_PRELUDE = tuple(str(n) for n in range(900, 920))
_BOX = (10, 20, 70, 60)  # the places of a box share no number
_LARGE = (0, 5, 110, 112)
_SMALL = (11, 21, 13, 22)  # grows to the shortest side

# Name of a script: its turns. A turn ends where the environment's text comes,
# and the next one begins after the token that closes this text.
SCRIPTS = {
  "crop and answer": (call(_BOX), AFTER_CROP, ANSWER),
  "answer": (ANSWER,),
  "no JSON": ((CALL, "name", CALL_END), after_error(Failure.NOT_JSON), ANSWER),
  "no tool": ((CALL, "12", CALL_END), after_error(Failure.WRONG_TOOL), ANSWER),
  "three numbers": (
    call((10, 20, 71)),
    after_error(Failure.WRONG_ARGUMENTS),
    ANSWER,
  ),
  "empty box": (
    call((80, 20, 70, 60)),
    after_error(Failure.BOX_EMPTY),
    ANSWER,
  ),
  "calls for ever": (
    *(call(_SMALL), AFTER_CROP, ("935", *call(_SMALL))),
    *(AFTER_CROP, ("935", *call(_SMALL))),
    *(after_error(Failure.NO_CROPS_LEFT), call(_SMALL)),
  ),
  "never ends": (("930", "931") * 16,),
  "long turns": (
    *((*_PRELUDE, *call(_LARGE)), AFTER_CROP, (*_PRELUDE, *call(_LARGE))),
  ),
  "spelled end": (
    call(_BOX, (*SPELLED_END, "934", IM_END)),
    AFTER_CROP,
    ANSWER,
  ),
  "spelled end of no JSON": (
    (CALL, "name", *SPELLED_END, "934", IM_END),
    after_error(Failure.NOT_JSON),
    ANSWER,
  ),
  "spelled end, goes on": (
    call(_BOX, (*SPELLED_END, *("932", "933") * 8)),
    AFTER_CROP,
    ANSWER,
  ),
}
_FIRST = 950  # the last token of script k's prompt is this number plus k

EPISODES = EpisodeConfig(
  group=2,
  max_crops=2,
  max_turns=4,
  max_turn_tokens=32,
  max_response_tokens=121,
  crop_min_tokens=4,
  crop_max_tokens=16,
  temperature=0.0,
  max_call_bytes=128,
)
FAST_COMPILE = {"xla_backend_optimization_level": 0}
VIEW_TOKENS = 20  # of the largest global view


@functools.cache
def load_tokenizer() -> tokenizer.Tokenizer:
  """The shipped tokeniser, with a spare token made the third comma."""
  text = (agent.ASSETS / "tiny_qwen" / "tokenizer.json").read_text()
  assert text.count('"<|unused_0|>"') == 1
  return tokenizer.Tokenizer(text.replace('"<|unused_0|>"', '",\\t"'))


@functools.cache
def _ids() -> dict[bytes, int]:
  table, lengths = load_tokenizer().token_bytes()
  texts = [row[:n].tobytes() for row, n in zip(table, lengths)]
  return {text: k for k, text in enumerate(texts)}


def token(name: str) -> int:
  """Id of the one token that spells `name`."""
  return _ids()[name.encode()]


def script_tokens(name: str) -> list[list[int]]:
  """Ids of what the policy writes in each turn of a script."""
  return [list(map(token, turn)) for turn in SCRIPTS[name][::2]]


def config() -> PolicyConfig:
  """Two blocks in the tower, two layers in the decoder."""
  return PolicyConfig(
    vision=VisionConfig(
      depth=2, width=32, mlp_width=36, heads=2, full_attention_blocks=(1,)
    ),
    text=TextConfig(
      vocab_size=load_tokenizer().vocab_size,
      width=128,
      mlp_width=64,
      depth=2,
      heads=4,
      kv_heads=2,
      mrope_section=(4, 6, 6),
    ),
    image_token_id=load_tokenizer().special.image_pad,
    remat="none",
    logit_chunk=64,
  )


def _successors() -> set[tuple[int, str, str]]:
  """(script, token, next token) of all that the policy shall write."""
  found = set()
  for k, script in enumerate(SCRIPTS.values()):
    last = str(_FIRST + k)
    for part in script:
      if isinstance(part, str):
        last = part
        continue
      for name in part:
        found.add((k, last, name))
        last = name
  for k, last, name in found:
    written = {b for j, _, b in found if j == k}
    rivals = {b for _, a, b in found if a == last and b in written} - {name}
    assert not rivals, f"script {k}: {last!r}, then {name!r} or {rivals}"
  return found


def make_params(seed: int = 0, noise: float = 0.25, margin: float = 0.8):
  """Parameters of the scripted policy.

  Args:
    seed: of the random weights.
    noise: their size against the scripts'.
    margin: scale of the scripts' rows of the head.
  """
  policy = config()
  width, number = policy.text.width, len(SCRIPTS)
  params = oracle.random_params(policy, seed)
  rules = sorted(_successors())
  names = sorted({name for _, *pair in rules for name in pair})
  rng = np.random.default_rng(seed)
  basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
  script = basis[:number]  # direction of each script
  vector = dict(zip(names, basis[number:], strict=False))
  assert len(vector) == len(names), "more tokens than directions"

  embedding = noise * np.array(params["embedding"])
  head = noise * np.array(params["head"])
  for name in names:
    embedding[token(name)] = 4 * vector[name]
  for name in names:
    before = {vector[a].tobytes(): vector[a] for _, a, b in rules if b == name}
    inside = {k for k, _, b in rules if b == name}
    row = sum(before.values(), np.zeros(width))
    row = row + sum((script[k] for k in inside), np.zeros(width))
    head[token(name)] = margin * row

  layers = {
    name: {leaf: np.array(x) for leaf, x in part.items()}
    for name, part in params["layers"].items()
  }
  for name in ("o", "down"):
    layers[name]["kernel"] *= noise
  _find_script(layers, vector, script)
  return {
    "vision": params["vision"],
    "embedding": jnp.asarray(embedding, jnp.float32),
    "head": jnp.asarray(head, jnp.float32),
    "norm": params["norm"],
    "layers": {
      name: {leaf: jnp.asarray(x) for leaf, x in part.items()}
      for name, part in layers.items()
    },
  }


def _find_script(layers, vector, script) -> None:
  """Makes head 0 of layer 0 look for the prompt's last token.

  Query and key use the slowest frequency, which hardly turns with distance.
  """
  slowest = layers["q"]["kernel"].shape[-1] // 2 - 1
  layers["norm1"]["scale"][0] = 1
  for name in ("q", "k"):
    layers[name]["kernel"][0, :, 0] = 0
    layers[name]["bias"][0, 0] = 0
  layers["v"]["kernel"][0, :, 0] = 0
  layers["v"]["bias"][0, 0] = 0
  layers["o"]["kernel"][0, 0] = 0
  layers["q"]["bias"][0, 0, slowest] = 20
  for k, direction in enumerate(script):
    mark = vector[str(_FIRST + k)]
    layers["k"]["kernel"][0, :, 0, slowest] += mark
    layers["v"]["kernel"][0, :, 0, k] = mark
    # The normed embedding has length sqrt(width) along `mark`.
    layers["o"]["kernel"][0, 0, k] = 4 * direction / len(direction) ** 0.5


def make_examples(number: int, seed: int = 0) -> list[examples.Example]:
  """Smooth images of different sizes, with two nested boxes."""
  rng = np.random.default_rng(seed)
  found = []
  for k in range(number):
    height, width = (int(x) for x in rng.integers(112, 225, 2))
    y, x = np.mgrid[:height, :width][..., None]
    waves = y * rng.uniform(0.01, 0.2, 3) + x * rng.uniform(0.01, 0.2, 3)
    image = 128 + 120 * np.sin(waves + rng.uniform(0, 6, 3))
    boxes = np.array([[40, 40, 60, 70], [30, 30, 90, 90]], np.int32)
    found.append(
      examples.Example(
        id=f"image {k}",
        image=image.astype(np.uint8),
        question="What digit is on the red sign?",
        answer="7",
        category="attribute",
        options=(),
        boxes=boxes,
        source="waves",
      )
    )
  return found


def make_packer() -> Packer:
  """For the examples above."""
  return Packer(
    tokenizer=load_tokenizer(),
    style="short",
    view_capacity=VIEW_TOKENS,
    view_min_tokens=4,
    text_capacity=32,
    image_capacity=(224, 224),
    target_capacity=3,
  )


def make_batch(number: int | None = None, seed: int = 0):
  """Script k's prompt in row k, with a global view of its own size."""
  number = number or len(SCRIPTS)
  budgets = [(4, 9, 12, 16, VIEW_TOKENS)[k % 5] for k in range(number)]
  batch = make_packer().pack(make_examples(number, seed), budgets)
  for k in range(number):
    batch.tokens[k, batch.length[k] - 1] = token(str(_FIRST + k % len(SCRIPTS)))
  return batch


@functools.cache
def limits(temperature: float) -> EpisodeConfig:
  """Greedy episodes in pairs, sampled ones in fours."""
  group = 4 if temperature else 2
  return dataclasses.replace(EPISODES, temperature=temperature, group=group)


@functools.cache
def program(temperature: float):
  """The compiled rollout; few, as compiling is what costs."""
  rollout = episode.Rollout(config(), limits(temperature), VIEW_TOKENS)
  return jax.jit(rollout, compiler_options=FAST_COMPILE)


@functools.cache
def play(temperature: float, probe: Probe | None = None):
  """(parameters, batch, trajectory) of a rollout of all scripts."""
  params, batch = make_params(), jax.tree.map(jnp.asarray, make_batch())
  arguments = (params, batch, make_texts(), jax.random.key(0))
  if probe is not None:
    arguments += (jnp.int32(probe),)
  return params, batch, program(temperature)(*arguments)


def on_host(tree):
  """The same tree of NumPy arrays."""
  return jax.tree.map(np.asarray, tree)


@functools.cache
def make_texts():
  """The short style's texts, each with the scripts' token at its end."""
  texts = agent.environment_texts(
    load_tokenizer(), "short", config().text.vocab_size
  )
  errors = np.array(texts.errors)
  for failure in Failure:
    length = int(texts.error_lengths[failure])
    errors[failure, length - 1] = token(after_error(failure))
  after = np.array(texts.after)
  after[-1] = token(AFTER_CROP)
  return dataclasses.replace(
    texts, after=jnp.asarray(after), errors=jnp.asarray(errors)
  )
