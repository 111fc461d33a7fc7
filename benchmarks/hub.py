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
from pages import data_of, machine, setting, with_interval
from record import RESULTS

CARD = """---
library_name: alexnet-2012
license: mit
pipeline_tag: image-classification
tags: [alexnet, image-classification, model_hub_mixin, pytorch_model_hub_mixin]
---

# AlexNet (2012), variant `{variant}`, {parameters:,} parameters

The network of Krizhevsky, Sutskever and Hinton (2012), trained on {data} with
`alexnet train {setting}`.

| | |
|---|---|
{rows}

## Classes

{classes}. The answer is always one of these {count}, also for a picture of something else: the network does not know
what it was not trained on, and its probabilities are not calibrated for such pictures. It was trained on small images,
so fine detail of a photograph does not help it.

## How to load it

```python
from alexnet import AlexNet_2012

model = AlexNet_2012.from_pretrained("USER/NAME")  # in evaluation mode
model.info  # classes, normalisation of the input, data set
```

or, with image files, `alexnet predict FOLDER photo.jpg` after `hf download USER/NAME --local-dir FOLDER`. Input: RGB,
the shorter side resized to 256, a crop of 224×224, `(x / 255 − mean) / std` with mean {mean} and std {std}.

## Licence

MIT, for the code and these weights. The training images have their own terms.
"""


def write_folder(model: AlexNet_2012, out: Path, record_path: Path | None) -> None:
    """Write weights, ``config.json`` and README.md into ``out``."""
    info = info_of(model)
    rows = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in info.record.items()}
    data, words = info.data, str(info.record.get("recipe", "RECIPE"))
    if record_path:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        data, words = data_of(record), setting(record)
        rows = {
            "test accuracy, %, with Wilson's 95% interval": with_interval(record),
            "epochs": f"{record['final']['epoch']:g}",
            "seed": str(record["recipe"]["seed"]),
            "machine": machine(record),
            "commit": str(record["commit"]),
        }
    model.save_pretrained(out)
    norm = info.normalization
    text = CARD.format(
        variant=info.variant, parameters=sum(each.numel() for each in model.parameters()), data=data, setting=words,
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        classes=", ".join(info.classes), count=len(info.classes),
        mean="the weights' mean image" if norm.mean_image else ", ".join(f"{each:.4g}" for each in norm.mean),
        std=", ".join(f"{each:.4g}" for each in norm.std),
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", type=Path, help="the record of the run's accuracy")
    args = parser.parse_args()
    record = args.record or RESULTS / f"accuracy-{Path(args.run).name}.json"
    write_folder(load_model(args.run), args.folder, record if record.is_file() else None)
    print(f"{args.folder}: ready; hf upload USER/NAME {args.folder}")


if __name__ == "__main__":
    main()
