"""The one judge of answers, for the training reward and for evaluation.

Host code on plain strings; the policy's text is hostile by assumption, so
every pass over it is linear in its length and nothing of it is evaluated.

Two questions are asked of a finished episode:

- is its answer right (`matches`, on what `extract_answer` found)?
- is it well formed (`well_formed`, the format rule)?

Normalisation, the same for prediction and truth: Unicode NFKC, case folded,
white space collapsed, '&' read as 'and', the words zero to twenty as digits,
thousands commas dropped, numbers brought to one spelling (7.0 is 7; a leading
zero is kept, 007 is no 7), articles before a word dropped, and punctuation
removed, except inside a number (3.5, 10:30), a minus sign, '%' and currency
signs.  LaTeX around a whole answer is taken off first (`latex.plain`).  Two
answers are equal when the results are: a prediction that merely contains the
truth is wrong.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
import re
import string
from typing import NamedTuple
import unicodedata

from lfpc_jax.errors import UserError
from lfpc_jax.rl import latex

# DeepEyes' cap: an answer this long is wrong and badly formed.
MAX_ANSWER_CHARACTERS = 1000

_TAGS = ("think", "answer", "tool_call")
_TAG = re.compile(r"<(/?)(think|answer|tool_call)>")
_VISION_TOKENS = (
  "<|vision_start|>",
  "<|vision_end|>",
  "<|vision_pad|>",
  "<|image_pad|>",
  "<|video_pad|>",
)

_NUMBER_WORDS = {
  word: str(value)
  for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty".split()
  )
}
_ARTICLES = frozenset(("a", "an", "the"))
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-") | {"’": "'", "‘": "'"})
_THOUSANDS = re.compile(r"(?<![\w.,])[0-9]{1,3}(?:,[0-9]{3})+(?![\w,])")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)?(?:\.[0-9]+)?")
# Punctuation that carries meaning; the alternatives are tried in order and
# the last one takes all other punctuation.
_PUNCTUATION = re.compile(
  r"(?P<keep>(?<=[0-9])[.:/](?=[0-9])|(?<!\w)[-.](?=\.?[0-9]))"
  r"|(?P<apart>[%$€£¥])"
  r"|(?P<drop>'|(?<=[^\W\d_])\.(?=[^\W\d_]))"
  r"|(?P<space>[^\w\s]|_)"
)
_LEAD_IN = re.compile(
  r"(?:so |therefore,? |thus,? )?(?:the |my )?"
  r"(?:(?:correct|final|best|right) )?(?:answer|option|choice)"
  r"(?: is:? | ?: ?| (?=\(?[a-z][\s).:]*$))(?:option )?",
  re.IGNORECASE,
)
_BARE_LETTER = re.compile(r"[(\[]?([a-z])[)\].:,]*", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
  r"(?:[(\[]([a-z])[)\]][.:]?|([a-z])(?:[).:]| -)|([a-z])(?= )) ?(.+)",
  re.IGNORECASE,
)
# A capital standing alone, unless it is the article of a following word.
_OTHER_LETTER = re.compile(r"\b([A-Z])\b(?! [a-z])")


class Verdict(NamedTuple):
  """What the judge found in one episode.

  Attributes:
    correct: the answer equals the truth.
    formed: the format rule holds.
    answer: the extracted answer, or None when there was none.
  """

  correct: bool
  formed: bool
  answer: str | None


def verdict(
  turns: Sequence[str],
  answer: str,
  options: Sequence[str] = (),
  *,
  fallback: bool = False,
) -> Verdict:
  """Judges one episode from the policy's text of each of its turns.

  Args:
    turns: what the policy wrote, turn by turn, special tokens kept.
    answer: the truth; with options, a letter or the text of one of them.
    options: the choices of a multiple-choice question, without letters.
    fallback: see `extract_answer`.
  """
  if isinstance(turns, str):
    raise TypeError(
      "turns is one string; pass the list of the turns, [text] for a single one"
    )
  found = extract_answer(turns[-1], fallback=fallback) if turns else None
  return Verdict(matches(found, answer, options), well_formed(*turns), found)


def extract_answer(text: str, *, fallback: bool = False) -> str | None:
  """Content of the last complete `<answer>..</answer>` of the final turn.

  Args:
    text: the policy's text of the final turn.
    fallback: without a complete answer, judge the whole text instead (for
      models that were never taught the tags). Tags and white space around
      it are not removed by this.

  Returns:
    The answer without surrounding white space, possibly empty; None when
    there is no complete answer and no fallback was asked for.
  """
  last_close = text.rfind("</answer>")
  start = text.rfind("<answer>", 0, max(last_close, 0))
  if start < 0:
    return text.strip() if fallback else None
  start += len("<answer>")
  return text[start : text.find("</answer>", start)].strip()


def well_formed(*turns: str) -> bool:
  """The format rule, over the policy's text of each turn, in order.

  It holds when
  - in every turn each of think, answer and tool_call opens and closes
    alternately (so the counts agree, as DeepEyes asks, and no closing tag
    comes before its opening one);
  - the final turn holds exactly one answer, of fewer than
    `MAX_ANSWER_CHARACTERS` characters;
  - the policy wrote no vision token in any turn: those belong to
    observations, which are not the policy's text.

  A single text is one turn. No turn at all is badly formed.
  """
  if not turns or any(
    token in turn for turn in turns for token in _VISION_TOKENS
  ):
    return False
  if not all(_tags_alternate(turn) for turn in turns):
    return False
  if turns[-1].count("<answer>") != 1:
    return False
  return len(extract_answer(turns[-1])) < MAX_ANSWER_CHARACTERS


def matches(
  prediction: str | None, answer: str, options: Sequence[str] = ()
) -> bool:
  """Whether a prediction gives the answer, by equality, not containment.

  Open question: the normalised texts are equal. Multiple choice: the
  prediction names one option (`chosen_option`) and it is the right one.

  Args:
    prediction: the extracted answer; None is wrong.
    answer: the truth; with options, a letter or the text of one of them.
    options: the choices, without letters; empty for an open question.

  Raises:
    UserError: the truth names none of the options.
  """
  truth = answer_index(answer, options) if options else None
  if prediction is None or len(prediction) >= MAX_ANSWER_CHARACTERS:
    return False
  if options:
    return chosen_option(prediction, options) == truth
  return _same_text(prediction, answer) or _same_text(
    _without_lead_in(prediction), answer
  )


def answer_index(answer: str, options: Sequence[str]) -> int:
  """Index of the right option, from its letter or its text.

  A single letter in range is read as a letter, even when the options are
  letters themselves.

  Raises:
    UserError: the answer is neither.
  """
  index = chosen_option(answer, options)
  if index is None:
    last = string.ascii_uppercase[min(len(options), 26) - 1]
    raise UserError(
      f"answer {answer!r} is neither a letter A to {last} nor exactly one "
      f"of the options {tuple(options)!r}; correct the example"
    )
  return index


def chosen_option(prediction: str, options: Sequence[str]) -> int | None:
  """Index of the one option that a prediction names, or None.

  Read after a lead-in such as "The answer is", and inside of LaTeX that
  encloses all of it: a letter alone ("A", "(a)", "A."); the text of exactly
  one option; a letter and text ("A) red", "(A) red", "A. It is red"). A letter
  and a text that names another option contradict each other: None. So a list
  of options chooses none.
  """
  if len(prediction) >= MAX_ANSWER_CHARACTERS:
    return None
  text = _without_lead_in(prediction)
  letter = _BARE_LETTER.fullmatch(text)
  if letter and (index := _letter_index(letter[1], options)) is not None:
    return index
  # The text with its articles first: "A. blue" is no way to say "blue", but
  # "D.C." may be an option rather than the letter D.
  for form in (_raw, _with_articles, lambda x: _with_articles(latex.plain(x))):
    for candidate in (prediction, text):
      if (index := _option_with_text(candidate, options, form)) is not None:
        return index
  parts = _LETTER_AND_TEXT.fullmatch(text)
  named = parts and (parts[1] or parts[2])
  if named and (index := _letter_index(named, options)) is not None:
    return index if _text_agrees(parts[4], index, options) else None
  index = _option_with_text(text, options, _plain_form)
  if index is None and parts and parts[3]:
    # "B red" without a delimiter needs the option's own text.
    index = _letter_index(parts[3], options)
    if index is not None and not _same_text(parts[4], options[index]):
      return None
  return index


def normalise(text: str, *, drop_articles: bool = True) -> str:
  """One spelling for answers that mean the same; see the module's text."""
  text = unicodedata.normalize("NFKC", text).casefold().translate(_DASHES)
  text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
  text = _PUNCTUATION.sub(_replace_punctuation, text)
  words = [_NUMBER_WORDS.get(word, word) for word in text.split()]
  words = [_canonical_number(word) for word in words]
  if not drop_articles:
    return " ".join(words)
  following = words[1:] + [""]
  return " ".join(
    word
    for word, after in zip(words, following)
    if not (word in _ARTICLES and after[:1].isalpha())
  )


def _tags_alternate(text: str) -> bool:
  is_open = dict.fromkeys(_TAGS, False)
  for closing, name in _TAG.findall(text):
    if is_open[name] != bool(closing):
      return False
    is_open[name] = not closing
  return not any(is_open.values())


def _replace_punctuation(match: re.Match[str]) -> str:
  if match["keep"]:
    return match["keep"]
  if match["apart"]:
    return f" {match['apart']} "
  if match["drop"]:
    return ""
  return " and " if match["space"] == "&" else " "


def _canonical_number(word: str) -> str:
  if not word[-1].isdigit() or not _NUMBER.fullmatch(word):
    return word
  # Decimal keeps every digit: long numbers must not meet through rounding.
  value = format(Decimal(word), "f")
  value = value.rstrip("0").rstrip(".") if "." in value else value
  return "0" if value == "-0" else value


def _plain_form(text: str) -> str:
  return normalise(latex.plain(text))


def _with_articles(text: str) -> str:
  return normalise(text, drop_articles=False)


def _same_text(first: str, second: str) -> bool:
  a, b = _plain_form(first), _plain_form(second)
  # Answers made of punctuation only ("+", "?") normalise to nothing.
  return a == b if a or b else _raw(first) == _raw(second) != ""


def _raw(text: str) -> str:
  return " ".join(text.casefold().split())


def _without_lead_in(text: str) -> str:
  text = " ".join(latex.plain(text).replace("*", " ").split()) or text
  lead_in = _LEAD_IN.match(text)
  return latex.plain(text[lead_in.end() :]) or text if lead_in else text


def _letter_index(letter: str, options: Sequence[str]) -> int | None:
  index = string.ascii_uppercase.find(letter.upper())
  return index if 0 <= index < len(options) else None


def _option_with_text(
  text: str, options: Sequence[str], form: Callable[[str], str]
) -> int | None:
  wanted = form(text)
  found = [i for i, option in enumerate(options) if form(option) == wanted]
  return found[0] if wanted and len(found) == 1 else None


def _text_agrees(text: str, index: int, options: Sequence[str]) -> bool:
  """Whether the text after a letter names no option but the letter's."""
  if _same_text(text, options[index]):
    return True
  letters = {
    _letter_index(letter, options) for letter in _OTHER_LETTER.findall(text)
  }
  if letters - {index, None}:
    return False
  words = f" {normalise(text)} "
  own = normalise(options[index])
  without_own = words.replace(f" {own} ", " | ") if own else words
  others = {normalise(option) for option in options} - {own, ""}
  # "dark red" names it and not "red"; "red" inside it names nothing.
  return not any(
    f" {other} " in (words if f" {own} " in f" {other} " else without_own)
    for other in others
  )
