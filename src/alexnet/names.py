"""Names that people type: whether one is known, and which was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

__all__ = ["known", "meant"]


def meant(name: str, allowed: Collection[str]) -> str:
    """``" (did you mean X?)"`` where one of ``allowed`` is near ``name``, else nothing."""
    near = difflib.get_close_matches(str(name), allowed, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def known(what: str, name: str, allowed: Collection[str]) -> str:
    """``name``, if it is one of ``allowed``; else ValueError, in one line that says what is."""
    if name not in allowed:
        raise ValueError(f"{what} {name}: allowed is one of {', '.join(allowed)}{meant(name, allowed)}")
    return name
