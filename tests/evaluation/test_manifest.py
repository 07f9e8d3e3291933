"""Whatever can change a score stands in the manifest, and ends a resume."""

import importlib.metadata
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from lfpc_jax import agent as agent_lib
from lfpc_jax.data import manual, registry
from lfpc_jax.data.loader import PromptSource
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, manifest
from lfpc_jax.models import fused
from tests.data.sources import layouts
from tests.evaluation import made_up


def _row(**changes):
  row = dict(
    id="q",
    image=layouts.image_bytes(5, (40, 60)),
    question="Which?",
    answer="A",
    category="near",
    options=("red", "blue"),
    boxes=[[1, 2, 3, 4]],
    group="g",
    variant="0",
    image_id="i",
  )
  return row | changes


def _digest(*rows, name="set"):
  return manifest.questions_digest(PromptSource(rows, name))


CHANGED = [
  dict(id="r"),
  dict(question="Where?"),
  dict(answer="B"),
  dict(category="far"),
  dict(options=("blue", "red")),
  dict(boxes=[[1, 2, 3, 5]]),
  dict(group="h"),
  dict(variant="1"),
  dict(image_id="j"),
  dict(image=layouts.image_bytes(6, (40, 60))),
  dict(image=layouts.image_bytes(5, (40, 61))),
  # The same pixels from other bytes.
  dict(image=layouts.image_bytes(5, (40, 60), "BMP")),
]


def test_the_digest_is_of_the_questions_in_their_order():
  rows = _row(), _row(id="r")
  known = _digest(*rows)
  assert known.startswith("2-") and known == _digest(*rows)
  assert known != _digest(*rows[::-1])
  assert known != _digest(*rows, name="another")
  assert known != _digest(rows[0])


@pytest.mark.parametrize("change", CHANGED)
def test_the_digest_changes_with_anything_that_is_asked(change):
  assert _digest(_row()) != _digest(_row(**change))


def test_the_digest_knows_to_what_an_image_is_shrunk():
  whole, small = (
    manifest.questions_digest(PromptSource([_row()], "set", room))
    for room in (None, (30, 30))
  )
  assert whole != small


def test_the_files_are_read_once():
  class Rows(list):
    reads = 0

    def __getitem__(self, index):
      Rows.reads += 1
      return super().__getitem__(index)

  source = PromptSource(Rows([_row(), _row(id="r")]), "set")
  manifest.questions_digest(source)
  assert [source.words(k).id for k in range(2)] == ["q", "r"]
  assert source.size(1) == (40, 60)
  assert Rows.reads == 2


@pytest.fixture(scope="module")
def vstar(tmp_path_factory):
  """A folder with V*Bench built of two questions."""
  root = tmp_path_factory.mktemp("vstar")
  layouts.write_vstar(root, "sa_1")
  layouts.write_vstar(root, "sa_2", "relative_position")
  manual.prepare(registry.SOURCES["vstar"], root, root / "data")
  return root


def _config(vstar, policy, *changes):
  return made_up.config(
    "data.name=vstar",
    f"data.dir={vstar / 'data'}",
    f"policy.path={policy}",
    "eval.probes=()",
    "eval.budgets=(9,)",
    "rollout.text_capacity=200",
    *changes,
  )


@pytest.fixture
def policy(tmp_path):
  """A published directory of its own."""
  folder = tmp_path / "policy"
  shutil.copytree(agent_lib.find_model("tiny_qwen"), folder)
  return folder


def _append(folder: pathlib.Path, name: str):
  with (folder / name).open("a") as file:
    file.write("\n")


def _file(name):
  def change(folder, patch):
    _append(folder, name)

  return change


def _number(module, name, value):
  def change(folder, patch):
    patch.setattr(module, name, lambda *_: value)

  return change


def _version(package):
  def change(folder, patch):
    known = importlib.metadata.version
    patch.setattr(
      importlib.metadata,
      "version",
      lambda p: (p == package and "0") or known(p),
    )

  return change


def _mesh(folder, patch):
  mesh = jax.make_mesh((1, 1), ("fsdp", "tensor"))
  patch.setattr(manifest.parallel, "current_mesh", lambda: mesh)


AROUND = {
  "files.tokenizer.json": _file("tokenizer.json"),
  "files.tokenizer_config.json": _file("tokenizer_config.json"),
  "files.config.json": _file("config.json"),
  "files.preprocessor_config.json": _file("preprocessor_config.json"),
  "files.chat_template.jinja": _file("chat_template.jinja"),
  "devices": _number(jax, "device_count", 8),
  "mesh.fsdp": _mesh,
  "attention": _number(fused, "chosen", "splash"),
  "versions.jax": _version("jax"),
  "versions.jaxlib": _version("jaxlib"),
  "versions.pillow": _version("pillow"),
}
SETTINGS = {
  "sets.vstar/test.seed": "data.option_seed=1",
  "sets.vstar/test.order": "data.option_order=stored",
  "config.eval.budgets": "eval.budgets=(4,)",
  "config.eval.temperature": "eval.temperature=0.5",
  "config.eval.seed": "eval.seed=1",
  "config.rollout.max_response_tokens": "rollout.max_response_tokens=50",
  "config.rollout.max_crops": "rollout.max_crops=2",
  "config.gap.min_tokens": "gap.min_tokens=5",
  "config.policy.dtype": "policy.dtype=bfloat16",
}


def _killed(folder, config):
  """An evaluation that is killed in its first rollout."""

  def told(probe, size):
    raise KeyboardInterrupt

  with made_up.policy(told=told), pytest.raises(KeyboardInterrupt):
    command.evaluate(config, folder, "")


def _refused(folder, config, name):
  says = rf"holds another evaluation \(.*{re.escape(name)} "
  with made_up.policy(), pytest.raises(UserError, match=says):
    command.evaluate(config, folder, "")


@pytest.mark.parametrize("name", AROUND)
def test_a_resume_is_refused_where_files_or_machine_have_changed(
  vstar, policy, tmp_path, monkeypatch, name
):
  config = _config(vstar, policy)
  _killed(tmp_path / "out", config)
  AROUND[name](policy, monkeypatch)
  _refused(tmp_path / "out", config, name)


def test_the_number_of_processes_is_noted(vstar, monkeypatch):
  config = _config(vstar, "tiny_qwen")
  agent = agent_lib.make_agent(config, 9)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  examples = PromptSource([_row()], "set")
  found = manifest.make(
    config, agent, "p", "", {"w": jax.numpy.ones(1)}, examples
  )
  assert found["processes"] == 2


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resume_is_refused_where_a_setting_has_changed(
  vstar, policy, tmp_path, name
):
  _killed(tmp_path / "out", _config(vstar, policy))
  changed = _config(vstar, policy, SETTINGS[name])
  _refused(tmp_path / "out", changed, name)


def test_a_resume_is_refused_where_a_picture_has_changed(
  vstar, policy, tmp_path
):
  _killed(tmp_path / "out", _config(vstar, policy))
  root = tmp_path / "raw"
  layouts.write_vstar(root, "sa_1")
  layouts.write_vstar(root, "sa_2", "relative_position")
  path = root / "direct_attributes" / "sa_1.jpg"
  data = np.frombuffer(path.read_bytes(), np.uint8)
  path.write_bytes(data.tobytes() + b"\0")  # behind the end of the picture
  manual.prepare(registry.SOURCES["vstar"], root, root / "data")
  # The same place, as the config names it.
  shutil.copytree(vstar / "data", tmp_path / "kept")
  shutil.rmtree(vstar / "data")
  shutil.copytree(root / "data", vstar / "data")
  try:
    _refused(tmp_path / "out", _config(vstar, policy), "questions")
  finally:
    shutil.rmtree(vstar / "data")
    shutil.copytree(tmp_path / "kept", vstar / "data")


@pytest.mark.parametrize(
  "change, order, says",
  [
    ("data.option_order=", ("shuffled", 0, False), "shuffled by seed 0."),
    ("data.option_seed=7", ("shuffled", 7, False), "shuffled by seed 7."),
    (
      "data.option_order=stored",
      ("stored", None, True),
      "stored order: the right one is always A.",
    ),
  ],
)
def test_the_order_of_the_options_is_said_as_it_came_out(
  vstar, tmp_path, capsys, change, order, says
):
  config = _config(vstar, "tiny_qwen", change)
  with made_up.policy():
    command.evaluate(config, tmp_path, "")
  found = json.loads((tmp_path / "scores.json").read_text())
  one = found["manifest"]["sets"]["vstar/test"]
  assert (one["order"], one["seed"], one["first_is_right"]) == order
  assert says in found["caption"]
  assert says in " ".join(capsys.readouterr().out.split())


def test_the_scores_hold_all_that_they_rest_on(vstar, tmp_path):
  config = _config(vstar, "tiny_qwen", "eval.budgets=(9,16)")
  with made_up.policy():
    command.evaluate(config, tmp_path, "")
  found = json.loads((tmp_path / "scores.json").read_text())
  evaluation = json.loads((tmp_path / "evaluation.json").read_text())
  assert found["manifest"].items() <= evaluation.items()
  assert found["manifest"]["config"]["eval"]["budgets"] == [9, 16]
  assert found["manifest"]["config"]["rollout"]["max_response_tokens"] == 48
  assert found["manifest"]["files"].keys() >= {"config.json", "tokenizer.json"}
  seconds = evaluation["seconds_per_question"]
  for budget in ("9", "16"):
    times = found["seconds"][budget]
    assert times["without_compiling"] == seconds[budget]
    assert times["with_compiling"] >= seconds[budget]
