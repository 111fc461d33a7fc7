"""Pages that are one file: Jinja2 templates in which everything is escaped, and pictures that travel inside the page.

A page of this project holds no script and fetches nothing, so it can be opened offline, kept beside a run and mailed.
Templates lie in ``templates/``; each extends ``base.html``, which brings the style.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alexnet.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["inline_svg", "png_uri", "render", "write_page"]


def render(template: str, **values: Any) -> str:
    """The HTML of ``templates/TEMPLATE``, given ``values``. Text in them is escaped; only ``Markup`` is taken as it is.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    return _environment().get_template(template).render(**values)


def write_page(path: Path, html: str) -> Path:
    """Write a page, whole or not at all, and return its path. OSError where that fails.

    What UTF-8 does not have (half of a surrogate pair, from a file's name that is no valid text) becomes ``?``.
    """
    write_atomically(path, lambda file: file.write_bytes(html.encode("utf-8", "replace")))
    return path


def png_uri(picture: bytes | Path | Image | Figure) -> str:
    """A ``data:`` address of a PNG: its bytes, its file, a PIL image or a matplotlib figure."""
    if isinstance(picture, Path):
        data = picture.read_bytes()
    elif isinstance(picture, bytes):
        data = picture
    else:
        stream = io.BytesIO()
        if hasattr(picture, "savefig"):
            picture.savefig(stream, format="png")
        else:
            picture.save(stream, format="png", optimize=True)
        data = stream.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def inline_svg(figure: Figure, name: str, label: str, colours: Mapping[str, str] | None = None) -> Markup:
    """A matplotlib figure as an ``<svg>`` element to stand in a page, as wide as its place there.

    Text stays text. The element is the same for the same figure: no date, no version, no chance in its ids.

    Args:
        name: letters, digits and hyphens; begins the element's ids, so that no two figures of a page share one.
        label: what the picture shows, for those who do not see it.
        colours: CSS colours to put in the place of the figure's, such as ``{"#24292f": "var(--ink)"}``, which follows
            the page from light to dark.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    # The addresses of vocabularies, and a style that would be the whole page's.
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"; font-family: [^;\"]*", "", svg)  # the page has one
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', lambda found: f"{found[1]}{name}-", svg)
    for old, new in (colours or {}).items():
        svg = svg.replace(old, new)
    viewbox = re.search(r'viewBox="[^"]+"', svg)
    assert viewbox
    inside = svg[svg.index(">") + 1 :]
    return Markup('<svg role="img" aria-label="{}" {}>').format(label, Markup(viewbox[0])) + Markup(inside)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alexnet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    return environment
