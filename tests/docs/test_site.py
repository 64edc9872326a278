"""The site as readers get it. It needs mkdocs (`pip install 'metaeol-udf[docs]'`), and is skipped without."""

from __future__ import annotations

import ast
import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metaeol_udf import cli, errors
from metaeol_udf.errors import MetaEOLError

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: pip install 'metaeol-udf[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*\bhref=\"?(?:https?:)?//", re.IGNORECASE)
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    assert [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.search(r"url\([\"']?(?:https?:)?//", styles) is None


def test_every_command_is_in_the_reference(site: Path) -> None:
    import typer

    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    commands = typer.main.get_command(cli.app).commands
    nested = [f"{name}-{inner}" for name, group in commands.items() for inner in getattr(group, "commands", {})]
    assert [name for name in [*commands, *nested] if f'id="metaeol-{name}"' not in page] == []


def test_the_reference_shows_what_the_docstrings_say_and_a_heading_for_each_setting(site: Path) -> None:
    configuration = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    assert 'id="runtimemax_failed_fraction"' in configuration
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("MetaEOLEncoder.encode", "EmbeddingSpec.load", "udf.embed_udf", "udf.with_embeddings", "search_table", "job.run_embed"):
        assert f'{name}"' in python, name


def test_readme_and_changelog_are_pages_and_links_into_the_repository_lead_to_copies(site: Path) -> None:
    assert "Where things are" in (site / "overview.html").read_text(encoding="utf-8")
    assert "Unreleased" in (site / "changelog.html").read_text(encoding="utf-8")
    assert (site / "repository/conf/embed.yaml").read_bytes() == (ROOT / "conf/embed.yaml").read_bytes()


def test_blocks_of_files_have_their_names_and_pages_lead_to_the_next(site: Path) -> None:
    tutorial = (site / "tutorial.html").read_text(encoding="utf-8")
    assert re.findall(r'<span class="filename">([^<]+)</span>', tutorial) == re.findall(
        r"<!-- file: (\S+) -->", (DOCS / "tutorial.md").read_text(encoding="utf-8")
    )
    assert "md-footer__link--next" in tutorial


def test_copy_buttons_take_commands_alone(site: Path) -> None:
    copied = [html.unescape(each) for page in site.rglob("*.html") for each in re.findall(r'data-copy="([^"]*)"', page.read_text("utf-8"))]
    lines = [line for each in copied for line in each.splitlines()]
    written = re.findall(r"^\$ (.*)$", (DOCS / "tutorial.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(written) > 5
    assert set(written) <= set(lines)
    assert not [line for line in lines if line.startswith("$ ")]


def test_links_lead_to_files_and_headings_of_the_repository() -> None:
    broken = []
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for path, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
            target = (page.parent / path).resolve() if path else page
            is_heading = not anchor or target.name == "python.md" or anchor in anchors(target)
            if not target.is_file() or not is_heading:
                broken.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Names that headings have on a code host: lower case, words joined by hyphens, without punctuation."""
    if not page.is_file():
        return set()
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "fewest"), [("security.md", 15), ("reliability.md", 30)])
def test_tests_that_hold_a_promise_exist(page: str, fewest: int) -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?", (DOCS / page).read_text(encoding="utf-8"))
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / "tests" / path).is_file() or (name and f"def {name}(" not in (ROOT / "tests" / path).read_text(encoding="utf-8"))
    ]
    assert missing == []
    assert len(named) >= fewest


def test_the_table_of_errors_is_that_of_the_package() -> None:
    table = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    rows = {
        (int(status), name)
        for status, names in re.findall(r"^\| (\d+) \| ([^|]*)\|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    raised = {(kind.exit_code, name) for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, MetaEOLError)}
    assert rows == raised


def test_settings_that_the_questions_name_exist() -> None:
    """A `section.key` in back-quotes on any page of ours is a setting."""
    from tests.setup.test_readme import settings

    known = {f"{section}.{key}" for section, key in settings()} | {"embedding.spec"}
    sections = {name.partition(".")[0] for name in known}
    pages = [DOCS / "faq.md", DOCS / "method.md", DOCS / "tutorial.md", *sorted((DOCS / "reference").glob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`([a-z]+\.[a-z_]+)(?=[`:= ])", page.read_text(encoding="utf-8"))}
    unknown = {name for name in named if name.partition(".")[0] in sections - {"spark"}} - known
    assert unknown == set()
    assert len(named & known) > 20


def test_messages_that_the_pages_quote_are_those_of_the_package() -> None:
    """What stands in «…» on these pages is part of a message; an ellipsis stands for values."""
    messages = [text for path in sorted((ROOT / "metaeol_udf").rglob("*.py")) for text in strings_of(path)]
    pages = [DOCS / "faq.md", DOCS / "reference" / "errors.md"]
    quotes = [" ".join(quote.split()) for page in pages for quote in re.findall(r"«([^»]+)»", page.read_text(encoding="utf-8"))]
    assert len(quotes) > 5
    patterns = {quote: ".*".join(re.escape(part) for part in re.split(r"\s*…\s*", quote)) for quote in quotes}
    assert [quote for quote, pattern in patterns.items() if not any(re.search(pattern, message) for message in messages)] == []


def strings_of(path: Path) -> list[str]:
    """All strings of a module; what is formatted into one is an ellipsis."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


def test_search_needs_no_server(site: Path) -> None:
    """The index is a script, which a page may load from a folder, and a script stands in for the browser's workers."""
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = {")
    home = (site / "index.html").read_text(encoding="utf-8")
    assert '<script src="javascripts/iframe-worker.js">' in home
    assert (site / "javascripts" / "iframe-worker.js").is_file()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_finds_a_word_in_pages_that_are_opened_from_a_folder(site: Path) -> None:
    page = f"{(site / 'index.html').as_uri()}?q=quarantine"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom", page]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert re.search(r"[1-9]\d* matching documents", shown)
