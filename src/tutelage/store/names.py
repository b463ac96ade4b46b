"""Names that may become a path, and nothing else.

In: any string. Out: the same string, or an error.
"""

import re

from tutelage.errors import ConfigError

SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")


def safe_name(name: str, *, what: str = "name") -> str:
    """Return ``name`` unchanged if it can be one path component.

    Raises:
        ConfigError: If it holds other characters than ``A-Za-z0-9._-``, is empty, longer than 80,
            or made of dots only.
    """
    if not SAFE_NAME.fullmatch(name) or set(name) == {"."}:
        raise ConfigError(
            f"{what} {name!r} cannot be used as a file name. Expected 1 to 80 characters out of "
            "A-Z a-z 0-9 . _ - ; rename it in the recipe."
        )
    return name
