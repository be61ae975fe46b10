"""The documentation as the tests read it: pages, their fenced blocks and links, and the output that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = tuple(sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")]))
TEXTS: Final = {path: path.read_text(encoding="utf-8") for path in PAGES}

_FENCE: Final = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_TITLE: Final = re.compile(r'title="([^"]+)"')


class Block(NamedTuple):
    """A fenced block. language: the first word of its info string; info: all of it. line: of its first line."""

    page: Path
    line: int
    language: str
    info: str
    text: str

    @property
    def title(self) -> str | None:
        """The name of the file that it is."""
        found = _TITLE.search(self.info)
        return found[1] if found else None

    @property
    def is_run(self) -> bool:
        """Whether its commands are to be run."""
        return self.info.split()[1:] == ["run"]

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each command after a `$ `, with the output that is shown below it."""
        command, shown = "", []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            else:
                shown.append(line)
        if command:
            yield command, shown


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = TEXTS[page]
    return [
        Block(page, text.count("\n", 0, match.start()) + 2, match[1].split(" ")[0], match[1], match[2])
        for match in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", TEXTS[page])


def links(page: Path) -> list[str]:
    """Return the targets of a page's relative links."""
    return [target for target in _LINK.findall(prose(page)) if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """Return what a page's headings can be linked by, as GitHub names them."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in _HEADING.findall(prose(page)))
    return {title.strip().replace(" ", "-") for title in titles}


def name(page: Path) -> str:
    """Return how a page is called in a test's name."""
    return str(page.relative_to(ROOT))


def plain(text: str) -> str:
    """Return output without what differs from run to run: numbers, units of time, hashes, and padding."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "#", text)
    text = re.sub(r"\d[\d,]*(\.\d+)?(e[+-]?\d+)?", "#", text)
    text = re.sub(r"# (ns|µs|ms|s)(?!\w)", "# t", text)
    return re.sub(r"[ \t]+", " ", text).strip()
