"""The command line of ``alexnet``: which commands and flags there are, and what a wrong one is told.

Only the standard library and the recipes are imported, so ``alexnet --help`` answers at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from alexnet import __version__
from alexnet.recipes import GROUPS, RECIPES, VIEWS, Recipe, choices_of, field_metadata, field_types, known, meant

__all__ = ["UsageError", "parse", "recipe_from"]

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
FORMATS = ("onnx", "safetensors", "pt2", "torchscript")
_METAVARS = {"data": "SPEC", "data_dir": "DIR", "save_every": "MINUTES"}


class UsageError(Exception):
    """The command line is wrong. The message names the flag, the value and what is allowed."""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(map(len, _COMMANDS)) + 4  # argparse forgets that commands are indented twice


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_Help, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"-[\d.]")  # argparse's own takes -1e-3 for a flag

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command; ``command`` is its name. No words at all are taken for ``--help``.

    Of the recipe's fields, ``train`` and ``doctor`` have those that were given.

    Raises:
        UsageError: an unknown command or flag, or a value that is not allowed.
        SystemExit: after ``--help`` and ``--version``.
    """
    argv = list(argv) or ["--help"]
    parser = _Parser(
        prog="alexnet",
        description="AlexNet (2012): train it, watch it, evaluate it, use it.",
        epilog="start here:\n  alexnet train quickstart",
    )
    parser.add_argument("--version", action="version", version=f"alexnet {__version__}")
    places = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    commands = {}
    for name, (fill, description, example) in _COMMANDS.items():
        command = commands[name] = places.add_parser(
            name,
            help=description,
            description=description,
            epilog=f"example:\n  alexnet {name} {example}".rstrip(),
        )
        fill(command)
        command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    if not argv[0].startswith("-"):
        _known("command", argv[0], commands)
        _check_flags(argv, commands[argv[0]])
    args, more = parser.parse_known_args(argv)
    # Python before 3.13 leaves a list empty where nothing of it stands before the first flag
    if more and (not isinstance(getattr(args, "images", None), list) or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        args.images += more
    return args


def recipe_from(name: str, changes: dict[str, Any]) -> Recipe:
    """The recipe ``name`` with some fields changed. UsageError where there is no such recipe or value."""
    is_data = name in ("cifar10", "digits") or name.startswith("hf:") or Path(name).is_dir()
    if is_data and name not in RECIPES:
        raise UsageError(f"recipe {name}: images are named with --data {name}; recipes are {', '.join(RECIPES)}")
    _known("recipe", name, RECIPES)
    try:
        return RECIPES[name](**changes)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_flags(argv: Sequence[str], parser: _Parser) -> None:
    # argparse would first complain of what is missing, which a misspelt flag may have given.
    flags = parser._option_string_actions
    for word in argv:
        if word == "--":
            return
        flag = word.split("=")[0]
        if flag.startswith("--") and flag not in flags:
            raise UsageError(f"{flag}: no such flag{meant(flag, flags)}; {parser.prog} --help lists those allowed")


def _known(what: str, name: str, allowed: Collection[str]) -> str:
    try:
        return known(what, name, allowed)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _add(
    parser: argparse._ActionsContainer,
    flag: str,
    hint: Any,
    help: str,
    *,
    least: int | None = None,
    most: int | None = None,
    metavar: str | None = None,
    **more: Any,
) -> None:
    """A flag with a value of type ``hint``: a Literal or a tuple of strings, str, int, float, or one of these or None.

    The range of a recipe's fields is left to the recipe; that of other numbers is ``least`` to ``most``.
    """
    choices = hint if isinstance(hint, tuple) else choices_of(hint)
    kinds = () if choices else get_args(hint) or (hint,)

    def read(text: str) -> Any:
        if choices:
            return _known(flag, text, choices)
        if type(None) in kinds and text.lower() == "none":
            return None
        try:
            value = kinds[0](text)
        except ValueError:
            allowed = "a whole number" if int in kinds else "a number"
            raise UsageError(f"{flag} {text}: allowed is {allowed}{' or none' * (type(None) in kinds)}") from None
        if least is not None and (value < least or (most is not None and value > most)):
            raise UsageError(f"{flag} {text}: allowed is {least} {'or more' if most is None else f'to {most}'}")
        return value

    metavar = metavar or ("{" + ",".join(choices) + "}" if choices else "N" if int in kinds else "F")
    parser.add_argument(flag, type=read, metavar=metavar, help=help.replace("%", "%%"), **more)


def _add_fields(parser: argparse._ActionsContainer, *names: str, **default: Any) -> None:
    """A flag for each of these fields of ``Recipe``. Without a default it leaves no trace where it is not given."""
    for name in names:
        hint, flag = field_types()[name], f"--{name.replace('_', '-')}"
        defaults = _shown(default["default"]) if default else _recipe_defaults(name)
        text = f"{field_metadata(name)['help']} {defaults}".strip()
        options = default or {"default": argparse.SUPPRESS}
        if bool in (get_args(hint) or (hint,)):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text.replace("%", "%%"), **options)
        else:
            _add(parser, flag, hint, text, metavar=_METAVARS.get(name), **options)


def _recipe_defaults(name: str) -> str:
    values = {recipe: getattr(make(), name) for recipe, make in RECIPES.items()}
    others = {recipe: value for recipe, value in values.items() if value != values["classic"]}
    return _shown(values["classic"], **others)


def _shown(default: Any, **others: Any) -> str:
    if default is None and not others:
        return ""  # the field's own words say what then happens
    words = {"True": "yes", "False": "no", "None": "none"}
    first, *rest = (words.get(str(value), str(value)) for value in (default, *others.values()))
    return f"(default {first}{''.join(f'; {name} {value}' for name, value in zip(others, rest, strict=True))})"


def _train(parser: argparse.ArgumentParser) -> None:
    parser.usage = "alexnet train [RECIPE] [--out DIR] [--resume] [flags]"
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=f"{', '.join(RECIPES)} (default classic)")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder, with its own recipe")
    parser.add_argument("--quiet", action="store_true", help="show no progress, only the result")
    _add(parser, "--profile", int, "time so many steps, operation by operation", least=1, default=0)
    for group in GROUPS:
        names = (name for name in field_types() if field_metadata(name).get("group") == group)
        _add_fields(parser.add_argument_group(group), *names)
    about = {name: (make.__doc__ or "").splitlines()[0].replace("`", "") for name, make in RECIPES.items()}
    parser.epilog = "\n".join(
        ["recipes:", *(f"  {name:12}{line}" for name, line in about.items()), "", parser.epilog or ""]
    )


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="a run's folder, a .ckpt or a .safetensors file")


def _data(parser: argparse.ArgumentParser, more: str = "") -> None:
    for name in ("data", "data_dir"):
        text = f"{field_metadata(name)['help']}{more if name == 'data' else ''} (default the run's own)"
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=_METAVARS[name], help=text)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _data(parser)
    text = "center: one crop an image; flip: the mean over it and its mirror; ten-crop: over corners, centre and their "
    text += "mirrors (default center)"
    _add(parser, "--views", VIEWS, text, default="center")
    text = "val: the images that the run validated on; test: those it kept closed until its end (default val)"
    _add(parser, "--split", ("val", "test"), text, default="val")
    parser.add_argument("--out", metavar="FILE", help="the confusion matrix as a PNG (default the run's confusion.png)")
    _add_fields(parser, "device", "precision", default="auto")


def _predict(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    _add(parser, "--top-k", int, "Classes an image (default 5, or all where there are fewer)", least=1, metavar="K")
    _add_fields(parser, "device", "precision", default="auto")


def _explain(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    text = "image files, up to 12 (default ten of the run's validation images, always the same ones)"
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=text)
    _data(parser, " none: explain what needs no data.")
    parser.add_argument("--out", metavar="FILE", help="the page (default the run's explain.html)")
    _add(parser, "--layer", CONVOLUTIONS, "Whose patches to show, with --channel (default one chosen a convolution)")
    _add(parser, "--channel", int, "Which channel of --layer, counted from 0.", least=0)
    text = "Training images among which the nearest are looked for; 0: none. (default 10000)"
    _add(parser, "--neighbours", int, text, least=0, default=10_000)
    _add_fields(parser, "device", "precision", default="auto")


def _summary(parser: argparse.ArgumentParser) -> None:
    _add_fields(parser, "variant", default="classic")
    _add(parser, "--num-classes", int, "Length of the output. (default 10)", least=1, most=2**31 - 1, default=10)


def _export(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _add(parser, "--format", FORMATS, "What to write.", required=True)
    parser.add_argument("--out", required=True, metavar="FILE", help="Where to write it.")


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="weights from elsewhere")
    parser.add_argument("out", metavar="OUT", help="the file to write")
    _add_fields(parser, "variant", default=None)


def _doctor(parser: argparse.ArgumentParser) -> None:
    _add(parser, "--recipe", tuple(RECIPES), "Also say whether this recipe will start to learn.", metavar="RECIPE")
    _add_fields(parser, "data", "data_dir", "init", "input_scale")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    text = "the page (default report.html in the run's folder, of several in the folder that holds them)"
    parser.add_argument("--out", metavar="FILE.html", help=text)


def _demo(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _data(parser, " none: show what needs no data.")
    text = "Training images among which the nearest are looked for; 0: none. (default 10000)"
    _add(parser, "--neighbours", int, text, least=0, default=10_000)
    text = "where to listen; 0.0.0.0: for everybody on this machine's networks (default 127.0.0.1: this machine alone)"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    _add(parser, "--port", int, "where to listen; 0: any free port (default the first free one from 7860 on)", least=0)
    parser.add_argument("--space", metavar="DIR", help="show nothing; write the page as a Hugging Face Space")
    _add_fields(parser, "device", "precision", default="auto")


def _reproduce(parser: argparse.ArgumentParser) -> None:
    parser.usage = "alexnet reproduce [EXPERIMENT] [--out DIR] [--resume] [flags]"
    text = "one of the list, or FILE.py; none: the list"
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help=text)
    parser.add_argument("--out", metavar="DIR", help="the experiment's folder (default runs/reproduce-EXPERIMENT)")
    parser.add_argument("--resume", action="store_true", help="go on with the experiment in that folder")
    parser.add_argument("--full", action="store_true", help="as the paper did it, not shortened for a laptop")
    parser.add_argument("--quiet", action="store_true", help="show no progress within a run")
    _add(parser, "--seeds", int, "Runs an arm (default 3, or 5 where they are short)", least=1)
    _add_fields(parser, "data", default="cifar10")
    _add_fields(parser, "data_dir", default="data")
    _add_fields(parser, "device", default="auto")


_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str, str]] = {
    "train": (_train, "Train a network and leave a run folder.", "classic --data cifar10 --out runs/first --epochs 5"),
    "evaluate": (_evaluate, "Measure a trained network on validation or test images.", "runs/first --views ten-crop"),
    "predict": (_predict, "Classify image files.", "runs/first cat.jpg dog.png --top-k 3"),
    "explain": (_explain, "Look inside a trained network, on one page.", "runs/first cat.jpg --out inside.html"),
    "summary": (_summary, "Show a network layer by layer.", "--variant paper --num-classes 1000"),
    "variants": (lambda _: None, "Show how the networks called AlexNet differ.", ""),
    "export": (_export, "Write a trained network for use elsewhere.", "runs/first --format onnx --out alexnet.onnx"),
    "convert": (_convert, "Make weights from elsewhere loadable here.", "bvlc_alexnet.caffemodel alexnet.safetensors"),
    "reproduce": (_reproduce, "Put the paper's claims to the test.", "figure-1 --data cifar10 --out runs/figure-1"),
    "doctor": (_doctor, "Check this machine, and whether a recipe will learn.", "--recipe classic --init he"),
    "report": (_report, "Make a page of one run, or of several.", "runs/first runs/second --out both.html"),
    "demo": (_demo, "Show a trained network pictures, on a page on this machine.", "runs/first --port 8000"),
}
