"""Write a folder that is ready for the Hugging Face Hub: weights, config.json and a model card with measured numbers.

    python benchmarks/hub.py RUN FOLDER [--record results/accuracy-NAME.json]
    hf upload USER/NAME FOLDER

RUN is a run folder, a file of weights, or the name of a bundled network. The numbers come from the record; by default
``results/accuracy-RUN.json``. Without one the card has only what the weights themselves say of their run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from alexnet import load_model
from alexnet.evaluate import info_of
from alexnet.model import AlexNet_2012
from record import RESULTS, data_of, machine, with_interval

CARD = """## Results

`{command}` on {data}:

| | |
|---|---|
{rows}

## Classes

{classes}. The answer is always one of these {count}, even for a picture of something else: the network does not know
what it was not trained on, and its probabilities are not calibrated for such pictures. It was trained on small images,
so fine detail of a photograph does not help it.

## Licence

MIT, for the code and these weights. The training images have their own terms.
"""


def write_folder(model: AlexNet_2012, out: Path, record_path: Path | None) -> None:
    """Write weights, ``config.json`` and README.md into ``out``."""
    info = info_of(model)
    rows = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in info.record.items()}
    data, command = info.data, f"alexnet train {info.record.get('recipe', 'RECIPE')}"
    if record_path:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        data, command = data_of(record), record["command"]
        rows = {
            "test accuracy, %, with Wilson's 95% interval": with_interval(record),
            "epochs": f"{record['final']['epoch']:.3g} of {record['recipe']['epochs']}",
            "seed": str(record["recipe"]["seed"]),
            "machine": machine(record),
            "commit": str(record["commit"]),
        }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    classes = ", ".join(info.classes)
    card = CARD.format(command=command, data=data, rows=table, classes=classes, count=info.num_classes)
    (out / "README.md").unlink(missing_ok=True)  # save_pretrained keeps a card that is there
    model.save_pretrained(out, model_card_kwargs={"results": card})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", type=Path, help="the record of the run's accuracy")
    args = parser.parse_args()
    record = args.record or RESULTS / f"accuracy-{Path(args.run).name}.json"
    try:
        write_folder(load_model(args.run), args.folder, record if record.is_file() else None)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{args.folder}: ready; hf upload USER/NAME {args.folder}")


if __name__ == "__main__":
    main()
