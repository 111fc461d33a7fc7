"""Train recipes in full over several seeds, and write a record of each run.

    python benchmarks/accuracy.py classic modern --seeds 0 1 2 --data FOLDER --label cpu
    python benchmarks/accuracy.py --from RUN_FOLDER --json results/accuracy-NAME.json

A record, results/accuracy-RECIPE-LABEL-sSEED.json, has the recipe, every logged row, the last row as the result, the
confusion matrix, the hardware and the versions. The result is always the last step's. A run with a record is not run
again; a run that was interrupted is resumed. The second form writes the record of a run that ``alexnet train`` made.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet import recipes, train
from alexnet.checkpoint import Run, load_run
from alexnet.errors import check_choice
from alexnet.evaluate import evaluate
from alexnet.tools.report.facts import seconds
from alexnet.tools.reproduce.record import published
from record import RESULTS, write_record

ORIGIN = ("device", "precision", "loader", "compiled", "hardware", "versions", "commit", "parts")


def command_of(run: Run, step: int) -> str:
    """The command that trains the run up to ``step``."""
    runtime = recipes.runtime_for(run.recipe.name, max_steps=step if step < run.total_steps else None)
    return recipes.command_line(run.recipe, runtime, data=published(run.recipe.data))


def record_of(folder: Path, notes: str = "", found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of the run in ``folder``. ValueError if the run logged no full row.

    Args:
        found: what ``evaluate`` returned for the images of the result; by default the network is evaluated here.
    """
    run = load_run(folder)
    if not run.final:
        raise ValueError(f"{folder}: has no row with training and validation metrics yet")
    dataset, model, recipe = run.dataset(), run.model(), run.recipe
    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    if found is None:
        tta, split = (recipe.tta, "test") if "test_acc" in run.final else ("center", "val")
        found = evaluate(model, dataset, tta, split, device=run.config["device"], precision=run.config["precision"])
    timed = all("seconds" in row for row in run.full_rows)
    return {
        "kind": "accuracy",
        "command": command_of(run, run.final["step"]),
        **({"notes": notes} if notes else {}),
        "data": run.config["data"] | {"name": dataset.name, "spec": published(recipe.data)},
        "recipe": dataclasses.asdict(recipe) | {"data": dataset.name},
        "parameters": sum(each.numel() for each in model.parameters()),
        "steps": run.final["step"],
        "final": run.final,
        "wall_seconds": round(sum(seconds(run).values()), 1) if timed else None,
        **{name: run.config[name] for name in ORIGIN},
        "date": run.config["started"][:10],
        "weights_sha256": weights.hexdigest(),
        "classes": list(dataset.classes),
        "confusion": found["confusion"],
        "rows": run.rows,
    }


def measure(recipe: recipes.Recipe, runtime: recipes.Runtime, folder: Path, path: Path) -> dict[str, Any]:
    """Train, or resume, and write the record; return it. ValueError if ``path`` has another recipe's record."""
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if recipes.recipe_from_config(record["recipe"]) != recipe:
            raise ValueError(f"{path}: has a run with other settings; choose another --label")
        return record
    result = train.run(recipe, out=folder, runtime=runtime, resume=folder.is_dir())
    if result.stopped_by:
        raise KeyboardInterrupt
    record = record_of(folder)
    write_record(path, record)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"one of {', '.join(recipes.RECIPES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--max-steps", type=int, help="stop each run after this many steps")
    parser.add_argument("--plain", action="store_true", help="float32, not compiled")
    parser.add_argument("--label", default="run", help="part of the record's name, such as cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders are")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--from", dest="run", type=Path, help="write the record of this finished run")
    parser.add_argument("--json", type=Path, help="the record of --from")
    parser.add_argument("--notes", default="", help="a remark for the record of --from")
    args = parser.parse_args()
    if bool(args.run) == bool(args.recipes) or bool(args.run) != bool(args.json):
        parser.error("name recipes, or --from RUN and --json FILE")
    try:
        if args.run:
            write_record(args.json, record_of(args.run, args.notes))
            return
        plain = {"precision": "fp32", "compile": False} if args.plain else {}
        runtime = recipes.Runtime(tracker="none", max_steps=args.max_steps, **plain)
        for seed in args.seeds:
            for name in args.recipes:
                recipe = recipes.RECIPES[check_choice("recipe", name, recipes.RECIPES)](seed=seed, data=args.data)
                stem = f"{name}-{args.label}{'-plain' * args.plain}-s{seed}"
                record = measure(recipe, runtime, args.runs / stem, args.results / f"accuracy-{stem}.json")
                print(f"{stem}: step {record['steps']}, val_acc {record['final']['val_acc']:.2f}%", flush=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
