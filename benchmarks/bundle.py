"""Put a trained network into the package, in half precision, and write its record.

    python benchmarks/bundle.py RUN NAME --json results/accuracy-NAME.json

Writes src/alexnet/pretrained/NAME.safetensors. The validation images show what half precision costs; the test set is
evaluated once, in the recipe's test-time augmentation, with the weights as they are bundled.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from pathlib import Path

from accuracy import command_of, record_of
from alexnet import load_model, load_run
from alexnet.checkpoint import PRETRAINED, save_weights
from alexnet.evaluate import evaluate, info_of
from record import write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--notes", default="")
    args = parser.parse_args()

    run = load_run(args.run)
    dataset, model, recipe = run.dataset(), run.model(), run.recipe
    step = int(info_of(model).record["step"])  # of the weights; the last row may be older
    info = dataclasses.replace(info_of(model), data=dataset.name, record={})
    PRETRAINED.mkdir(exist_ok=True)
    file = PRETRAINED / f"{args.name}.safetensors"
    full = evaluate(model, dataset)
    save_weights(file, model.half().state_dict(), info)
    bundled = load_model(args.name)
    half, test = evaluate(bundled, dataset), evaluate(bundled, dataset, recipe.tta, "test")
    origin = {
        "recipe": recipe.name, "seed": recipe.seed, "epochs": round(step / run.steps_per_epoch, 2),
        "test_acc, %": test["top1"], "test_loss": test["loss"], "test-time augmentation": recipe.tta,
    }  # fmt: skip
    save_weights(file, bundled.half().state_dict(), dataclasses.replace(info, record=origin))
    record = record_of(args.run, args.notes, test)
    record["command"] = command_of(run, step)
    record["steps"] = step
    record["final"] |= {
        "step": step,
        "epoch": step / run.steps_per_epoch,
        "val_acc": full["top1"],
        "val_loss": full["loss"],
    }
    record["final"] |= {"test_acc": test["top1"], "test_loss": test["loss"]}
    record["bundled"] = {
        "file": str(file.relative_to(PRETRAINED.parents[2])),
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "val_acc": {"float32": full["top1"], "float16": half["top1"]},
        "per_class": test["per_class"],
    }
    write_record(args.json, record)
    print(f"{file}: test_acc {test['top1']:.2f}%, val_acc {full['top1']:.2f}% ({half['top1']:.2f}% in half precision)")


if __name__ == "__main__":
    main()
