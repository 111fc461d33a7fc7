"""The pages: their commands, snippets and links work as written, and their figures are those of the records."""

import importlib
import re
import shlex
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

import report
from alexnet import flags, recipes
from tables import test_accuracy as accuracy_of
from tables import whole_runs

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "RESULTS.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?alexnet ", line)]


def test_there_is_something_to_test() -> None:
    assert len(commands()) >= 7
    assert len(blocks(ROOT / "README.md", "python")) >= 2


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str) -> None:
    args = flags.parse(shlex.split(command, comments=True)[1:])
    if args.command == "train":
        given = {name: value for name, value in vars(args).items() if name in recipes.field_types()}
        flags.recipe_from(args.recipe or "classic", given)


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b", "\n".join(blocks(page, "bash"))):
            assert target in targets, f"{page.name}: make {target}"


def test_quickstart_is_the_recipe() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^quickstart:.*\n\t\$\(BIN\)/alexnet train quickstart$", makefile, flags=re.MULTILINE)


def run_snippets(folder: Path) -> None:
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "runs" / "python" / "last.ckpt").is_file()


def test_readme_snippets_run(tiny_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippets(tmp_path)


@pytest.mark.slow
def test_readme_snippets_run_with_the_whole_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippets(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_a_page_lead_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{page.name} links to {target}#{anchor}"


def test_files_of_the_project_that_its_text_names_are_there() -> None:
    named = re.compile(r"(?<![\w/.])(?:src|tests|benchmarks|docs)/[\w/.-]+\.(?:py|md|json|png)\b")
    code = [path for room in ("src", "tests", "benchmarks", "docs") for path in sorted((ROOT / room).rglob("*.py"))]
    for page in [*PAGES, ROOT / "CHANGELOG.md", *code]:
        for name in named.findall(page.read_text()):
            assert (ROOT / name).exists(), f"{page.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize("script", ["report", "ladder", "findings", "reliability"])
def test_figures_are_those_of_the_records(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [script, "--check"])
    assert not importlib.import_module(script).main(), f"a page differs from the records: {script}.py"


def test_recipes_promise_what_was_measured() -> None:
    whole = whole_runs(report.records(ROOT / "results")["accuracy"])
    promised = {name: re.findall(r"expect:\s+([\d.]+)%", make.__doc__ or "") for name, make in recipes.RECIPES.items()}
    found = defaultdict(list)
    for record in whole:
        found[record["recipe"]["name"]].append(accuracy_of(record))
    assert promised == {name: [f"{statistics.mean(found[name]):.1f}"] if name in found else [] for name in promised}
