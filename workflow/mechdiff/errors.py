"""The one exception for what a user can mend."""


class InputError(Exception):
    """Bad input: one line that names the file or key, the value, and what is allowed."""


def one_line(error: Exception) -> str:
    """What an error says, in one line whatever the names in it hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))
