"""Data sets, images, boxes and tokens that are wrong."""

import os

from tests.bad_inputs import bench as lib
from tests.bad_inputs.row import field, rows
from tests.data.sources import layouts

DATA_SETS = rows(
  "data sets",
  {
    "not built": field("data.dir=elsewhere", "elsewhere", "build it with `py"),
    "unknown": field("data.name=vstr", "data.name='vstr'", "choose 'scenes'"),
    "no such split": field("data.split=dev", "'dev'", "choose one of"),
    "splits for other sets": field("data.split=a+b", "2 parts", "give one for"),
    "an unknown difficulty": field("data.difficulty=mild", "'mild'"),
    "a negative number": field("data.items=-1", "data.items=-1", "0 is all"),
    "an unknown order": field("data.option_order=abc", "'abc'", "choose one"),
    "a negative number of scenes": (
      lambda at: at.scenes("--train=-5"),
      "-5",
    ),
    "no folder": (
      lambda at: at.build_data(),
      "raw: no such folder",
      "--dir names a folder",
    ),
    "an empty folder": (
      lambda at: at.write("raw/readme") and at.build_data(),
      "holds no file of folder",
      "--dir names a folder",
    ),
    "a line that is no JSON": (
      lambda at: at.rows("{").build_data("--on_error=stop"),
      "train.jsonl line 1",
      "Correct the row, or skip",
    ),
    "no usable row": (
      lambda at: at.rows({"answer": ""}).build_data(),
      "no row of folder",
      "the answer is empty",
    ),
    "no usable picture": (
      lambda at: at.rows({}, {}).build_data("--max_pixels=9"),
      "no row of folder",
      "exceeds the limit of 9 pixels",
    ),
    "a path out of the folder": (
      lambda at: at.rows({"image": "../../etc/passwd"}).build_data(),
      "leads out of",
      "keep all files below it",
    ),
    "a link out of the folder": (
      lambda at: (
        at.write("secret.png", layouts.image_bytes()),
        at.rows({"image": "a.png"}),
        (at.folder / "raw" / "a.png").symlink_to(at.folder / "secret.png"),
        at.build_data(),
      )[-1],
      "leads out of",
    ),
    "built already": (
      lambda at: at.built() and at.build_data(),
      "is there already",
      "remove it",
    ),
    "Parquet cut off": (
      lambda at: (
        layouts.write_parquet(
          at.folder / "raw/hr_bench_8k.parquet", layouts.hr_rows(1)
        ),
        lib.cut("raw/*.parquet")(at.folder),
        at.build_data(name="hr_bench_8k"),
      )[-1],
      "hr_bench_8k.parquet",
    ),
    "a built one cut off": (
      lambda at: (
        fields := at.built(),
        lib.cut("built/**/*.array_record*", 0.3)(at.folder),
        at.steps().train(*fields),
      )[-1],
      "cannot be read",
      "remove its folder and build it again",
    ),
    "a built one without its description": (
      lambda at: (
        fields := at.built(),
        lib.cut("built/**/dataset_info.json", 0.5)(at.folder),
        at.steps().train(*fields),
      )[-1],
      "cannot be read",
      "remove its folder and build it again",
    ),
    "no selected budgets": field(
      "gap.mode=selected", "no selected budgets at", "lfpc_jax.select_gap"
    ),
    "selected budgets cut off": (
      lambda at: (
        at.write("g.parquet", b"PAR1")
        and at.train("gap.mode=selected", "gap.file=g.parquet")
      ),
      "g.parquet is no Parquet file",
      "lfpc_jax.select_gap",
    ),
  },
)


def picture(data, *says):
  """A picture that the policy is asked about."""
  return (
    lambda at: at.ask(at.picture("p.png", data), "Which?"),
    "--image=p.png",
    *says,
  )


IMAGES = rows(
  "images",
  {
    "not there": (
      lambda at: at.ask("none.png", "Which?"),
      "--image=none.png",
      "name a picture's file",
    ),
    "a directory": (lambda at: at.ask(".", "Which?"), "it is a directory"),
    "a path with a zero byte": (
      lambda at: at.ask("a\0b.png", "Which?"),
      r"--image=a\x00b.png",  # a terminal would swallow the byte itself
    ),
    "a loop of links": (
      lambda at: (
        os.symlink("l.png", at.folder / "l.png") or at.ask("l.png", "Which?")
      ),
      "--image=l.png",
    ),
    "empty": picture(b"", "0 bytes are no JPEG", "convert or replace"),
    "text": picture(b"no picture", "10 bytes are no JPEG"),
    "cut off": picture(lib.noise()[:6000], "cannot be decoded", "replace"),
    "an archive": picture(b"PK\x03\x04" + bytes(90), "94 bytes are no JPEG"),
    "a PostScript program": picture(
      b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "are no JPEG"
    ),
    "a bomb": picture(lib.bomb(60_000), "exceed", "pixels"),
    "a long one": picture((33_000, 200), "200 x 33000", "scale it down"),
    "a thin one": picture((6_000, 28), "thinner than 1 : 200", "crop it"),
    "one in a data set": (
      lambda at: (
        at.rows({}),
        at.write("raw/1.png", lib.bomb(60_000)),
        at.build_data("--on_error=stop"),
      )[-1],
      "exceed",
      "Correct the row",
    ),
    "larger than the config's": (
      lambda at: at.steps().train("data.image_capacity=64,64"),
      "data.image_capacity",
      "128",
    ),
  },
)


def boxes(value, *says):
  """A row of one's own data with these boxes."""
  return (
    lambda at: at.rows({"boxes": value}).build_data("--on_error=stop"),
    "train.jsonl line 1",
    *says,
    "Correct the row, or skip",
  )


BOXES = rows(
  "boxes",
  {
    "no list": boxes(7, "box"),
    "three numbers": boxes([[1, 2, 3]], "box"),
    "a word": boxes([[1, 2, 3, "x"]], "box"),
    "no number": boxes([[1, 2, 3, float("nan")]], "box"),
    "empty": boxes([[5, 5, 5, 9]], "box"),
    "turned": boxes([[9, 9, 5, 5]], "box"),
    "outside": boxes([[500, 500, 600, 600]], "lies outside its image"),
    "not nested": boxes([[0, 0, 9, 9], [20, 20, 30, 30]], "not inside"),
    "huge": boxes([[0, 0, 1e30, 1e30]], "box"),
  },
)

TOKENS = rows(
  "tokens",
  {
    "no question": (
      lambda at: at.ask("", " "),
      "the question is empty",
      "--question=",
    ),
    "a question of broken bytes": (
      lambda at: at.ask("", "Which\udcff?"),
      "--question",
      "no valid Unicode",
    ),
    "a choice of broken bytes": (
      lambda at: at.ask("", "Which?", options=["red", "blue\udcff"]),
      "--option",
      "no valid Unicode",
    ),
    "an endless question": (
      lambda at: at.ask("", "Which of the digits is it? " * 2000),
      "too many for a policy",
      "shorten it",
    ),
    "a question for a small prompt": (
      lambda at: at.steps().train("rollout.text_capacity=2"),
      "does not fit",
      "rollout.text_capacity",
    ),
    "an answer that is no option": (
      lambda at: at.rows({"options": ["red", "blue"]}).build_data(
        "--on_error=stop"
      ),
      "train.jsonl line 1",
      "'7'",
    ),
    "an unknown style": field("policy.prompt_style=long", "'long'"),
    "a tokeniser cut off": (
      lambda at: at.train(at.model(lib.cut("tokenizer.json"))),
      "tokenizer.json",
      "copy the tokeniser's files",
    ),
    "a tokeniser without chat tokens": (
      lambda at: at.train(
        at.model(lib.edit_json("tokenizer.json", added_tokens=[]))
      ),
      "tokenizer.json",
      "copy the tokeniser's files",
    ),
  },
)

ROWS = [*DATA_SETS, *IMAGES, *BOXES, *TOKENS]
