"""The miniature policy on the embedded data set, on two CPU cores.

  python -m lfpc_jax.train --config=configs/tiny.py:stage1 --workdir=runs/stage1

Variants:
  stage1     the information gap: a 16-token global view (112 x 112 pixels of
             a 512 x 512 original), reward for a correct answer and a crop
  baseline   without the gap: the view has all 324 tokens; fewer steps, since
             each takes longer
  stage2     the grounding reward, on hard scenes; give it stage 1's run with
             --config.policy.checkpoint=runs/stage1
  control    stage2's data and steps without the grounding reward
  pretrain   makes the shipped starting policy, with lfpc_jax.pretrain
  smoke      two steps of stage 1 at toy sizes, for tests

Every field can be changed by a flag: --config.gap.tokens=64.
"""

import ml_collections


def _base() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = "stage1"  # in progress bars and reports
  config.seed = 0  # of the order of the questions, of sampling, of adapters

  config.policy = dict(
    path="tiny_qwen",  # a shipped model's name or a published directory
    checkpoint="",  # start from this run's parameters instead
    prompt_style="short",  # 'full' explains the tool, for published models
    freeze=("vision",),  # top-level parts that are not trained
    # Softmax, norms and log-sum-exp are float32 whatever stands here.
    dtype="float32",  # of products and activations; 'bfloat16' on accelerators
    param_dtype="float32",  # of trained parts: bfloat16 loses small updates
    frozen_dtype="float32",  # of other parts: bfloat16 halves their memory
    remat="products",  # a layer keeps: 'none' all, 'layer' only its input
    logit_chunk=0,  # tokens' worth of logits at one time; 0: all
    attention="auto",  # 'xla', 'splash' (TPU), 'cudnn' (GPU); models/fused.py
    attention_chunk=256,  # of 'xla': queries whose scores exist at one time
  )
  # Low-rank adapters on the decoder. If there are any, they alone are trained.
  config.policy.lora = dict(
    rank=0,  # 0: none; 8 to 64 are usual
    alpha=16.0,  # their output is multiplied by alpha / rank
    targets=("q", "k", "v", "o", "gate", "up", "down"),  # linear layers
  )
  config.data = dict(
    name="scenes",  # or a published set, several with +: docs/data.md
    dir="data",  # where it was built
    difficulty="easy",  # or 'hard': smaller digits, more signs
    split="train",  # of training; eval.split is what is evaluated
    items=0,  # the split's first ones; 0 for all
    mix=(),  # of training: questions drawn of each set, 0: all; (): all of all
    mix_seed=0,  # of what is drawn
    image_capacity=(512, 512),  # (height, width) of the largest original
    oversize="stop",  # or 'shrink': what to do about a larger one
    option_order="",  # 'stored', 'shuffled'; '': as docs/data.md says
    option_seed=0,  # of 'shuffled'
    max_boxes=4,  # nested boxes of a question; of more, the smallest
  )
  config.gap = dict(
    mode="fixed",  # 'none', 'fixed', 'random' or 'selected'
    tokens=16,  # the budget of 'fixed', the least of 'random'
    full_tokens=324,  # the budget of 'none', the most of 'random'
    levels=(16, 32, 64, 128, 324),  # what 'random' draws from
    draw="step",  # of 'random': one for a step's prompts; 'prompt': for each
    file="",  # of 'selected': what lfpc_jax.select_gap wrote; '' beside data
    wrong="keep",  # [choice] wrong on the original; 'drop': not trained on
    min_tokens=4,  # a smaller image is enlarged to this many
  )
  config.selection = dict(  # of lfpc_jax.select_gap
    levels=(),  # budgets below gap.full_tokens; () halves down to `lowest`
    lowest=16,  # [choice: 64, at 7B]
    items=0,  # examples; 0 for all of data.split
    batch=64,  # examples at one time
    answer_tokens=8,  # of a direct answer
  )
  config.rollout = dict(
    prompts=16,  # P [paper: 256]
    group=8,  # G [paper: 16]
    waves=1,  # slices of the prompts that roll out one after another
    max_crops=1,  # crops that an episode may have
    max_turns=2,  # of the policy; a failed call takes one too
    max_turn_tokens=16,  # tokens of one turn
    max_response_tokens=48,  # observations counted
    text_capacity=40,  # prompt tokens that are not visual
    crop_min_tokens=9,  # a smaller crop is enlarged to so many visual tokens
    crop_max_tokens=16,  # a larger crop is shrunk to so many
    crop_min_side=28,  # pixels of the original; a thinner box grows
    crop_max_aspect=100.0,  # longer side over shorter
    temperature=1.0,  # [choice] divides the logits; 0: greedy
    top_p=1.0,  # [choice] samples from the fewest tokens of this probability
    max_call_bytes=128,  # a longer tool call is not read
  )
  config.reward = dict(
    accuracy=0.8,  # [choice] of a right answer
    format_penalty=0.2,  # [choice] taken off where the form is wrong
    tool=1.2,  # [choice] of cropping, as tool_rule says
    # [paper] 'conditional': with a right answer only; 'unconditional'; 'none'.
    tool_rule="conditional",
    geo_weight=0.0,  # [choice] of the grounding reward; stage 2: 1
    geo_gate="none",  # [choice] 'accuracy': paid to right answers only
    tau=0.9,  # [paper] share of the answer's box that a crop must hold
    iou_weight=0.5,  # [choice] w: of IoU; the rest is distance
    # [choice] Which crop counts: 'last', 'first', 'best', 'mean' of all.
    crop_rule="last",
    coverage_condition=True,  # [paper] False: naive IoU
    innermost_only=False,  # [paper] nested boxes; True: B_1 alone
    # [choice] Of the distance: the image's sides, 'size', or 'diagonal'.
    l1_normaliser="size",
  )
  config.rl = dict(
    advantage="std",  # over the group's deviation; 'mean_only': not
    advantage_epsilon=1e-6,  # added to that deviation
    clip_low=0.2,  # the ratio's range begins at 1 - clip_low
    clip_high=0.2,  # and ends at 1 + clip_high; 'clip-higher': 0.28
    drop_zero_variance=False,  # leave groups of equal reward out of the mean
    loss="token_mean",  # or 'sequence_mean', 'constant': rl/types.py
    mask_over_long=False,  # leave out episodes that a limit cut off
    kl=0.0,  # weight of the KL term against the starting policy
    updates_per_step=1,  # passes over the same rollouts
    micro_batches=2,  # 8 prompts at a time: what two cores' caches hold
    rollout_slices=1,  # parts of each prompt's group, one after another
  )
  config.optimizer = dict(
    learning_rate=3e-4,  # [paper: 1e-6, at 7B]
    warmup_steps=5,  # of a linear rise; constant from there on
    b1=0.9,  # AdamW's decay of the first moment
    b2=0.99,  # and of the second
    weight_decay=0.01,
    clip_norm=1.0,  # a longer gradient is shortened to this
    dtype="float32",  # of both moments and of the sums
  )
  config.mesh = dict(  # of the devices; docs/pods.md
    axes=("fsdp", "tensor"),  # parameters and prompts; heads and widths
    sizes=(-1, 1),  # devices along each; -1: all that the others leave
    slices=(1, 1),  # of several slices: how many along each axis
    rules=(),  # changes of the table in parallel/sharding.py: 'embed=fsdp'
    # The same for the parameters in a rollout: not split over fsdp, or every
    # token would gather them.
    rollout_rules=("embed=", "vision_embed="),
  )
  config.train = dict(
    steps=60,  # to the end of the run
    report_every=10,  # steps between report.html, the last's too; 0: none
    report_prompts=4,  # questions of the step in it, with all their rollouts
    tensorboard=True,  # event files in the workdir
    max_skipped=3,  # steps of no finite loss or gradient, in a row, end a run
    wandb="",  # a project of Weights & Biases; '': do not send anything
  )
  config.alarms = dict(  # rl/alarms.py:AlarmConfig says what each means
    window=5,
    every=20,
    min_tool_rate=0.03,
    max_endless=0.3,
    max_box_area=0.5,
    box_area_growth=3.0,
    max_zero_variance=0.9,
    min_entropy=0.05,
    max_failed_calls=0.3,
    failed_calls_rise=0.1,
    learned_accuracy=0.8,
  )
  config.checkpoint = dict(
    dir="",  # where they lie, gs:// too; '': in checkpoints/ of --workdir
    every=10,  # steps from one to the next
    keep=2,  # the latest ones
  )
  config.eval = dict(
    split="test",  # of the same data
    items=512,  # questions; 0 for all
    batch=64,  # questions at one time
    budgets=(16, 324),  # visual tokens of the global view
    # What replaces every crop; 'truth' wants boxes.
    probes=("truth", "noise", "blank", "other"),
    seed=0,  # of sampling and of the probes
    temperature=0.0,  # 0: greedy
    records=24,  # rollouts kept for the report
    likelihood=False,  # asks for that of each option too: V*'s official score
  )
  # Of answers that no rule decides, in a benchmark's score alone.
  config.eval.judge = dict(
    url="",  # of an OpenAI-compatible API, 'http://host:8000/v1'; '': no judge
    model="",  # its name there
    key_variable="LFPC_JUDGE_KEY",  # environment variable with the key
    max_tokens=512,  # of a reply
    temperature=0.0,  # the judge's own
    threads=8,  # requests at a time
    timeout=60.0,  # seconds of one
    attempts=5,  # tries of one, before its question is invalid
    cache="",  # file of rulings that evaluations share; '': in the workdir
  )
  return config


def get_config(variant: str = "stage1") -> ml_collections.ConfigDict:
  """The config of a variant; the module's docstring names them."""
  config = _base()
  config.name = variant
  if variant == "stage1":
    return config
  if variant == "baseline":
    config.gap.mode = "none"
    # Each view is twenty times as large as stage 1's: a demonstration on two
    # cores cannot afford as many steps. experiments/main_table takes as many.
    config.train.steps = 20
    return config
  if variant in ("stage2", "control"):
    config.data.difficulty = "hard"
    config.reward.geo_weight = float(variant == "stage2")
    config.rollout.prompts = 32
    config.rl.micro_batches = 4
    config.train.steps = 32  # boxes shrink no more from about 24 on
    return config
  if variant == "pretrain":
    config.pretrain = dict(
      scenes=6000,  # of which the tower sees windows
      crowded=24000,  # small scenes full of signs, for the tower
      tower_batch=96,  # windows of a step
      # Steps, peak learning rate, share of crowded scenes.
      tower_phases=(
        (1300, 1.5e-3, 0.6),
        (2200, 1.2e-3, 0.6),
        (500, 1e-3, 0.25),
      ),
      dialogue_scenes=1200,  # whose features are kept in memory
      dialogue_phases=((1300, 2e-3), (900, 1.5e-3)),  # steps, peak rate
    )
    return config
  if variant == "smoke":
    config.rollout.update(prompts=4, group=2)
    config.train.steps = 2
    config.checkpoint.every = 1
    config.selection.batch = 4
    config.eval.update(items=8, batch=4, records=2)
    return config
  raise ValueError(
    f"no variant {variant!r}: choose stage1, baseline, stage2, control,"
    " pretrain or smoke"
  )
