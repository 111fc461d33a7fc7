"""Self-contained HTML pages: Jinja2 templates with autoescape, and pictures embedded in the page.

The pages run no script and load nothing from the network: a page can be opened offline, kept beside a run and mailed.
Templates are in ``templates/``; each page extends ``base.html``, which holds the style.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alexnet.curves import COLOURS
from alexnet.errors import FieldError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["check_page", "inline_svg", "png_uri", "render"]

# What the colours of ``alexnet.curves.COLOURS`` are in base.html, so that charts follow dark mode.
CSS_VARIABLES = {
    "ink": "--ink", "soft": "--soft", "grid": "--grid", "edge": "--edge",
    "train": "--accent", "validation": "--second", "other": "--soft",
}  # fmt: skip


def render(template: str, **values: Any) -> str:
    """Return the HTML of ``templates/TEMPLATE``. All text in ``values`` is escaped, except ``Markup``.

    Characters that UTF-8 cannot encode, which names of files may have, become ``?``.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    return _environment().get_template(template).render(**values).encode("utf-8", "replace").decode("utf-8")


def check_page(path: Path) -> None:
    """Check that a page can be written to ``path``, before the work on it begins.

    Raises:
        FieldError: ``path`` (``out``) does not end in ``.html``, is a folder, or its folder does not exist.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise FieldError("out", "a file whose name ends in .html", str(path))
    if path.is_dir() or not path.parent.is_dir():
        raise FieldError("out", "a file in a folder that exists", str(path))


def png_uri(picture: Image) -> str:
    """Return a ``data:`` URI of a picture as PNG."""
    stream = io.BytesIO()
    picture.save(stream, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """Return a matplotlib figure as an ``<svg>`` element that fills the width of its container.

    Text stays text, the colours of ``alexnet.curves`` become CSS variables, and equal figures give equal elements.

    Args:
        name: prefix of the element's ids; letters, digits and hyphens, unique within a page.
        label: what the figure shows, for screen readers.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    # A <style> element would apply to the whole page, and <metadata> only names vocabularies.
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"; font-family: [^;\"]*", "", svg)  # text takes the page's font
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', lambda found: f"{found[1]}{name}-", svg)
    for colour, variable in CSS_VARIABLES.items():
        svg = svg.replace(COLOURS[colour], f"var({variable})")
    viewbox = re.search(r'viewBox="[^"]+"', svg)
    assert viewbox
    inside = svg[svg.index(">") + 1 :]
    return Markup('<svg role="img" aria-label="{}" {}>').format(label, Markup(viewbox[0])) + Markup(inside)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alexnet.tools"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    return environment
