"""Rows in verl's layout, which several training sets share.

data_source, prompt (messages with <image>), images, ability, reward_model
{style, ground_truth}, extra_info {question, answer, index or id, ..}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfpc_jax.data.sources import fields
from lfpc_jax.data.sources.rows import ImageFile, Row, RowError


def row(
  where: str,
  found: Mapping[str, Any],
  number: int,
  image: ImageFile,
  image_id: str = "",
) -> Row:
  """A row of the table.

  The answer is the one that rewards are computed from, reward_model's. The
  question is extra_info's, where it is given, else the user's message less
  its instructions.

  Raises:
    RowError: a field is missing or wrong.
  """
  extra = found.get("extra_info")
  extra = extra if isinstance(extra, Mapping) else {}
  reward = found.get("reward_model")
  truth = reward.get("ground_truth") if isinstance(reward, Mapping) else None
  truth = extra.get("answer") if truth is None else truth
  if truth is None:
    raise RowError("there is no ground truth")
  answer = fields.answer(truth)
  asked = extra.get("question") or _user_message(found.get("prompt"))
  asked, options = fields.choice(asked, answer)
  index = next((extra[k] for k in ("id", "index") if extra.get(k)), number - 1)
  source = found.get("data_source")
  return Row(
    id=f"{number - 1}-{fields.text(index, 'the index')}",
    where=where,
    image=image,
    question=asked,
    answer=answer,
    category=fields.text("open" if source is None else source, "data_source"),
    options=options,
    image_id=image_id,
  )


def _user_message(prompt: Any) -> str:
  if isinstance(prompt, str):
    return prompt
  messages = prompt if isinstance(prompt, list) else []
  for message in reversed(messages):
    if isinstance(message, Mapping) and message.get("role") == "user":
      return message.get("content")
  raise RowError("there is no question: no message of role 'user' in prompt")
