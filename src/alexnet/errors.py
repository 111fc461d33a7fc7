"""Errors that a user can cause: ``FieldError`` names the field, its value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

__all__ = ["FieldError", "check_choice", "one_line", "suggest"]


class FieldError(ValueError):
    """A field has a value that is not allowed. ``field`` is its name, ``problem`` the rest of the message."""

    def __init__(self, field: str, requirement: str, value: Any, hint: str = "") -> None:
        self.field, self.problem = field, f"must be {requirement}, got {value!r}{hint}"
        super().__init__(f"{field} {self.problem}")


def check_choice(field: str, value: str, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of ``allowed``; else raise ``FieldError``, which lists them."""
    if value not in tuple(allowed):  # a value that cannot be hashed is none of a mapping's either
        raise FieldError(field, f"one of {', '.join(allowed)}", value, suggest(value, allowed))
    return value


def suggest(name: str, allowed: Collection[str]) -> str:
    """``" (did you mean X?)"`` if one of ``allowed`` is similar to ``name``, else an empty string."""
    similar = difflib.get_close_matches(str(name), allowed, n=1)
    return f" (did you mean {similar[0]}?)" if similar else ""


def one_line(error: BaseException) -> str:
    """An error's message in one line of at most 200 characters; the name of its class if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
