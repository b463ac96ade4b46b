"""What every section of a recipe is made of: strict scalars, safe names, defaults by mode.

In: pydantic. Out: ``Section``, the scalar types and ``refuse``, which reports several problems at once.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from tutelage.errors import ConfigError
from tutelage.store.names import safe_name

FAST_DEFAULT = "fast_default"  # key of a field's json_schema_extra
PROBLEMS = "tutelage_problems"  # type of the error that carries several problems


def _check_name(name: str) -> str:
    try:
        return safe_name(name)
    except ConfigError:
        raise PydanticCustomError(
            "unsafe_name",
            "cannot be a file name; expected 1 to 80 characters out of A-Z a-z 0-9 . _ - , "
            "not dots only, not ending like NAME.tmp.1.2",
        ) from None


# `true` and "5" are not numbers and 5 is not text: a recipe says what it means.
Text = Annotated[str, Strict()]
NonEmpty = Annotated[str, Strict(), Field(min_length=1)]
Flag = Annotated[bool, Strict()]
LARGEST = 2**32 - 1  # of a seed for torch and numpy; no count is larger
Count = Annotated[int, Strict(), Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Strict(), Field(ge=0, le=LARGEST)]
Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
BelowOne = Annotated[float, Strict(), Field(ge=0, lt=1)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Name = Annotated[str, Strict(), AfterValidator(_check_name)]


class Section(BaseModel):
    """A frozen part of a recipe; a key that it does not know is an error."""

    # a key that is a word of Python, such as `lambda`, is an attribute with an underscore and an alias
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)
    takes_mode_defaults: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _take_fast_defaults(cls, values: Any, details: Any) -> Any:
        # `details` is pydantic's ValidationInfo, a protocol that cannot be checked at run time.
        values = {} if values is None else values  # `S1:` with nothing below it means all defaults
        if (
            not cls.takes_mode_defaults
            or not isinstance(values, Mapping)
            or (details.context or {}).get("mode") != "fast"
        ):
            return values
        return {**_fast_defaults(fields_by_key(cls)), **values}


def fields_by_key(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a section's fields under the keys that a recipe writes."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _fast_defaults(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    extras = {name: field.json_schema_extra for name, field in fields.items()}
    return {
        name: extra[FAST_DEFAULT] for name, extra in extras.items() if isinstance(extra, dict) and FAST_DEFAULT in extra
    }


def by_mode(full: Any, *, fast: Any, description: str) -> Any:
    """Declare a field whose default in mode ``fast`` differs from that in ``full``."""
    return Field(default=full, description=description, json_schema_extra={FAST_DEFAULT: fast})


def whole_section(description: str) -> Any:
    """Declare a section that may be left out: it is then validated from nothing, so its defaults follow the mode."""
    return Field(default_factory=dict, validate_default=True, description=description)


def refuse(problems: Sequence[tuple[tuple[str | int, ...], str]]) -> NoReturn:
    """Report several problems from one validator, each at its own path below the section.

    Args:
        problems: Pairs of a path below the validated section and what is wrong there.

    Raises:
        PydanticCustomError: Always.
    """
    text = "; ".join(f"{'.'.join(map(str, path))}: {message}" if path else message for path, message in problems)
    raise PydanticCustomError(PROBLEMS, "{text}", {"text": text, "problems": list(problems)})
