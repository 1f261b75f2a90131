"""The one exception for what a user can mend."""

from mechdiff.common.text import plain


class InputError(Exception):
    """Bad input: one line that names the file or key, the value, and what is allowed."""

    def __str__(self) -> str:
        return plain(super().__str__())
