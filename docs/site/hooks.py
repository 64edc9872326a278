"""What mkdocs does to the pages while it builds the site, so that the same files read well on a code host too.

- README, CHANGELOG, CONTRIBUTING and SECURITY become pages.
- Links that leave `docs/` lead to those pages, or to a copy of the file that they name.
- A block that a page writes into a file (`<!-- file: NAME -->`) has the file's name above it.
- The copy button of a block of commands takes the commands, without prompts and without what they print.
- `<!-- site: NAME -->` is replaced by what has its one source elsewhere: the command line's help.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "reporting.md"}
COPIES = "repository"  # where other files of the repository stand in the site

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
_FILE = re.compile(r"<!-- file: ([\w./-]+) -->\n+```(\w+)\n")
_BLOCK = re.compile(r'<div class="highlight">(<pre>.*?</pre>)', re.DOTALL)
_MARKER = re.compile(r"<!-- site: ([a-z ]+) -->")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that stand outside `docs/`."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Fill markers and lead links to where their files stand in the site."""
    here = page.file.src_uri
    source = next((name for name, uri in PAGES.items() if uri == here), f"docs/{here}")
    filled = _MARKER.sub(lambda found: _fill(found.group(1)), markdown)
    filled = _FILE.sub(r'```\2 title="\1"\n', filled)
    return _LINK.sub(lambda found: _target(found, source, here, config, files), filled)


def on_page_content(content: str, **_: Any) -> str:
    """Say what the copy buttons of blocks with prompts take."""
    return _BLOCK.sub(_with_commands, content)


def _with_commands(found: re.Match[str]) -> str:
    """Add to a block its commands as `data-copy`, which the theme's copy button prefers to the block's text."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", found.group(1))).splitlines()
    commands: list[str] = []
    for line in lines:
        if line.startswith("$ ") and 'class="gp"' in found.group(1):
            commands.append(line.removeprefix("$ "))
        elif commands and commands[-1].endswith("\\"):  # a command of several lines
            commands[-1] += f"\n{line.removeprefix('> ')}"
    if not commands:
        return found.group(0)
    copied = html.escape("\n".join(commands)).replace("\n", "&#10;")
    return f'<div class="highlight" data-copy="{copied}">{found.group(1)}'


def _target(found: re.Match[str], source: str, here: str, config: Any, files: Files) -> str:
    """A link as the site needs it; one that leads nowhere is left for mkdocs to complain about."""
    path, anchor = found.groups()
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if named in PAGES:
        uri = PAGES[named]
    elif named.startswith("docs/"):
        uri = named.removeprefix("docs/")
    elif (ROOT / named).is_file() and not named.startswith(".."):
        uri = f"{COPIES}/{named}"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / named)))
    else:
        return found.group(0)
    return posixpath.relpath(uri, posixpath.dirname(here) or ".") + anchor


def _fill(name: str) -> str:
    if name == "command line":
        return command_line()
    raise PluginError(f"docs/site/hooks.py knows no text for the marker {name!r}")


def command_line() -> str:
    """Every command with its arguments and options, from the program itself."""
    import typer

    from metaeol_udf.cli import app

    root = typer.main.get_command(app)
    return "\n\n".join([_table(root, "metaeol"), *_commands("metaeol", root, "##")])


def _commands(name: str, group: Any, heading: str) -> list[str]:
    parts = []
    for command_name, command in group.commands.items():
        full = f"{name} {command_name}"
        parts.append(f"{heading} {full}\n\n{_inline(command.help)}")
        if hasattr(command, "commands"):
            parts += _commands(full, command, f"{heading}#")
        else:
            parts.append(f"```text\n{full} {_usage(command, full)}\n```\n\n{_table(command, full)}\n\n{_ending(command.epilog)}")
    return parts


def _usage(command: Any, name: str) -> str:
    """Options and arguments in the order in which they stand."""
    import typer

    return " ".join(command.collect_usage_pieces(typer.Context(command, info_name=name)))


def _ending(epilog: str) -> str:
    """The example of a command as a block, and its page as a link."""
    example, page = (part.partition(": ")[2] for part in epilog.split("\n\n"))
    return f"```console\n$ {example}\n```\n\nMore: [{page}]({posixpath.relpath(page, 'docs/reference')})"


def _table(command: Any, name: str) -> str:
    """Arguments and options as `--help` has them."""
    import typer

    context = typer.Context(command, info_name=name)
    shown = [param for param in command.get_params(context) if "--help" not in param.opts]
    records = filter(None, (param.get_help_record(context) for param in shown))
    rows = [f"| `{names}` | {_inline(text)} |" for names, text in records]
    return "\n".join(["| argument or option | meaning |", "| --- | --- |", *rows])


def _inline(text: str | None) -> str:
    """One line of Markdown in which nothing is markup."""
    return re.sub(r"([|*_\[\]])", r"\\\1", html.escape(" ".join((text or "").split()), quote=False))
