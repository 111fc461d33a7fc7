"""The pages: their links, snippets and commands work, and their numbers are those of the records."""

import re
from pathlib import Path

import pytest

import pages

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WORDS = {"README.md": 1000, "docs/training.md": 800, "docs/why-2.303.md": 800}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "docs").glob("*.ipynb")], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"


@every_page
def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make ([a-z-]+)", "\n".join(code_blocks(page, "bash")), re.MULTILINE):
        assert target in targets, f"{page.name}: make {target}"


def test_files_that_the_text_names_exist():
    named = re.compile(r"(?<![\w/.])(?:src|tests|benchmarks|docs)/[\w/.-]+\.(?:py|md|json|png|ipynb)\b")
    code = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    for page in [*PAGES, *code]:
        for name in named.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize(("name", "limit"), WORDS.items())
def test_a_page_is_short(name, limit):
    assert len((ROOT / name).read_text(encoding="utf-8").split()) <= limit


def test_readme_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = "\n".join(code_blocks(ROOT / "README.md", "python"))
    exec(compile(snippets, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "python" / "last.ckpt").is_file()


def test_the_snippets_of_contributing_run():
    from alexnet.data import augment

    names = dict(vars(augment))  # the file that the augmentation is added to
    try:
        for snippet in code_blocks(ROOT / "CONTRIBUTING.md", "python"):
            exec(compile(snippet, "CONTRIBUTING.md", "exec"), names)
        assert augment.AUGMENTATIONS["dim"].stage == "crop"
    finally:
        augment.AUGMENTATIONS.pop("dim", None)
    assert names["EXPERIMENT"].name == "decay"


def test_numbers_are_those_of_the_records(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pages", "--check"])
    assert pages.main() == 0, "a page differs from the records: make results"
