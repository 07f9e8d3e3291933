"""Small files in the layouts of the published data sets."""

import base64
import csv
import io
import json

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq

from lfpc_jax.data.sources import rows


def image_bytes(colour=0, size=(40, 60), kind="PNG"):
  file = io.BytesIO()
  pixels = np.full((*size, 3), colour, np.uint8)
  Image.fromarray(pixels).save(file, kind)
  return file.getvalue()


def write_image(path, colour=0, size=(40, 60), kind="PNG"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(image_bytes(colour, size, kind))
  return path


def write_json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def write_lines(path, *values):
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [v if isinstance(v, str) else json.dumps(v) for v in values]
  path.write_text("".join(f"{line}\n" for line in lines))


def write_parquet(path, found, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(found), path, **options)


def vstar_row(**changes):
  row = {
    "target_object": ["glove"],
    "bbox": [[10, 20, 15, 8]],
    "question": "What is the material of the glove?",
    "options": [
      "The material of the glove is rubber.",
      "The material of the glove is cotton.",
      "The material of the glove is kevlar.",
      "The material of the glove is leather.",
    ],
  }
  return {**row, **changes}


def write_vstar(root, name="sa_1", category="direct_attributes", **changes):
  for folder in ("direct_attributes", "relative_position"):
    (root / folder).mkdir(parents=True, exist_ok=True)
  write_image(root / category / f"{name}.jpg", kind="JPEG")
  write_json(root / category / f"{name}.json", vstar_row(**changes))


def vstar_line(**changes):
  row = {
    "image": "direct_attributes/sa_1.jpg",
    "text": (
      "What is the material of the glove?\n(A) cotton\n(B) rubber\n(C) kevlar"
      "\n(D) leather\nAnswer with the option's letter from the given choices"
      " directly."
    ),
    "category": "direct_attributes",
    "label": "B",
    "question_id": 0,
  }
  return {**row, **changes}


_HR_OPTIONS = ("red", "blue", "green", "white")


def hr_rows(questions=2, colour=0):
  """Each question in its four rotations, as published."""
  found = []
  for q in range(questions):
    image = base64.b64encode(image_bytes(colour + q)).decode()
    for turn in range(4):
      options = _HR_OPTIONS[turn:] + _HR_OPTIONS[:turn]
      found.append(
        {
          "index": len(found),
          "question": "What is the color of the car?",
          "answer": "ABCD"[options.index("green")],
          "category": ("single", "cross")[q % 2],
          **dict(zip("ABCD", options)),
          "cycle_category": turn,
          "image": image,
        }
      )
  return found


def write_tsv(path, found):
  """As pandas writes it."""
  with path.open("w", newline="") as file:
    names = list(found[0])
    writer = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)


def verl_row(**changes):
  row = {
    "data_source": "vstar",
    "prompt": [
      {"role": "system", "content": "You are a helpful assistant.\n# Tools"},
      {
        "role": "user",
        "content": (
          "<image>\nWhich colour?\nThink first, call **image_zoom_in_tool** if"
          " needed, then answer. Format strictly as: <think>...</think>"
        ),
      },
    ],
    "images": [{"bytes": image_bytes(7), "path": None}],
    "ability": "vqa",
    "env_name": "visual_toolbox_v2",
    "reward_model": {"style": "model", "ground_truth": "red"},
    "extra_info": {
      "answer": "red",
      "id": "17",
      "image": "17.jpg",
      "question": "Which colour?",
    },
  }
  return {**row, **changes}


def read(source, root, split=None):
  """(rows, faults) of a split, the only one if none is given."""
  if split is None:
    (split,) = source.find_splits(root)
  ledger = rows.Ledger()
  return list(rows.read_rows(source, root, split, ledger)), ledger.faults


def read_one(source, root, split=None):
  (row,), faults = read(source, root, split)
  assert faults == []
  return row


def read_fault(source, root, split=None):
  found, (fault,) = read(source, root, split)
  assert found == []
  return fault
