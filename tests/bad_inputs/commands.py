"""Flags and configs that are wrong."""

from tests.bad_inputs import bench as lib
from tests.bad_inputs.row import field, rows

FLAGS = rows(
  "flags",
  {
    "no config": (lambda at: at.train(config=""), "no config", "--config="),
    "no directory": (
      lambda at: at.train(workdir=""),
      "no directory for the results",
      "add --workdir=",
    ),
    "a misspelt flag": (
      lambda at: at.train("--wrkdir=w"),
      "'wrkdir'",
      "Did you mean: workdir",
    ),
    "a word that is no flag": (
      lambda at: at.train("more"),
      "'more'",
      "flags begin with --",
    ),
    "a switch with a value": (
      lambda at: at.train("--distributed=perhaps"),
      "--distributed=perhaps",
      "--help lists the flags",
    ),
    "a field without a value": (
      lambda at: at.train("--config.gap.tokens"),
      "--config.gap.tokens",
      "give a value",
    ),
    "many processes for a command of one": (
      lambda at: at.select_gap("--distributed"),
      "one process",
      "omit --distributed",
    ),
    "a needed flag of compare": (
      lambda at: at.compare(),
      "--workdirs",
      "--help lists the flags",
    ),
    "a misspelt flag of compare": (
      lambda at: at.compare("--workdirs=a,b", "--outptu=c"),
      "--outptu=c",
      "--help lists the flags",
    ),
    "one evaluation to compare": (
      lambda at: at.compare("--workdirs=a"),
      "two or more",
      "--workdirs=runs/a,runs/b",
    ),
    "no evaluation to compare": (
      lambda at: at.compare("--workdirs=a,b"),
      "a",
      "evaluat",
    ),
    "an unknown data set to check": (
      lambda at: at.check_data(name="folders"),
      "'folders'",
      "choose from",
    ),
    "a word for a number of scenes": (
      lambda at: at.scenes("--train=many"),
      "--train",
      "'many'",
      "--help lists the flags",
    ),
    "scenes too small": (
      lambda at: at.scenes("--size=3"),
      "3 pixels",
      "must be from 32",
    ),
    "scenes too large": (
      lambda at: at.scenes("--size=20000"),
      "20000 pixels",
      "must be from 32",
    ),
    "a seed of scenes below zero": (
      lambda at: at.scenes("--seed=-3"),
      "seed=-3",
      "must be >= 0",
    ),
    "one choice": (
      lambda at: at.ask("", "Which?", options=["red"]),
      "--option",
      "give 2 to 26, or none",
    ),
    "a choice twice": (
      lambda at: at.ask("", "Which?", options=["red", "red"]),
      "--option",
      "('red', 'red')",
    ),
    "an unknown TPU": (
      lambda at: at.compile_check("v5x:2x2"),
      "--topology=v5x:2x2",
      "known are v",
    ),
    "an unknown TPU to propose for": (
      lambda at: at.propose("v5x:2x2"),
      "--topology=v5x",
      "known are v",
    ),
    "other axes to propose for": (
      lambda at: at.propose(
        "v5e", "mesh.axes=data,model", "mesh.rules=prompt=data"
      ),
      "('data', 'model')",
      "the axes ('fsdp', 'tensor') alone",
    ),
    "an unknown size": (
      lambda at: at.compile_check(size="8b"),
      "--size=8b",
      "the published sizes are",
    ),
  },
)

CONFIGS = rows(
  "configs",
  {
    "no such file": (
      lambda at: at.train(config="configs/tyni.py"),
      "configs/tyni.py",
      "no such file",
    ),
    "a directory": (
      lambda at: at.train(config=str(at.folder)),
      "no such file",
    ),
    "no Python": (
      lambda at: at.train(config=str(at.write("c.py", "def get_config(:"))),
      "c.py",
      "SyntaxError",
    ),
    "bytes": (
      lambda at: at.train(config=str(at.write("c.py", b"\x00\xff\xfe"))),
      "c.py",
      "SyntaxError",
    ),
    "no get_config": (
      lambda at: at.train(config=str(at.write("c.py", "x = 1"))),
      "c.py",
      "defines no get_config()",
    ),
    "no ConfigDict": (
      lambda at: at.train(
        config=str(at.write("c.py", "def get_config(): return 3"))
      ),
      "returns int",
    ),
    "an unknown variant": (
      lambda at: at.train(config=f"{lib.small_scenes.CONFIG}:stage3"),
      "'stage3'",
      "choose stage1",
    ),
    "a config without sections": (
      lambda at: at.train(
        config=str(
          at.write(
            "c.py",
            "import ml_collections\n"
            "def get_config(): return ml_collections.ConfigDict()",
          )
        )
      ),
      "the config lacks",
      "configs/tiny.py",
    ),
    "a stored config cut off": (
      lambda at: at.train(config=str(at.write("config.json", '{"seed": '))),
      "config.json is damaged",
    ),
    "a stored config that is a list": (
      lambda at: at.train(config=str(at.write("config.json", "[1]"))),
      "config.json",
    ),
    "a misspelt field": field("gap.tokns=4", "did you mean gap.tokens?"),
    "a group": field("gap=4", "is a group", "set a field of it"),
    "another type": field("gap.tokens=few", "gap.tokens=few", "type int"),
    "a view larger than full": field(
      "gap.tokens=400", "gap.tokens=400", "from 1 to gap.full_tokens"
    ),
    "an unknown gap": field("gap.mode=low", "'low'", "choose one of none"),
    "no rollouts": field("rollout.group=0", "rollout.group=0", "must be >= 1"),
    "no prompts": field("rollout.prompts=0", "rollout.prompts=0"),
    "a seed below zero": field("seed=-1", "seed=-1", "must be from 0 to"),
    "a seed too large": field(
      f"data.option_seed={2**64}", "data.option_seed=1844", "must be from 0 to"
    ),
    "a penalty that is no number": field(
      "rl.kl=nan", "rl.kl=nan", "must be >= 0"
    ),
    "a temperature that is no number": field(
      "rollout.temperature=nan", "rollout.temperature=nan", "must be >= 0"
    ),
    "a weight of a reward that is no number": field(
      "reward.geo_weight=nan", "reward.geo_weight=nan", "finite"
    ),
    "a negative temperature": field(
      "rollout.temperature=-1", "rollout.temperature=-1", "must be >= 0"
    ),
    "an unknown rule": field(
      "reward.tool_rule=maybe", "'maybe'", "'conditional', 'unconditional'"
    ),
    "an unknown advantage": field("rl.advantage=rank", "rl.advantage='rank'"),
    "slices that leave a rest": field(
      "rl.micro_batches=3", "rollout.prompts=4", "rl.micro_batches=3"
    ),
    "no slices": field("rl.micro_batches=0", "rl.micro_batches=0"),
    "an unknown part": field("policy.freeze=tower", "['tower']"),
    "an unknown precision": field(
      "policy.dtype=float8", "policy.dtype='float8'", "choose one of"
    ),
    "an unknown kernel": field(
      "policy.attention=flash", "policy.attention='flash'", "choose one of"
    ),
    "a kernel in float32": field(
      "policy.attention=cudnn", "in bfloat16", "--config.policy.dtype=bfloat16"
    ),
    "a learning rate that is no number": field(
      "optimizer.learning_rate=nan", "optimizer.learning_rate=nan"
    ),
    "a norm that turns the gradient": field(
      "optimizer.clip_norm=-1", "optimizer.clip_norm=-1"
    ),
    "a negative number of steps": field("train.steps=-1", "train.steps=-1"),
    "checkpoints never": field("checkpoint.every=0", "every 0 steps"),
    "no step may be skipped": (
      lambda at: at.steps().train("train.max_skipped=0"),
      "train.max_skipped=0",
      "must be >= 1",
    ),
    "an alarm that means nothing": field("alarms.window=0", "alarms.window=0"),
    "an adapter of no linear layer": (
      lambda at: at.train("policy.lora.rank=2", "policy.lora.targets=w,"),
      "policy.lora.targets",
      "'w'",
    ),
    "an unknown probe": (
      lambda at: at.evaluate("eval.probes=grey,"),
      "'grey'",
      "the probes are",
    ),
    "no question at a time": (
      lambda at: at.evaluate("eval.batch=0"),
      "eval.batch=0",
    ),
    "a view of nothing": (
      lambda at: at.evaluate("eval.budgets=0,"),
      "eval.budgets",
    ),
    "levels above the original": (
      lambda at: at.select_gap("selection.levels=99,"),
      "selection.levels=(99,)",
      "gap.full_tokens=16",
    ),
  },
)

ROWS = [*FLAGS, *CONFIGS]
