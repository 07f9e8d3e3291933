"""transformers on PyTorch: rollouts and updates, in an environment of its own.

  python peer.py FOLDER THREADS    then one JSON command a line on stdin

Written as its users would write it well: left padding, the keys and values
kept within a turn, each view processed once for its whole group, crops of all
rows in one call, tower and decoder over the whole batch. A turn's prompt is
the conversation so far, prefilled again. This file imports nothing of
lfpc_jax; problem.py wrote what it reads.
"""

import json
import pathlib
import re
import resource
import statistics
import sys
import time

import numpy as np
from PIL import Image
import torch
import transformers
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

_CELL = 28
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class Peer:
  """A policy and its questions."""

  def __init__(self, folder: pathlib.Path):
    """Reads the published files and the problem."""
    self.words = json.loads((folder / "problem.json").read_text())
    with np.load(folder / "images.npz") as images:
      self.images = [
        Image.fromarray(images[str(k)]) for k in range(len(images))
      ]
    self.tokenizer = AutoTokenizer.from_pretrained(folder)
    self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
      folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    self.processors = {
      name: image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
        min_pixels=self.words[name][0] * _CELL**2,
        max_pixels=self.words[name][1] * _CELL**2,
      )
      for name in ("view", "crop")
    }
    self.generating = 0.0  # seconds inside generate

  def _process(self, name: str, images):
    """(patches, grid) of each image."""
    found = self.processors[name](images=images, return_tensors="pt")
    sizes = found["image_grid_thw"].prod(-1).tolist()
    pixels = found["pixel_values"].split(sizes)
    return list(zip(pixels, found["image_grid_thw"]))

  def inputs(self, rows, images, side="left"):
    """The model's arguments for token lists and their images, padded."""
    longest, pad = max(map(len, rows)), self.words["stops"][-1]
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for k, row in enumerate(rows):
      place = (
        slice(longest - len(row), None) if side == "left" else slice(len(row))
      )
      ids[k, place], mask[k, place] = torch.tensor(row), 1
    flat = [image for row in images for image in row]
    return {
      "input_ids": ids,
      "attention_mask": mask,
      "mm_token_type_ids": (ids == self.words["image_pad"]).int(),
      "pixel_values": torch.cat([pixels for pixels, _ in flat]),
      "image_grid_thw": torch.stack([grid for _, grid in flat]),
    }

  def _write(self, rows, images):
    """The tokens that the policy writes after each row."""
    began = time.perf_counter()
    given = self.inputs(rows, images)
    with torch.inference_mode():
      found = self.model.generate(
        **given,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=self.words["max_turn_tokens"],
        eos_token_id=self.words["stops"],
        pad_token_id=self.words["stops"][-1],
      )
    found = found[:, given["input_ids"].shape[1] :].tolist()
    self.generating += time.perf_counter() - began
    return [self._cut(row) for row in found]

  def _cut(self, row):
    """A row up to its first stop token."""
    for k, token in enumerate(row):
      if token in self.words["stops"]:
        return row[: k + 1]
    return row

  def _crop(self, number: int, grid, text: str):
    """The region that a turn calls, of the original."""
    image = self.images[number]
    call = json.loads(_CALL.search(text)[1])
    x1, y1, x2, y2 = call["arguments"]["bbox_2d"]
    across, down = grid[2] * _CELL // 2, grid[1] * _CELL // 2
    wide, high = image.width / int(across), image.height / int(down)
    box = (x1 * wide, y1 * high, x2 * wide, y2 * high)
    return image.crop((int(box[0]), int(box[1]), round(box[2]), round(box[3])))

  def rollout(self):
    """Episodes of all questions: token lists, their images, what is written."""
    group, w = self.words["group"], self.words
    self.generating = 0.0
    views = self._process("view", self.images)
    number = [k for k in range(len(views)) for _ in range(group)]
    rows = [list(w["prompts"][k]) for k in number]
    images = [[views[k]] for k in number]
    written = [[] for _ in rows]
    for turn in range(w["turns"]):
      new = self._write(rows, images)
      for row, spans, tokens in zip(rows, written, new):
        spans.append((len(row), len(row) + len(tokens)))
        row += tokens
      if turn + 1 == w["turns"]:
        break
      texts = self.tokenizer.batch_decode(new)
      crops = self._process(
        "crop",
        [self._crop(k, views[k][1], text) for k, text in zip(number, texts)],
      )
      for row, seen, crop in zip(rows, images, crops):
        cells = int(crop[1].prod()) // 4
        row += w["before"] + [w["image_pad"]] * cells + w["after"]
        seen.append(crop)
    return rows, images, written

  def update(self, lesson, optimiser, micro: int) -> dict[str, float]:
    """One policy-gradient step, its gradient from `micro` slices.

    Of the token mean of the clipped loss; logits of written tokens' slots
    alone. `lesson` is (rows, images, written, advantages, old, temperature).
    """
    rows, images, written, advantages, old, temperature = lesson
    total = sum(b - a for spans in written for a, b in spans)
    loss_sum, size = 0.0, -(-len(rows) // micro)
    optimiser.zero_grad(set_to_none=True)
    for k in range(0, len(rows), size):
      part = slice(k, k + size)
      given = self.inputs(rows[part], images[part], side="right")
      where = [
        (i, t)
        for i, spans in enumerate(written[part])
        for a, b in spans
        for t in range(a, b)
      ]
      i, t = torch.tensor(where).T
      hidden = self.model.model(**given).last_hidden_state[i, t - 1]
      scores = self.model.lm_head(hidden) / temperature
      targets = given["input_ids"][i, t]
      logp = -torch.nn.functional.cross_entropy(
        scores, targets, reduction="none"
      )
      before = torch.tensor(
        np.concatenate([old[k + j] for j in range(len(rows[part]))])
      )
      ratio = torch.exp(logp - before)
      a = torch.tensor(advantages[part])[i]
      kept, cut = ratio * a, ratio.clamp(0.8, 1.2) * a
      loss = -torch.minimum(kept, cut).sum() / total
      loss.backward()
      loss_sum += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    optimiser.step()
    return {"loss": loss_sum, "gradient_norm": float(norm)}


def product_seconds(size: int) -> float:
  """Median seconds of a product of two random matrices, as measure.py's."""
  a = torch.randn(size, size) / size**0.5
  seconds = []
  for _ in range(6):
    began = time.perf_counter()
    a @ a
    seconds.append(time.perf_counter() - began)
  return statistics.median(seconds[1:])


def serve(peer: Peer, folder: pathlib.Path) -> None:
  """Answers commands until stdin ends."""
  played, optimiser = None, None
  for line in sys.stdin:
    command = json.loads(line)
    began = time.perf_counter()
    answer = {}
    if command["do"] == "rollout":
      played = peer.rollout()
      answer["generating"] = peer.generating
      answer["rows"] = [
        [row[a:b] for a, b in spans] for row, spans in zip(played[0], played[2])
      ]
    elif command["do"] == "update":
      if optimiser is None:
        optimiser = torch.optim.AdamW(
          peer.model.parameters(), lr=command["rate"], fused=True
        )
      with np.load(folder / "lesson.npz") as data:
        lesson = (
          *played,
          data["advantages"],
          list(data["old"]),
          float(data["temperature"]),
        )
      began = time.perf_counter()
      answer |= peer.update(lesson, optimiser, command["micro"])
    elif command["do"] == "product":
      answer["product"] = product_seconds(command["size"])
    answer["seconds"] = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    answer["gibibytes"] = usage.ru_maxrss / 2**20
    print(json.dumps(answer), flush=True)


def main() -> None:
  """Says what it is, then serves."""
  torch.set_num_threads(int(sys.argv[2]))
  torch.manual_seed(0)
  transformers.logging.set_verbosity_error()
  folder = pathlib.Path(sys.argv[1])
  peer = Peer(folder)
  versions = {"torch": torch.__version__}
  versions["transformers"] = transformers.__version__
  print(json.dumps(versions), flush=True)
  serve(peer, folder)


if __name__ == "__main__":
  main()
