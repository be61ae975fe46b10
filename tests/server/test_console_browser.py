"""The console in a real Chromium: what a person sees, hears and saves; what hostile names do, which is nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("websockets")

from chromium import Chromium, chromium
from console_server import Counted, filled, served

pytestmark = pytest.mark.slow
HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>"
TEXT = "document.getElementById('{}').textContent"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """One page of a browser."""
    with chromium() as page:
        yield page


def opened(page: Chromium, port: int, **options: object) -> Chromium:
    """Open the console, and wait until its charts are drawn."""
    page.requests.clear()
    page.complaints.clear()
    page.open(f"http://127.0.0.1:{port}/console", **options)  # type: ignore[arg-type]
    page.wait("performance.getEntriesByName('charts').length")
    return page


def test_page_shows_the_state_and_asks_nobody_else(browser: Chromium) -> None:
    """Verdict, tiles, waterfall and charts are there at once; only the server is asked; nothing is complained of."""
    counted = Counted()
    with served(counted, filled(counted, 60)) as port:
        page = opened(browser, port)
        assert page.value(TEXT.format("verdict-text")).startswith("Within budget")
        assert page.value("document.querySelectorAll('.tile').length") == 7
        assert page.value("document.querySelectorAll('#water .row').length") == 7
        assert "Profile" in page.value(TEXT.format("features"))
        drawn = "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v))"
        assert page.value(f"[...document.querySelectorAll('canvas')].every({drawn})")
        assert {url.split("/")[2] for url in page.requests} <= {f"127.0.0.1:{port}", ""}
        assert page.complaints == []


def test_page_follows_the_server(browser: Chromium) -> None:
    """What is told a second later is on the page, and is announced."""
    counted = Counted()
    console = filled(counted, 5)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        counted.shed(500)
        console.look(time.time())
        page.wait(f"{TEXT.format('verdict-text')}.startsWith('Shedding')")
        assert page.value("document.getElementById('verdict').getAttribute('aria-live')") == "polite"
        assert page.value("document.title").startswith("●")


def test_hostile_names_are_shown_as_text(browser: Chromium, tmp_path: Path) -> None:
    """Script in the name of a pipeline, a view and a release is shown, and does not run, in what is kept neither."""
    counted = Counted(HOSTILE, HOSTILE, HOSTILE)
    counted.fire(HOSTILE)
    with served(counted, filled(counted, 12)) as port:
        page = opened(browser, port)
        assert HOSTILE in page.value(TEXT.format("features"))
        assert HOSTILE in page.value(TEXT.format("versions"))
        assert HOSTILE in page.value(TEXT.format("alerts"))
        kept = keep(page)
        assert page.value("window.hit") is None
        assert page.complaints == []
    reopened(page, kept, tmp_path)
    assert HOSTILE in page.value(TEXT.format("features"))
    assert page.value("window.hit") is None


def test_kept_moment_opens_without_the_server(browser: Chromium, tmp_path: Path) -> None:
    """The one file that is saved shows the same figures when the server is gone, and asks nobody."""
    counted = Counted()
    with served(counted, filled(counted, 30)) as port:
        page = opened(browser, port)
        shown = page.value(TEXT.format("tiles"))
        kept = keep(page)
    reopened(page, kept, tmp_path)
    assert page.value(TEXT.format("tiles")) == shown
    assert page.value(TEXT.format("link")).startswith("kept at")
    assert not [url for url in page.requests if url.startswith("http")]
    assert page.complaints == []


def test_keyboard_moves_the_cursor_of_every_chart(browser: Chromium) -> None:
    """An arrow key on one chart moves the cursor on all, and what stands there is spoken."""
    counted = Counted()
    with served(counted, filled(counted, 30)) as port:
        page = opened(browser, port)
        page.value("document.getElementById('traffic').focus()")
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
        assert "offered 204" in page.value(TEXT.format("spoken"))
        assert page.value("document.getElementById('heat-legend').children.length") == 3


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (360, "dark"), (820, "light"), (1_920, "dark")])
def test_page_fits_its_window(browser: Chromium, width: int, theme: str) -> None:
    """From a phone to a wide screen nothing is wider than the window, and text stands out from what is behind it."""
    counted = Counted()
    with served(counted, filled(counted, 30)) as port:
        page = opened(browser, port, width=width, theme=theme)
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        contrast = """(() => {
          const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b; };
          const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(' 0)')) return c; } };
          return Math.min(...[...document.querySelectorAll('main *, header *')].filter(e => e.childNodes.length && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length).map(e => {
            const a = light(getComputedStyle(e).color), b = light(behind(e)); return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); })); })()"""  # noqa: E501
        assert page.value(contrast) >= 4.5


def test_token_is_asked_for(browser: Chromium) -> None:
    """A console behind a token asks for it, and shows the state once it has it."""
    counted = Counted()
    with served(counted, filled(counted, 5), token="open") as port:
        browser.open(f"http://127.0.0.1:{port}/console")
        browser.wait("document.getElementById('ask') && !document.getElementById('ask').hidden")
        browser.value("document.getElementById('token').value = 'open'; document.querySelector('#ask button').click()")
        browser.wait(f"{TEXT.format('verdict-text')}.startsWith('Within')")


def keep(page: Chromium) -> str:
    """Press the button that keeps the moment; return the file's text."""
    page.value(
        "window.blobs = []; const make = URL.createObjectURL; URL.createObjectURL = b => (blobs.push(b), make(b))"
    )
    page.value("document.getElementById('keep').click()")
    page.wait("blobs.length")
    return str(page.value("blobs[0].text()"))


def reopened(page: Chromium, kept: str, folder: Path) -> None:
    """Open a file that was kept."""
    file = folder / "kept.html"
    file.write_text(kept, encoding="utf-8")
    page.requests.clear()
    page.complaints.clear()
    page.send("Page.navigate", url=file.as_uri())
    page.wait("location.protocol === 'file:' && document.querySelectorAll('.tile').length")
