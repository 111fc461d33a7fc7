"""Train recipes over seeds and keep one record a run.

    python benchmarks/accuracy.py classic reference --seeds 0 1 2 --data FOLDER [--max-steps N] [--val-every N]

A record is results/accuracy-RECIPE-LABEL-sSEED.json: the recipe, every logged row, the last row as the result, the
hardware and the versions. Nothing is picked: the result is the last step's, whatever came before. A run whose record
exists is not run again; a run folder that was interrupted is resumed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from alexnet import load_model, recipes, train
from alexnet.data import datasets
from alexnet.files import write_atomically
from alexnet.run.runfolder import read_config
from alexnet.run.tracking import read_rows
from alexnet.use.evaluate import evaluate


def measure(recipe: recipes.Recipe, runs: Path, results: Path, label: str) -> Path:
    """Train once, or go on where a run stopped, and write its record."""
    name = f"{recipe.name}-{label}-s{recipe.seed}"
    path = results / f"accuracy-{name}.json"
    if path.exists():
        told = {key: value for key, value in as_recorded(recipe).items() if key not in ("data", "data_dir")}
        before = json.loads(path.read_text())
        changed = [key for key, value in told.items() if before["recipe"].get(key, value) != value]
        if before["data"]["fingerprint"] != seen_as(recipe).fingerprint():
            changed.append("data")
        if changed:
            raise ValueError(f"{path}: a run with another {', '.join(changed)}; choose another --label")
        return path
    began, resumed = time.time(), (runs / name).is_dir()
    result = train.run(recipe, out=runs / name, resume=resumed)
    if result.stopped_by:
        raise KeyboardInterrupt
    config = read_config(runs / name)
    record = {
        "kind": "accuracy",
        "command": recipes.command(recipe, data="FOLDER"),
        "data": config["data"] | ({"spec": "FOLDER"} if Path(recipe.data).is_dir() else {}),
        "recipe": as_recorded(recipe) | {"data": config["data"]["name"]},
        "steps": result.final["step"],
        "final": result.final,
        "wall_seconds": None if resumed else round(time.time() - began, 1),
        **{
            key: config[key]
            for key in ("device", "precision", "loader", "compiled", "hardware", "versions", "commit", "parts")
        },
        "date": config["started"][:10],
        **judge(runs / name, recipe),
        "rows": read_rows(runs / name),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)  # of the matrix
    text = re.sub(r"\{\s+(\"step\"[^}]*?)\s+\}", lambda m: "{" + re.sub(r"\s+", " ", m[1]) + "}", text)  # a row a line
    write_atomically(path, lambda file: file.write_text(text + "\n"))
    return path


def judge(folder: Path, recipe: recipes.Recipe) -> dict[str, Any]:
    """What the last weights of a run make of the images of its final accuracy, and a checksum of these weights."""
    model = load_model(folder)
    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    dataset = seen_as(recipe)
    opened = "test_acc" in read_rows(folder)[-1]
    where = {"device": recipe.device, "precision": recipe.precision}
    found = evaluate(model, dataset, *((recipe.test_views, "test") if opened else ("center", "val")), **where)
    return {"weights_sha256": weights.hexdigest(), "classes": list(dataset.classes), "confusion": found["confusion"]}


def seen_as(recipe: recipes.Recipe) -> datasets.Dataset:
    """The data set of a recipe, as its run has it."""
    return datasets.load(recipe.data, recipe.data_dir).as_in(recipe.holdout, recipe.images, flip=recipe.flip)


def as_recorded(recipe: recipes.Recipe) -> dict[str, object]:
    """A recipe without this machine's places."""
    return dataclasses.asdict(recipe) | {"data_dir": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", choices=sorted(recipes.RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--val-every", type=int, help="steps between two rows; by default the recipe's")
    parser.add_argument("--plain", action="store_true", help="float32, not compiled")
    parser.add_argument("--loader", default="auto", choices=["auto", "resident", "workers"])
    parser.add_argument("--label", default="", help="distinguishes records of one recipe, such as gpu or cpu-1-epoch")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--tracker", default="none", choices=["wandb", "trackio", "tensorboard", "none"])
    args = parser.parse_args()
    changes = {"data": args.data, "max_steps": args.max_steps, "tracker": args.tracker, "loader": args.loader}
    if args.val_every is not None:
        changes["val_every"] = args.val_every
    if args.plain:
        changes |= {"precision": "fp32", "compile": False}
    loader = args.loader if args.loader != "auto" else ""
    label = "-".join(filter(None, [args.label, "plain" if args.plain else "", loader])) or "run"
    for seed in args.seeds:
        for name in args.recipes:
            try:
                path = measure(recipes.RECIPES[name](seed=seed, **changes), args.runs, args.results, label)
            except ValueError as error:
                parser.error(str(error))
            final = json.loads(path.read_text())["final"]
            print(f"{path}: step {final['step']}, val_acc {final['val_acc']:.2f}%", flush=True)


if __name__ == "__main__":
    main()
