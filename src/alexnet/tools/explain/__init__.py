"""Look inside a trained network. ``alexnet explain`` writes these results to a page; notebooks can use them directly.

``docs/inside.md`` has an example.
"""

from alexnet.tools.explain.analysis import *  # noqa: F403
from alexnet.tools.explain.page import explain as explain
from alexnet.tools.explain.page import format_explanation as format_explanation
from alexnet.tools.filters import filter_changes as filter_changes
