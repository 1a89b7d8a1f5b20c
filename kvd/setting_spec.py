"""What a setting is: one declaration that everything else is derived from.

A field of a settings class (`kvd.settings`) is declared with `setting(default, doc, ...)`. From that
declaration come the validator of the attrs class, the reading of TOML, environment and flags
(`kvd.config`), CONFIG GET and CONFIG SET, the manual in ``conf/kvd.toml`` and
``docs/configuration.md``. Nothing about a setting is written anywhere else.

A `Kind` says how a value looks in TOML and as text. Text is what the environment, ``--set`` and
CONFIG SET bring; it is read as Redis's own configuration reads it (``yes``/``no``, ``256mb``), and
more forgivingly where nothing can be misunderstood (``true``, ``256 MiB``).

Values are plain: bool, int, str, `Secret`, and tuples of the last three. A range is checked in one
place, `Setting.problem`, which answers with a sentence that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import attrs

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

ValueT = TypeVar("ValueT")


# What is shown of a secret.
_HIDDEN: Final = "<secret>"


class Secret:
    """A text that must not be shown: every printed form of it tells only whether it is set."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself. Never log or print what this returns."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(set)" if self._text else "Secret(empty)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


# Like `Reply`: what Any stands for is in the module's docstring, the kinds below check it.
Value: TypeAlias = Any


@attrs.frozen
class Kind:
    """How the values of a setting are written: each reader raises ValueError with a sentence."""

    title: str
    from_text: Callable[[str], Value]
    from_toml: Callable[[object], Value]
    to_toml: Callable[[Value], str]  # secrets as they are: for files, never for the log
    words: tuple[str, ...] = ()  # all values, where they are a few words
    is_secret: bool = False


@attrs.frozen
class Setting:
    """One setting: its default, its range and its meaning. `name` is ``section.field``."""

    name: str
    default: Value
    doc: str
    kind: Kind
    low: int | None = None
    high: int | None = None
    check: Callable[[Value], str | None] | None = None
    parameters: tuple[str, ...] = ()  # its names in Redis's CONFIG GET and SET
    runtime: bool = False  # whether CONFIG SET may change it in a running daemon

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        return self.name.partition(".")[2]

    @property
    def environment(self) -> str:
        """Name of the environment variable: ``KVD_SERVER__PORT`` for ``server.port``."""
        return f"KVD_{self.section.upper()}__{self.field.upper()}"

    def problem(self, value: Value) -> str | None:
        """Say what is wrong with a value of the right type, or return None."""
        too_low = self.low is not None and value < self.low
        too_high = self.high is not None and value > self.high
        if too_low or too_high:
            return f"{self.show(value)} is out of range; use {self.range}"
        if isinstance(value, Secret) and value.reveal() == _HIDDEN:
            return "stands for a secret that is not shown; write the secret itself"
        return self.check(value) if self.check is not None else None

    def show(self, value: Value) -> str:
        """Return the value as TOML, for people to read: a secret only as something or nothing."""
        hidden = self.kind.is_secret and value
        return f'"{_HIDDEN}"' if hidden else self.kind.to_toml(value)

    @property
    def range(self) -> str:
        """The allowed values in words; empty where the kind alone says it."""
        if self.kind.words:
            return ", ".join(self.kind.words)
        show = self.show
        if self.low is not None and self.high is not None:
            return f"{show(self.low)} to {show(self.high)}"
        return f"{show(self.low)} or more" if self.low is not None else ""


def setting(
    default: ValueT,
    doc: str,
    *,
    kind: Kind | None = None,
    low: int | None = None,
    high: int | None = None,
    check: Callable[[Any], str | None] | None = None,
    parameters: tuple[str, ...] = (),
    runtime: bool = False,
) -> ValueT:
    """Declare a field of a settings class. `kind` is taken from the default unless given."""
    declared = Setting(
        name="",  # the class gives it: see `settings_of`
        default=default,
        doc=" ".join(doc.split()),
        kind=kind if kind is not None else _KIND_OF_TYPE[type(default)],
        low=low,
        high=high,
        check=check,
        parameters=parameters,
        runtime=runtime,
    )
    # Declared as ValueT so that type checkers see the field's own type, as attrs.field itself does.
    field: ValueT = attrs.field(default=default, validator=_validate, metadata={"setting": declared})
    return field


def settings_of(section: str, section_class: type[attrs.AttrsInstance]) -> list[Setting]:
    """Return the settings that a class declares, in its order, named for `section`."""
    return [
        attrs.evolve(field.metadata["setting"], name=f"{section}.{field.name}")
        for field in attrs.fields(section_class)
    ]


def _validate(instance: object, attribute: attrs.Attribute[Any], value: Value) -> None:
    problem = attribute.metadata["setting"].problem(value)
    if problem is not None:
        raise ValueError(f"{attribute.name}: {problem}")


# ---------------------------------------------------------------- kinds

_WORDS_TRUE: Final = frozenset({"yes", "true", "on", "1"})
_WORDS_FALSE: Final = frozenset({"no", "false", "off", "0"})

# Redis's units (k is 1000, kb is 1024) and the unambiguous ones of IEC 80000-13.
_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": KIB,
    "kib": KIB,
    "m": 1000**2,
    "mb": MIB,
    "mib": MIB,
    "g": 1000**3,
    "gb": GIB,
    "gib": GIB,
}
_SIZE: Final = re.compile(r"(\d{1,19})\s*([A-Za-z]*)")


def _boolean_from_text(text: str) -> bool:
    word = text.strip().lower()
    if word in _WORDS_TRUE:
        return True
    if word in _WORDS_FALSE:
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


def _boolean_from_toml(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"write true or false, not {value!r}")


def _integer_from_text(text: str) -> int:
    try:
        return int(text.strip(), 10)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _integer_from_toml(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"write a whole number without quotes, not {value!r}")


def _bytes_from_text(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write bytes as a number, or with KiB, MiB or GiB")
    return int(match[1]) * factor


def _bytes_from_toml(value: object) -> int:
    return _bytes_from_text(value) if isinstance(value, str) else _integer_from_toml(value)


def _bytes_to_toml(value: int) -> str:
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value and value % factor == 0:
            return f'"{value // factor} {unit}"'
    return str(value)


def _mode_from_text(text: str) -> int:
    try:
        return int(text.strip().removeprefix("0o"), 8)
    except ValueError:
        raise ValueError(f"{text!r} is not an octal file mode such as 700") from None


def _text_from_toml(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"write a text in quotes, not {value!r}")


def _quoted(text: str) -> str:
    """Write a TOML basic string. Source: TOML 1.0, "String"."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


def _list_from_text(text: str) -> tuple[str, ...]:
    """Split at commas or blanks: neither an address nor a path of ours holds one."""
    return tuple(re.split(r"[,\s]+", text.strip())) if text.strip() else ()


def _list_from_toml(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text_from_toml(item) for item in value)
    raise ValueError(f"write a list in brackets, not {value!r}")


def _integers_from_text(text: str) -> tuple[int, ...]:
    return tuple(_integer_from_text(word) for word in _list_from_text(text))


def _integers_from_toml(value: object) -> tuple[int, ...]:
    if isinstance(value, list):
        return tuple(_integer_from_toml(item) for item in value)
    raise ValueError(f"write a list in brackets, not {value!r}")


def _secret_from_toml(value: object) -> Secret:
    if isinstance(value, str):
        return Secret(value)
    raise ValueError("write a text in quotes")  # the value stays unsaid


def _secrets_from_text(text: str) -> tuple[Secret, ...]:
    return tuple(Secret(line.strip()) for line in text.split(";") if line.strip())


def _secrets_from_toml(value: object) -> tuple[Secret, ...]:
    if isinstance(value, list):
        return tuple(_secret_from_toml(item) for item in value)
    raise ValueError("write a list of texts in brackets")


def choice(*words: str) -> Kind:
    """Return the kind of a setting whose value is one of a few words."""

    def read(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return str(word)

    return Kind("one of a few words", read, read, _quoted, words=words)


BOOLEAN: Final = Kind(
    "true or false", _boolean_from_text, _boolean_from_toml, lambda value: "true" if value else "false"
)
INTEGER: Final = Kind("whole number", _integer_from_text, _integer_from_toml, str)
BYTES: Final = Kind("size", _bytes_from_text, _bytes_from_toml, _bytes_to_toml)
MODE: Final = Kind("file mode", _mode_from_text, _integer_from_toml, lambda value: f"0o{value:o}")
TEXT: Final = Kind("text", str, _text_from_toml, _quoted)
LIST: Final = Kind(
    "list of texts",
    _list_from_text,
    _list_from_toml,
    lambda value: "[" + ", ".join(_quoted(item) for item in value) + "]",
)
INTEGERS: Final = Kind(
    "list of whole numbers",
    _integers_from_text,
    _integers_from_toml,
    lambda value: "[" + ", ".join(map(str, value)) + "]",
)
SECRET: Final = Kind(
    "secret text", Secret, _secret_from_toml, lambda value: _quoted(value.reveal()), is_secret=True
)
SECRETS: Final = Kind(
    "list of secret texts",
    _secrets_from_text,
    _secrets_from_toml,
    lambda value: "[" + ", ".join(_quoted(item.reveal()) for item in value) + "]",
    is_secret=True,
)

_KIND_OF_TYPE: Final[dict[type, Kind]] = {bool: BOOLEAN, int: INTEGER, str: TEXT, Secret: SECRET, tuple: LIST}
