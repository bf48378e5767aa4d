"""The one exception that means "the input is wrong", as opposed to "the program is"."""


class UserError(ValueError):
  """Something the user gave is wrong.

  The message is one line: what is wrong, where, and what to do about it. The command-line entries print it and exit
  with code 2 (see `cli.py`); library callers can catch it as a ValueError.
  """
