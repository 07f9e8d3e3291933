"""Scores of benchmarks, by the rules of their own tools.

grading            right, wrong or invalid: rules first, then perhaps a judge
judge              a judge behind an OpenAI-compatible endpoint
judge_settings     what may be said of that judge in a config
vstar, hr_bench    the benchmarks' scores
published_rules    how other tools read an answer, for comparison alone
"""
