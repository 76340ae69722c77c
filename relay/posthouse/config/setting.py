"""What is known of one setting: its unit, its bounds, why its default is what it is, and how text becomes its value.

A section is a frozen dataclass whose fields are `Annotated[type, Setting(...)]`; `Field` is one of them together with
its section's name. Files, the environment, flags, the reference and the documentation all work from `Field`s, so
a setting is written down once.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

ENVIRONMENT_PREFIX = "POSTHOUSE_"

Unit = Literal["bytes", "s", "ms", "messages", "rows", "connections", "names", "readers", "messages/s", ""]


class BadValueError(ValueError):
    """A value that a setting does not take. Its text says what is wrong with it, without the setting's name."""


@dataclass(frozen=True, slots=True)
class Form:
    """A shape of text that several settings share: how it is checked and made canonical, and how a person is told."""

    name: str
    check: Callable[[str], str]
    """Gives the canonical text; raises ValueError for what does not fit."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the type of a field cannot say.

    `about` is what it does and `why` the reason for its default: whole sentences. `minimum` and `maximum` are
    inclusive. `zero` is what 0 means where it is not an amount, `empty` what an empty text means where it is allowed.
    `secret` marks a URL that may carry a password. `flag` is the option of `posthouse serve` that sets it.
    """

    about: str
    why: str
    unit: Unit = ""
    minimum: float | None = None
    maximum: float | None = None
    zero: str = ""
    empty: str = ""
    form: Form | None = None
    secret: bool = False
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One setting in its place."""

    section: str
    name: str
    kind: Any
    """The type of its value: bool, int, float, str, a Literal of texts, or tuple[str, ...]."""
    default: Any
    setting: Setting

    @property
    def key(self) -> str:
        """Its name in a file, as an error shows it: `limits.max_window`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment: `POSTHOUSE_LIMITS_MAX_WINDOW`."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that it takes, if they are a fixed few."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether it holds any number of texts."""
        return typing.get_origin(self.kind) is tuple

    def allowed(self) -> str:
        """What it takes, as the end of the sentence 'allowed: …'."""
        setting = self.setting
        if self.choices:
            return ", ".join(self.choices[:-1]) + " or " + self.choices[-1]
        if self.kind is bool:
            return "true or false"
        if self.kind in (int, float):
            return self._allowed_number()
        text = setting.form.name if setting.form else "a text"
        if self.is_list:
            return f"a list, each {text}"
        return f"{text}, or empty ({setting.empty})" if setting.empty else text

    def _allowed_number(self) -> str:
        setting = self.setting
        words = "an integer" if self.kind is int else "a number"
        if setting.minimum is not None and setting.maximum is not None:
            words += f" from {setting.minimum:,.10g} to {setting.maximum:,.10g}".replace(",", "_")
        elif setting.minimum is not None:
            words += f" of at least {setting.minimum:,.10g}".replace(",", "_")
        if setting.unit:
            words += f" ({setting.unit})"
        return f"{words}; 0 means {setting.zero}" if setting.zero else words

    def from_text(self, text: str) -> Any:
        """The value that a text from the environment or a flag stands for; raises BadValueError."""
        if self.is_list:
            return self.from_value([part.strip() for part in text.split(",") if part.strip()])
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise BadValueError(f"{text!r} is neither true nor false")
            return text.lower() == "true"
        if self.kind in (int, float):
            try:
                return self.from_value(self.kind(text))
            except ValueError as error:
                if isinstance(error, BadValueError):
                    raise
                raise BadValueError(f"{text!r} is not a number of this kind") from None
        return self.from_value(text)

    def from_value(self, value: Any) -> Any:
        """The value that a TOML value stands for; raises BadValueError."""
        if self.is_list:
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise BadValueError(f"{value!r} is not a list of texts")
            return tuple(self._checked_text(item) for item in value)
        if self.choices:
            if value not in self.choices:
                raise BadValueError(f"{value!r} is not one of them")
            return value
        if self.kind is bool:
            if not isinstance(value, bool):
                raise BadValueError(f"{value!r} is neither true nor false")
            return value
        if self.kind in (int, float):
            return self._checked_number(value)
        if not isinstance(value, str):
            raise BadValueError(f"{value!r} is not a text")
        return self._checked_text(value)

    def _checked_number(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            raise BadValueError(f"{value!r} is not {'an integer' if self.kind is int else 'a number'}")
        if not math.isfinite(value):
            raise BadValueError(f"{value!r} is not finite")
        setting = self.setting
        if setting.zero and value == 0:
            return value
        if setting.minimum is not None and value < setting.minimum:
            raise BadValueError(f"{value!r} is too small")
        if setting.maximum is not None and value > setting.maximum:
            raise BadValueError(f"{value!r} is too large")
        return value if self.kind is int else float(value)

    def _checked_text(self, text: str) -> str:
        if any(ord(character) < 32 or ord(character) == 127 for character in text):
            raise BadValueError("it has a control character")
        if not text:
            if self.setting.empty and not self.is_list:
                return text
            raise BadValueError("it is empty")
        if self.setting.form is None:
            return text
        try:
            return self.setting.form.check(text)
        except ValueError as error:
            raise BadValueError(str(error)) from None


def fields_of(section: str, struct: type) -> list[Field]:
    """The settings of one section, in their order in the source."""
    hints = typing.get_type_hints(struct, include_extras=True)
    found = []
    for field in dataclasses.fields(struct):
        kind, setting = typing.get_args(hints[field.name])
        found.append(Field(section, field.name, kind, field.default, setting))
    return found
