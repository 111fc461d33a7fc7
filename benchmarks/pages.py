"""Write RESULTS.md, the tables of README.md and the pictures of both from the records in results/.

    python benchmarks/pages.py [--check]

Every published number comes from a record, so none can be mistyped or outlive its measurement. ``RESULTS.md.jinja`` has
the words of RESULTS.md. ``--check`` writes nothing and fails if a page differs from what the records say.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import jinja2

import compare
import trials
from alexnet.curves import canvas, draw_curves, mark_chance, save_png, set_ticks
from alexnet.tools.reproduce import EXPERIMENTS
from alexnet.tools.reproduce.record import draw as draw_experiment
from record import LOSSY, ROOT, Record, data_of, machine, test_accuracy, with_interval

USUAL = "AMD EPYC, 2 cores; torch 2.15.0+cu132"  # the machine that RESULTS.md names once
COLOURS = {
    "classic": "#1b6ca8", "modern": "#2e8b57", "reference": "#d1495b", "source": "#2e8b57", "paper": "#1b6ca8",
    "zero-bias": "#d1495b", "caffe": "#8a6fb0", "he": "#c98a1b",
}  # fmt: skip
MEASURES = {
    "train_step": "training step of 128, with its data",
    "matrix_rate_share": "share of the bf16 matrix rate that a step reaches",
    "data_path": "data path alone",
    "lrn": "response normalisation, forward and backward, 128×96×55×55; bf16 channels last against float32",
    "lrn_float32": "the same, both in float32",
    "validation": "validation of 10,000 images; the baseline's in two passes",
    "classic_job": "a full `classic` run, 13 epochs",
    "classic_job_one_pass": "the same, if the baseline validated in one pass",
    "inference": "inference from 512 image files",
    "peak_memory": "peak memory of steps and validations",
}
OUTCOMES = {
    "runs": "runs", "states": "different states", "refused": "refused", "harmless": "read back unchanged",
    "survived": "continued",
}  # fmt: skip


def records(folder: Path) -> dict[str, list[Record]]:
    """The records in ``folder`` by kind, each with its file's name."""
    found: dict[str, list[Record]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[record["kind"]].append(record | {"file": path.name})
    return found


# --- words and numbers


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns in which no row has anything are left out, columns of numbers are right-aligned."""
    rows = [list(row) for row in rows]
    kept = [i for i in range(len(head)) if any(row[i] != "–" for row in rows)]
    numbers = [all(re.match(r"\**[–−+\d]", row[i]) for row in rows) for i in kept]
    text = ["| " + " | ".join(line[i] for i in kept) + " |" for line in (head, *rows)]
    return "\n".join([text[0], "|" + "|".join("---:" if each else "---" for each in numbers) + "|", *text[1:]])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """``mean ± standard deviation``; a single value as it is; – for none."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "–"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def origins(record: Record) -> str:
    """Machines of a growing record, and the commits on each."""
    commits: dict[str, list[str]] = defaultdict(list)
    for run in record["runs"]:
        commits[machine(run)].append(run["commit"])
    return "; ".join(f"commit {', '.join(dict.fromkeys(each))}{on(name)}" for name, each in commits.items())


def on(name: str) -> str:
    """The machine, unless it is the usual one."""
    return f" on {name}" if name != USUAL else ""


def notes(record: Record) -> str:
    return f"; {record['notes'].rstrip('.')}" if "notes" in record else ""


def link(record: Record) -> str:
    return f"[{record['file']}](results/{record['file']})"


# --- accuracy


def full_runs(accuracy: Iterable[Record]) -> list[Record]:
    """The runs that reached the end of their schedule."""
    return [record for record in accuracy if record["final"]["epoch"] == record["recipe"]["epochs"]]


def groups(accuracy: Iterable[Record]) -> list[list[Record]]:
    """Runs that differ only in their seed. A run that was stopped before its test images were evaluated is left out."""
    found = defaultdict(list)
    for record in (each for each in accuracy if "test_acc" in each["final"] or not each["data"].get("test")):
        found[setting(record), record["steps"], data_of(record), record["precision"], machine(record)].append(record)
    return [found[key] for key in sorted(found)]


def setting(record: Record) -> str:
    """The recipe and the flags by which the run differs from it, or the name of a bundled network."""
    if "bundled" in record:
        return Path(record["bundled"]["file"]).stem
    words = record["command"].removeprefix("alexnet train ")
    return re.sub(r" --(data|max-steps|tracker|val-every|seed) \S+", "", words)


def commits(run: Record) -> str:
    """The commit of a run, and from which step on if it was resumed by another one."""
    parts = [part for part in run.get("parts", ()) if part.get("commit")]
    changed = [f"{b['commit']} from step {b['step']}" for a, b in pairwise(parts) if a["commit"] != b["commit"]]
    return ", ".join([f"commit {run['commit']}", *changed])


def accuracy_table(accuracy: Iterable[Record], *, short: bool = False) -> str:
    """A row for each setting. ``short``: without the last columns, and the data set's name cut to its first words."""
    head = ["recipe or network", "data", "epochs", "runs", "test accuracy, %", "minutes a run", "test loss", "on"]
    rows = []
    for runs in groups(accuracy):
        first, finals = runs[0], [run["final"] for run in runs]
        epochs = f"{first['final']['epoch']:.3g} of {first['recipe']['epochs']}"
        share = with_interval(first) if len(runs) == 1 else spread([test_accuracy(run) for run in runs], 2)
        loss = spread([final.get("test_loss", final["val_loss"]) for final in finals], 3)
        minutes = spread([run["wall_seconds"] / 60 for run in runs if run["wall_seconds"]], 0)
        place = f"{first['device']}, {first['precision']}"
        data = re.sub(r" (of|\().*", "", data_of(first)) if short else data_of(first)
        rows.append([f"`{setting(first)}`", data, epochs, str(len(runs)), share, minutes, loss, place])
    return table(head[:6], [row[:6] for row in rows]) if short else table(head, rows)


# --- speed


def rate_of(record: Record) -> float:
    return float(record["matrix_tflops_bf16"])


def speed_table(record: Record) -> str:
    by_name = {row["name"]: row for row in record["rows"]}
    rows = []
    for row in (by_name[name] for name in MEASURES if name in by_name):
        sides = [
            f"{number(row[side])} ({number(min(row[f'{side}_all']))} to {number(max(row[f'{side}_all']))})"
            for side in ("ours", "baseline")
        ]
        unit = row["unit"] + (f"; {row['share_of_copy_pct']}% of a copy's rate" if "share_of_copy_pct" in row else "")
        rows.append([MEASURES[row["name"]], *sides, unit, f"**{row['ratio']:.2f}**"])
    return table(["measure", "ours", "baseline", "unit", "ratio"], rows)


def time_to(record: Record) -> str:
    """One paragraph about the minutes to an accuracy."""
    baseline, runs = record["baseline"], record["runs"]
    shares = ", ".join(f"{run['test_acc']:.1f}" for run in runs)
    return (
        f"**{record['seconds'] / 60:.1f} minutes to {record['accuracy']:g}% of the test images** ({data_of(record)}), "
        f"against {baseline['seconds'] / 3600:.1f} hours of the baseline's 13 epochs: **{record['ratio']:.0f}×**, or "
        f"{steps_ratio(record):.0f}× without its validations. "
        f"`{record['recipe']}` reaches {shares}% with seeds 0, 1 and 2. The time is that of the steps, the final "
        f"validation and the test, on {machine(runs[0])}; the baseline's is computed from its step "
        f"({baseline['train_step']:.2f} s) and validation ({baseline['validation']:.0f} s), measured in the same call"
        f"{notes(record)}. Record: {link(record)}."
    )


def steps_ratio(record: Record) -> float:
    """How many times as long the steps of the baseline's 13 epochs take, without its validations."""
    baseline = record["baseline"]
    return record["ratio"] * compare.STEPS * baseline["train_step"] / baseline["seconds"]  # type: ignore[no-any-return]


# --- trials, claims, faults, starting to learn


def trials_table(found: Sequence[Record]) -> str:
    """A row for each trial, a column for each record."""

    def accuracies(record: Record, name: str | None) -> dict[int, float]:
        return {run["seed"]: run["val_acc"] for run in record["runs"] if run["name"] == name}

    def cell(record: Record, name: str) -> str:
        own, base = accuracies(record, name), accuracies(record, trials.TRIALS[name][0])
        gains = [own[seed] - base[seed] for seed in own if seed in base]
        sign = "+" if gains and statistics.mean(gains) >= 0 else ""
        by_tta = defaultdict(list)
        for run in (run for run in record["runs"] if run["name"] == name):
            for tta, share in (run.get("tta") or run.get("views") or {}).items():
                by_tta[tta].append(share)
        more = [f"; {tta} {spread(shares, 2)}" for tta, shares in by_tta.items()]
        return (
            spread(list(own.values()), 2)
            + f" ({sign}{spread(gains, 2)})".replace("-", "−") * bool(gains)
            + "".join(more)
        )

    names = [name for name in trials.TRIALS if any(accuracies(record, name) for record in found)]
    recipe_of = {trials.MODERN: " (the recipe `modern` of 0.1.0)", trials.MUON: " (the recipe `modern`)"}
    rows = [[name + recipe_of.get(name, "")] for name in names]
    return table(
        ["with", *(length(each) + ", lossy copy" * (data_of(each) == LOSSY) for each in found)],
        [row + [cell(each, name) for each in found] for row, name in zip(rows, names, strict=True)],
    )


def length(record: Record) -> str:
    width = {"quarter": 0.25}.get(record.get("widths", ""), record.get("width_mult", 1.0))
    epochs = f"{record['epochs']} epoch{'s' * (record['epochs'] > 1)}"
    return f"{epochs} of {record['runs'][0]['data']['train']:,} images" + f", width × {width:g}" * (width != 1)


def seeds(record: Record) -> str:
    count = len({run["seed"] for run in record["runs"]})
    return f"{count} seed{'s' * (count > 1)}"


def standard_error(record: Record) -> float:
    """Of an accuracy on the held-out images, in points: the largest of all runs."""
    return max((run["val_acc"] * (100 - run["val_acc"]) / run["data"]["val"]) ** 0.5 for run in record["runs"])


def claims_table(found: Sequence[Record]) -> str:
    verdicts = {record["experiment"]: record["verdict"] for record in found}
    rows = []
    for name, experiment in EXPERIMENTS.items():
        paper = "; ".join(dict.fromkeys(comparison.paper for comparison in experiment.rule if comparison.decides))
        title, verdict = f"`{name}`", f"not run: `alexnet reproduce {name}`"
        if name in verdicts:
            title, verdict = f"[`{name}`](#{name})", f"**{verdicts[name]}**"
        rows.append([f"{title} {experiment.claim}", paper, verdict])
    return table(["claim", "the paper", "verdict"], rows)


def scope(record: Record) -> str:
    """What a verdict covers: data, seeds and what was shortened."""
    sentences = "; ".join(finding["sentence"] for finding in record["findings"])
    text: str = record["reason"].replace(sentences, "").strip(" .")
    return text.replace("CIFAR-10 (JPEG q75 copy)", LOSSY) + "."


def effect(finding: Record) -> str:
    """The measured effect of a comparison. The paper's number stands in the table of claims."""
    return re.sub(r"-(?=\d)", "−", re.sub(r"; the paper: .*", "", finding["sentence"]))


def faults_table(record: Record) -> str:
    kinds: dict[str, list[Record]] = defaultdict(list)
    for run in record["runs"]:
        kind = ": ".join(filter(None, [run["part"], run.get("what", "")]))
        kinds[kind.replace("every part of a recipe", "many fields")].append(run)  # its name in older records
    rows = []
    for name, runs in kinds.items():
        totals = {key: sum(run.get(key, 0) for run in runs) for key in ("trials", *OUTCOMES)}
        outcome = [f"{total:,.0f} {OUTCOMES[key]}" for key, total in totals.items() if key in OUTCOMES and total]
        codes = sum((Counter(codes) for run in runs for codes in run.get("answers", {}).values()), Counter[str]())
        outcome += [f"{count:,} {code}" for code, count in sorted(codes.items())]
        wrong = sum(len(run["wrong"]) for run in runs)
        rows.append([name, f"{totals['trials']:,}", str(wrong), ", ".join(outcome) or "–"])
    return table(["fault", "trials", "wrong", "outcome"], rows)


def learning_table(record: Record) -> str:
    rows = []
    for run in record["runs"]:
        start = f"step {run['learned_at']}" if run["learned_at"] else "no"
        last = statistics.mean(run["losses"][-20:])
        rows.append([f"`{run['input_scale']}`", f"`{run['init']}`", start, f"{run['losses'][0]:.3f}", f"{last:.3f}"])
    return table(["input", "initialisation", "starts to learn", "first loss", "last 20 losses"], rows)


# --- pages


def results_page(found: dict[str, list[Record]]) -> str:
    """The whole of RESULTS.md."""
    files = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=files, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["link"] = link
    functions = (
        accuracy_table, claims_table, commits, data_of, effect, faults_table, groups, learning_table, length, machine,
        notes, on, origins, rate_of, scope, seeds, speed_table, standard_error, time_to, trials_table,
    )  # fmt: skip
    environment.globals |= {each.__name__: each for each in functions} | {"lossy": LOSSY, "usual": USUAL}
    return environment.get_template("RESULTS.md.jinja").render(found=found).rstrip() + "\n"


def shown_run(accuracy: Sequence[Record]) -> Record | None:
    """The run whose curves README shows: seed 0 of classic."""
    runs = [each for each in full_runs(accuracy) if (each["recipe"]["name"], each["recipe"]["seed"]) == ("classic", 0)]
    return runs[-1] if runs else None


def readme_blocks(found: dict[str, list[Record]]) -> dict[str, str]:
    """The generated parts of README, by the name in their markers."""
    full = full_runs(found["accuracy"])
    results = [accuracy_table((each for each in found["accuracy"] if each in full or "bundled" in each), short=True)]
    results += [
        f"`alexnet train {record['recipe']}` ends above the published run's {record['accuracy']:g}% (read off its "
        f"chart) after **{record['seconds'] / 60:.1f} minutes** "
        f"([three seeds](RESULTS.md#minutes-to-an-accuracy)); the baseline's "
        f"13 epochs take {record['ratio']:.0f} times as long, {steps_ratio(record):.0f} without its validations."
        for record in found["time-to"]
        if "ratio" in record
    ]
    for record in found["compare"]:
        if record["file"] == "compare-cpu.json":
            step, job = (
                next(row["ratio"] for row in record["rows"] if row["name"] == name)
                for name in ("train_step", "classic_job_one_pass")
            )
            results += [
                f"On a CPU, a training step is **{step:.1f}** times as fast as the baseline's, and a full `classic` "
                f"run **{job:.1f}** times, if the baseline validates once ({machine(record)}; "
                "[all measures](RESULTS.md))."
            ]
    curves = ["![Training and validation losses and accuracies of one run](docs/curves.png)"]
    if record := shown_run(found["accuracy"]):
        curves += [f"Every run writes `curves.png` into its folder; here `classic` with seed 0: {data_of(record)}."]
    if len(full_runs(found["accuracy"])) > 1:
        curves += ["![Training loss and validation accuracy of full runs over epochs](docs/thirteen-epochs.png)"]
    words = {name: name for name in ("reproduced", "partly", "not reproduced", "too few runs")} | {"": "not tested yet"}
    verdicts = dict.fromkeys(EXPERIMENTS, "") | {each["experiment"]: each["verdict"] for each in found["reproduce"]}
    claims = []
    for verdict, word in words.items():
        names = [name for name in EXPERIMENTS if verdicts[name] == verdict]
        links = [f"[`{name}`](RESULTS.md#{name})" if verdict else f"`{name}`" for name in names]
        if links or verdict in ("reproduced", "not reproduced"):
            claims.append([word, ", ".join(links) or "none"])
    return {
        "results": "\n\n".join(results),
        "curves": "\n\n".join(curves),
        "claims": table(["verdict", "claims"], claims),
    }


def pages(root: Path) -> dict[Path, str]:
    """The text of each page, from the records."""
    found, readme = records(root / "results"), root / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, block in readme_blocks(found).items():
        begin, end = f"<!-- {name}: written by benchmarks/pages.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{block}\n\n{end}{rest.split(end)[1]}"
    return {root / "RESULTS.md": results_page(found), readme: text}


# --- pictures


def draw(found: dict[str, list[Record]], docs: Path) -> None:
    """Write each picture for which there are records."""
    for record in found["learning"]:
        draw_learning(record, docs / "why-2.303.png")
    if record := shown_run(found["accuracy"]):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / setting(record)  # its name is the picture's title
            folder.mkdir()
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in record["rows"]))
            draw_curves(folder, len(record["classes"])).replace(docs / "curves.png")
    if len(runs := full_runs(found["accuracy"])) > 1:
        draw_full_runs(runs, docs / "thirteen-epochs.png")
    for record in found["reproduce"]:
        draw_experiment(record, docs / "findings" / f"{record['experiment']}.png")


def draw_learning(record: Record, path: Path) -> None:
    """The first losses: a panel for each input scale, a line for each initialisation."""
    titles = {"raw": "input: 0..255 minus the mean", "imagenet": "input: scaled to a standard deviation of 1"}
    with canvas(10, 4) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for ax, (scale, title) in zip(panels, titles.items(), strict=True):
            for run in (run for run in record["runs"] if run["input_scale"] == scale):
                losses = run["losses"]
                smooth = [statistics.mean(losses[max(0, i - 19) : i + 1]) for i in range(len(losses))]
                ax.plot(range(1, len(smooth) + 1), smooth, color=COLOURS[run["init"]], label=run["init"])
            ax.axhline(math.log(10), color="0.5", linewidth=0.8, linestyle="--")
            ax.set(title=title, xlabel="step", xlim=(1, record["steps"]), ylim=(1.6, 3.2))
        panels[0].text(0.03, 0.04, "dashed: guessing, ln 10 = 2.303", transform=panels[0].transAxes, fontsize=9)
        panels[0].set_ylabel("training loss, mean of 20 steps (nats)")
        panels[1].legend(title="initialisation", frameon=False, fontsize=9)
        save_png(figure, path)


def draw_full_runs(runs: Sequence[Record], path: Path) -> None:
    """Training loss and validation accuracy over epochs: one colour per recipe, one line per seed, dashed if narrow.

    The number at the end of the accuracies is the mean over seeds.
    """
    with canvas(11, 4.2) as figure:
        loss, accuracy = figure.subplots(1, 2)
        for group in groups(runs):
            recipe, final = group[0]["recipe"], group[0]["final"]
            width = recipe.get("width_mult", 1)
            name = recipe["name"] + f", width × {width:g}" * (width != 1)
            name += ", lossy copy" * (data_of(group[0]) == LOSSY)
            images = "held-out images" if recipe.get("holdout") else "test images"
            smoothed = ", smoothed labels" * bool(recipe.get("label_smoothing"))
            style = {"color": COLOURS.get(recipe["name"], "#4b5563"), "linestyle": "-" if width == 1 else "--"}
            for record in group:
                rows = [row for row in record["rows"] if "train_loss" in row and "val_acc" in row]
                for ax, metric, what in ((loss, "train_loss", smoothed), (accuracy, "val_acc", f", {images}")):
                    label = f"{name}{what}" if record is group[0] else None
                    ax.plot([row["epoch"] for row in rows], [row[metric] for row in rows], label=label, **style)
            mean = statistics.mean(record["final"]["val_acc"] for record in group)
            at, shift = (final["epoch"], mean), (4, 0)
            accuracy.annotate(f"{mean:.1f}", at, shift, textcoords="offset points", va="center", color=style["color"])
        for ax, title, unit in ((loss, "train_loss", "cross-entropy (nats)"), (accuracy, "val_acc", "accuracy (%)")):
            ax.set(title=title, xlabel="epoch (passes over the training images)", ylabel=unit)
            set_ticks(ax.xaxis, whole=True, thousands=False)
            mark_chance(ax, len(runs[0]["classes"]), is_loss=ax is loss)
            place, box = ("upper right", (0, 0, 1, 0.8)) if ax is loss else ("lower right", (0, 0.08, 1, 1))
            ax.legend(frameon=False, loc=place, bbox_to_anchor=box)
        save_png(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    args = parser.parse_args()
    if not args.check:
        draw(records(ROOT / "results"), ROOT / "docs")
    wrong = {path: text for path, text in pages(ROOT).items() if path.read_text(encoding="utf-8") != text}
    for path, text in wrong.items():
        if args.check:
            print(f"{path.name}: differs from the records; run make results", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
    return int(args.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
