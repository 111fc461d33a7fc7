"""Commands that show networks and runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from alexnet.commands.answer import Answer

__all__ = ["report", "summary", "variants"]


def summary(args: argparse.Namespace) -> Answer:
    from alexnet.report.summary import format_summary, summarize

    document = summarize(args.variant, args.num_classes)
    return Answer(document, format_summary(document))


def variants(args: argparse.Namespace) -> Answer:
    from alexnet.report.summary import format_variants, variants_table

    rows = variants_table()
    return Answer(rows, format_variants(rows))


def report(args: argparse.Namespace) -> Answer:
    from alexnet.report.page import report

    done = report([Path(run) for run in args.runs], Path(args.out) if args.out else None)
    return Answer(done, "\n".join([*done["findings"], f"page: {done['out']}"]))
