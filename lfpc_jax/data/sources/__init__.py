"""Readers of published data sets, as they are published, and of one's own.

A reader turns the files below a root folder into `rows.Row`s and lists what it
cannot use as `rows.Fault`s. It opens nothing outside its root, evaluates
nothing, and unpickles nothing.

  vstar             V*Bench: a JSON per image, or test_questions.jsonl
  hr_bench          HR-Bench 4K and 8K: TSV with base64, or Parquet
  visual_probe      VisualProbe: train and the three test levels
  pixel_reasoner    Pixel-Reasoner-RL: Parquet and a folder of images
  chain_of_focus    Chain-of-Focus RL: Parquet and a folder of images
  deep_eyes         DeepEyes-47k with ThinkLite: Parquets that hold the images
  folder            one's own: a folder of images and a JSONL
"""
