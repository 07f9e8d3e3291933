"""The likelihood of options against transformers, and its way to the table."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image
import pytest
import tokenizers
import torch
import transformers
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

from lfpc_jax import agent as agent_lib
from lfpc_jax.data import manual, registry
from lfpc_jax.data.examples import Example
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import benchmark, command, items, likelihood, runner
from tests import real_vocabulary
from tests.data.sources import layouts
from tests.evaluation import made_up
from tests.gap_selection import sizes

BUDGET = 9
OPTIONS = (("7", "the red sign", "-3.5"), ("The sign is blue.", "8"))
SHAPES = ((100, 150), (90, 60))


def _examples():
  rng = np.random.default_rng(4)
  return [
    Example(
      id=f"q{k}",
      image=rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
      question="What digit is on the red sign?",
      answer="A",
      category="near",
      options=options,
      boxes=np.zeros((0, 4), np.int32),
      source="here",
    )
    for k, (shape, options) in enumerate(zip(SHAPES, OPTIONS))
  ]


def _reference(example, directory):
  """What transformers and Pillow make of the same files, option by option."""
  model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    directory, dtype=torch.float32, attn_implementation="eager"
  )
  words = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
  processor = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
    min_pixels=4 * 784, max_pixels=BUDGET * 784
  )
  shown = processor(images=[Image.fromarray(example.image)])
  grid = torch.tensor(np.asarray(shown["image_grid_thw"]))
  prompt = (
    "<|im_start|>system\nAnswer or zoom in.<|im_end|>\n<|im_start|>user\n"
    f"<|vision_start|>{'<|image_pad|>' * (int(grid.prod()) // 4)}<|vision_end|>"
    f"{example.question}<|im_end|>\n<|im_start|>assistant\n<answer>"
  )
  start = len(words.encode(prompt).ids)
  found = []
  for option in example.options:
    ids = torch.tensor(words.encode(f"{prompt}{option}</answer>").ids)[None]
    with torch.no_grad():
      logits = model(
        input_ids=ids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=torch.tensor(np.asarray(shown["pixel_values"])),
        image_grid_thw=grid,
      ).logits[0]
    logp = torch.log_softmax(logits[start - 1 : -1].double(), dim=-1)
    found.append(logp.gather(1, ids[0, start:, None])[:, 0].numpy())
  return found


def test_the_likelihoods_are_those_of_transformers():
  agent = agent_lib.make_agent(
    sizes.load("data.image_capacity=112,168"), BUDGET
  )
  scorer = likelihood.OptionScorer(agent, BUDGET)
  examples = _examples()
  room = likelihood.room_for(agent.tokenizer, examples)
  originals = agent.packer.originals(examples)
  packed = scorer.pack(examples, room, originals)
  found = scorer(sizes.params(), *jax.tree.map(jax.numpy.asarray, packed))
  for example, options in zip(examples, found, strict=True):
    wanted = _reference(example, agent.directory)
    for ours, theirs in zip(options, wanted, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_an_options_tokens_end_where_the_closing_tag_begins():
  tokenizer = Tokenizer.load(real_vocabulary.directory())
  for option in ("red", "It is red.", "<|im_end|>", "caf\u00e9", "\u96ea"):
    ids = likelihood.option_tokens(tokenizer, option)
    whole, less = tokenizer.decode(ids), tokenizer.decode(ids[:-1])
    assert whole.startswith(option + "<")
    assert f"{option}</answer>".startswith(whole)
    assert len(less) <= len(option)


def test_one_option_is_nothing_to_compare():
  example = dataclasses.replace(_examples()[0], options=("7",))
  with pytest.raises(UserError, match="'q0' has fewer than two options"):
    likelihood.room_for(None, [example])


def _likeliest(text):
  """Scores by which an option of this text is the likeliest."""

  def score(self, params, batch, options):
    rows = zip(np.asarray(options.tokens), np.asarray(options.length))
    tokenizer = self._agent.tokenizer
    return [
      tuple(
        (-0.5 if text in tokenizer.decode(ids[:n]) else -1.0,) * n
        for ids, n in zip(tokens, lengths)
        if n
      )
      for tokens, lengths in rows
    ]

  return score


def test_the_official_score_stands_beside_the_generated_one(
  tmp_path, monkeypatch, capsys
):
  layouts.write_vstar(tmp_path, "sa_1")
  layouts.write_vstar(tmp_path, "sa_2", "relative_position")
  manual.prepare(registry.SOURCES["vstar"], tmp_path, tmp_path / "data")
  config = made_up.config(
    "data.name=vstar",
    f"data.dir={tmp_path / 'data'}",
    "eval.probes=('noise',)",
    "eval.budgets=(9,)",
    "eval.likelihood=True",
    "rollout.text_capacity=200",
  )
  first = command.open_questions(config).words(0)
  right = first.options["ABCD".index(first.answer)]
  scorer = likelihood.OptionScorer
  monkeypatch.setattr(scorer, "__call__", _likeliest(right))
  monkeypatch.setattr(runner.Runner, "_with_views", lambda self, p, b, n: b)
  folder = tmp_path / "out"
  with made_up.policy(lambda batch, probe: ["nothing"] * len(batch.size)):
    command.evaluate(config, folder, "")
  found = json.loads((folder / "scores.json").read_text())["score"]
  assert found["9 tokens: overall"]["mean"] == 0
  assert found["9 tokens: overall, by likelihood"]["mean"] == 1
  assert found["9 tokens: relative_position, by likelihood"]["count"] == 1
  lines = (folder / "grades.jsonl").read_text().splitlines()
  grades = [json.loads(line) for line in lines]
  kinds = [kind for kind in ("rule", "VLMEvalKit", "likelihood") for _ in "ab"]
  assert [g["by"] for g in grades] == kinds
  rows = items.load_items(folder / "items.jsonl")
  assert [row.option_logps is None for row in rows] == [False] * 2 + [True] * 2
  assert "official score" in " ".join(capsys.readouterr().out.split())
  asked = {e.id: e for e in benchmark.words(command.open_questions(config))}
  # The rows read back give the same grades.
  assert len(benchmark.grade_by_likelihood(rows, asked)[9]) == 2
