"""An entry of a JSON file whose fields are checked when they are read, so that an error names file, entry and field."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A JSON object and its location.

    Attributes:
        where: file and number, for messages.
        content: the object.
    """

    where: str
    content: Any

    def __post_init__(self) -> None:
        if not isinstance(self.content, dict):
            raise ValueError(f"{self.where}: not an object. {_REMEDY}")

    def text(self, field: str) -> str:
        """A string."""
        return self._checked(field, str, "a string")

    def integer(self, field: str) -> int:
        """A whole number."""
        return self._checked(field, int, "a whole number")

    def number(self, field: str) -> float:
        """A number."""
        value: int | float = self._checked(field, (int, float), "a number")
        return float(value)

    def entry(self, field: str) -> "Entry":
        """An object."""
        return Entry(f"{self.where}, {field}", self._checked(field, dict, "an object"))

    def entries(self, field: str) -> list["Entry"]:
        """A list of objects."""
        values: list[Any] = self._checked(field, list, "a list")
        return [Entry(f"{self.where}, {field}[{position}]", value) for position, value in enumerate(values)]

    def texts(self, field: str) -> list[str]:
        """A list of strings."""
        return [self._element(field, value, str, "strings") for value in self._checked(field, list, "a list")]

    def numbers(self, field: str) -> list[float]:
        """A list of numbers."""
        values: list[Any] = self._checked(field, list, "a list")
        return [float(self._element(field, value, (int, float), "numbers")) for value in values]

    def require_equal_lengths(self, *fields: str) -> None:
        """Checks that lists are equally long.

        Raises:
            ValueError: they are not.
        """
        lengths = [len(self.content[field]) for field in fields]
        if len(set(lengths)) > 1:
            raise ValueError(f"{self.where}: {', '.join(fields)} have {lengths} values; all need as many. {_REMEDY}")

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return self.content.get(field) is not None

    def _checked(self, field: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        if field not in self.content:
            raise ValueError(f"{self.where}: the field {field!r} is missing. {_REMEDY}")
        value = self.content[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{self.where}: {field} is {value!r:.80}, not {wanted}. {_REMEDY}")
        return value

    def _element(self, field: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{self.where}: {field} holds {value!r:.80} among its {wanted}. {_REMEDY}")
        return value


_REMEDY = "Run evaluate again with this version."
