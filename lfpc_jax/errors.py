"""The error a user can do something about."""


class UserError(Exception):
  """Bad input: one line that names the thing, its value and the remedy.

  Commands print it without a traceback and exit with a non-zero status.
  """
