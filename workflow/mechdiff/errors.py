"""The one exception for what a user can mend."""


class InputError(Exception):
    """Bad input: one line that names the file or key, the value, and what is allowed."""
