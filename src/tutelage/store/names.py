"""Names that may become a path, and nothing else.

In: any string. Out: the same string, or an error.
"""

import re

from tutelage.errors import ConfigError
from tutelage.store.secrets import TOKEN
from tutelage.store.temporaries import is_temporary_name

SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")


def safe_name(name: str, *, what: str = "name") -> str:
    """Return ``name`` unchanged if it can be one path component.

    Raises:
        ConfigError: If it holds other characters than ``A-Za-z0-9._-``, is empty, longer than 80,
            made of dots only, or formed like a temporary (``NAME.tmp.1.2``), which a sweep would delete; or if it
            looks like an access token, which it does not repeat.
    """
    if TOKEN.search(name):
        raise ConfigError(f"{what} looks like an access token. Put the token into the variable HF_TOKEN, and rename.")
    if not SAFE_NAME.fullmatch(name) or set(name) == {"."} or is_temporary_name(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used as a file name. Expected 1 to 80 characters out of "
            "A-Z a-z 0-9 . _ - , not dots only and not ending like NAME.tmp.1.2; rename it in the recipe."
        )
    return name


def is_column_name(field: str) -> bool:
    """Say whether a template's field can only be the name of a column: ``#2 String`` is one, ``text[0]`` is not."""
    return field == field.strip() != "" and not field.isdecimal() and not set(field) & set(".[]\"'")
