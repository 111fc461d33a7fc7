"""``alexnet report``: a self-contained HTML page of one run, or of several runs compared.

``run.py`` and ``templates/run.html`` make the page of one run; ``comparison.py`` and ``templates/comparison.html`` that
of several. Both read run folders through ``alexnet.checkpoint.load_run``; ``facts.py`` has what they state of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet.checkpoint import load_run, write_atomically
from alexnet.errors import FieldError
from alexnet.tools.html import check_page
from alexnet.tools.report import comparison, run

__all__ = ["PAGE", "report"]

PAGE = "report.html"


def report(folders: Sequence[str | Path], out: str | Path | None = None) -> dict[str, Any]:
    """Write the page of one or several runs, and return what ``alexnet report --json`` prints.

    Args:
        folders: run folders. Nothing in them is changed except the page.
        out: the page, a file whose name ends in ``.html``; by default ``report.html`` in the folder of the run, or in
            the folder that holds all of the runs.

    Returns:
        ``out``, ``runs`` (``folder``, ``recipe``, ``seed`` and ``final``, the last full row, of each) and ``findings``.

    Raises:
        ValueError: a damaged run folder, a run named twice, or an ``out`` that is not allowed.
        OSError: a folder does not exist, or the page cannot be written.
    """
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise FieldError("runs", "different folders", ", ".join(map(str, paths)))
    if out is None and len({path.resolve().parent for path in paths}) > 1:
        raise FieldError("out", "given if the runs are in several folders", None)
    page = Path(out) if out else (paths[0] if len(paths) == 1 else paths[0].resolve().parent) / PAGE
    if out:
        check_page(page)
    runs = [load_run(path) for path in paths]
    html, findings = run.page(runs[0]) if len(runs) == 1 else comparison.page(runs)
    write_atomically(page, lambda file: file.write_text(html, encoding="utf-8"))
    entries = [
        {"folder": str(each.folder), "recipe": each.recipe.name, "seed": each.recipe.seed, "final": each.final}
        for each in runs
    ]
    return {"out": str(page), "runs": entries, "findings": findings}
