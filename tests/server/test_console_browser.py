"""The console in a real Chromium: what a person sees, hears and saves; what hostile names do, which is nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("websockets")

from chromium import Chromium, chromium
from console_server import Counted, drifted, filled, served

from tailrace.monitor.observed import Observed
from tailrace.monitor.slowest import SlowRequest
from tailrace.server.log_lines import LogLine, LogLines

pytestmark = pytest.mark.slow
HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>"
POLICY = "document.querySelector('meta[http-equiv]').content"
TEXT = "document.getElementById('{}').textContent"


CONTROLS = "a, button, select, input, [tabindex]"
FOCUSED = """(() => { const e = document.activeElement, labelled = e.getAttribute('aria-labelledby');
    const name = e.ariaLabel || (labelled && document.getElementById(labelled).textContent) || e.textContent;
    const ring = getComputedStyle(e).outlineStyle !== 'none';
    return [[...document.querySelectorAll('*')].indexOf(e), name.trim(), ring]; })()"""


def observed(pipeline: str, name: str) -> Observed:
    """Return what an observer says of a slow request just now and one of minutes ago, and of drift."""
    layers = (1.0, 30.0, 2.0, 0.5, 0.5)
    now_s = time.time()
    return Observed(
        at_s=now_s,
        slow={
            pipeline: (
                SlowRequest(id="o", at_s=now_s - 300, whole=80, wait=4, layers=layers, release="r1", error="internal"),
                SlowRequest(
                    id=name, at_s=now_s - 5, whole=41, wait=4, layers=layers, release="r1", decision=name, score=0.9,
                    degraded=("store_timeout",),
                ),
            )
        },
        drift={pipeline: drifted(name)},
    )  # fmt: skip


def logged(text: str) -> LogLines:
    """Return a log of one line, of just now."""
    lines = LogLines()
    lines.hear([LogLine(time.time(), "warning", text, text)])
    return lines


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
    """Script in a name, an id of a request, a category, a line of the log is shown and not run, nor in what is kept."""
    counted = Counted(HOSTILE, HOSTILE, HOSTILE)
    counted.fire(HOSTILE)
    counted.said = observed(HOSTILE, HOSTILE)
    with served(counted, filled(counted, 12, lines=logged(HOSTILE), explains=True)) as port:
        page = opened(browser, port)
        for panel in ("slow", "drift", "lines"):
            assert HOSTILE in page.value(TEXT.format(panel))
        address = page.value("document.querySelector('#slow a').getAttribute('href')")
        assert address.startswith("/console/explain?id=%3C%2Fscript%3E")
        assert HOSTILE in page.value(TEXT.format("features"))
        assert HOSTILE in page.value(TEXT.format("versions"))
        assert HOSTILE in page.value(TEXT.format("alerts"))
        kept = keep(page)
        assert page.value("window.hit") is None
        assert page.complaints == []
    reopened(page, kept, tmp_path)
    for panel in ("features", "slow", "drift", "lines"):
        assert HOSTILE in page.value(TEXT.format(panel))
    assert page.value("window.hit") is None


def test_kept_moment_opens_without_the_server(browser: Chromium, tmp_path: Path) -> None:
    """The one file that is saved shows the same figures when the server is gone, and asks nobody."""
    counted = Counted()
    counted.said = observed("fraud", "pay-7")
    with served(counted, filled(counted, 30, lines=logged("worker ready"), explains=True)) as port:
        page = opened(browser, port)
        panels = ("tiles", "slow", "drift", "lines", "events", "features", "versions")
        shown = [page.value(TEXT.format(panel)) for panel in panels]
    kept = keep(page)  # the server is gone: that is when one wants to keep what was seen
    reopened(page, kept, tmp_path)
    assert [page.value(TEXT.format(panel)) for panel in panels] == shown
    assert "worker ready" in shown[3]
    assert page.value("document.querySelectorAll('#slow a').length") == 0
    assert page.value(POLICY).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in page.value(POLICY)
    assert page.value(TEXT.format("link")).startswith("kept at")
    assert not [url for url in page.requests if url.startswith("http")]
    assert page.complaints == []


def test_policy_lets_nothing_else_run_or_be_asked(browser: Chromium) -> None:
    """Were a script, a style or an address to come onto the page after all: the browser refuses it."""
    counted = Counted()
    with served(counted, filled(counted, 5)) as port:
        page = opened(browser, port)
        page.value(
            "const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.head.append(s)"
        )
        page.value("const d = document.createElement('div'); d.innerHTML = '<b onclick=\"window.hit = 1\">'; "
                   "document.body.append(d); d.firstChild.click()")  # fmt: skip
        assert page.value("fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'refused')") == "refused"
        assert page.value("window.hit") is None
        refused = [each for each in page.complaints if "Content Security Policy" in each]
        assert len(refused) >= 3
        page.complaints.clear()


def test_slow_requests_and_drift_are_shown_with_their_parts(browser: Chromium) -> None:
    """The slowest first, each with its time in the queue and in each layer; drift with its shares and its past."""
    counted = Counted()
    counted.said = observed("fraud", "pay-7")
    with served(counted, filled(counted, 30, explains=True)) as port:
        page = opened(browser, port)
        parts = "[...document.querySelectorAll('#slow .layers')].map(each => each.getAttribute('aria-label'))"
        assert page.value(parts)[0].startswith("queue wait 4 ms, request 1 ms, features 30 ms, inference 2 ms")
        widths = "[...document.querySelector('#slow .layers').children].map(each => each.getBoundingClientRect().width)"
        assert page.value(f"{widths}.reduce((sum, each) => sum + each, 0)") == pytest.approx(
            page.value("document.querySelector('#slow .layers').getBoundingClientRect().width"), rel=0.01
        )
        rows = "document.querySelectorAll('#slow tbody tr').length"
        assert page.value(rows) == 1
        page.value("document.getElementById('slow-ten').click()")
        assert page.value(rows) == 2
        assert "1 with an alarm" in page.value(TEXT.format("drift-said"))
        assert "0.34 of 0.1" in page.value(TEXT.format("drift"))
        assert page.value("document.querySelector('#drift .badge').textContent") == "index (PSI)"
        assert page.value("document.querySelectorAll('#drift rect').length") == 12
        gap = "document.querySelector('#drift .line').getAttribute('d').match(/M/g).length"
        assert page.value(gap) == 2  # a window with too few rows is no point of the line


def test_page_says_when_nobody_observes(browser: Chromium) -> None:
    """An observer that is gone leaves no figures that look like those of now, and is told of; one not asked for too."""
    counted = Counted()
    counted.said = observed("fraud", "pay-7")
    console = filled(counted, 10)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        assert "pay-7" in page.value(TEXT.format("slow"))
        counted.said, counted.observes = None, True
        console.look(time.time())
        page.wait(f"{TEXT.format('slow')}.startsWith('The observer does not answer')")
        assert page.value(TEXT.format("drift")).startswith("The observer does not answer")
        counted.observes = False
        console.look(time.time())
        page.wait(f"{TEXT.format('slow')}.includes('--observe')")


def test_verdict_is_not_said_aloud_each_second(browser: Chromium) -> None:
    """A screen reader hears what changes, not the figures of every second; what is bad it hears at once."""
    counted = Counted()
    console = filled(counted, 10)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        page.value(
            "window.said = []; new MutationObserver(() => said.push(document.getElementById('verdict').textContent))"
            ".observe(document.getElementById('verdict'), { childList: true, characterData: true, subtree: true }); 1"
        )
        for time_ms in (10, 20, 30, 40):
            counted.answer(5_000, time_ms=time_ms)
            console.look(time.time())
            page.wait(rf"/p99 {time_ms // 10}\d?\.?\d* ms/.test({TEXT.format('verdict-text')})")
        assert page.value("said") == []
        counted.shed(900)
        console.look(time.time())
        page.wait("said.length === 1 && said[0].startsWith('Shedding')")


def test_page_comes_back_by_itself(browser: Chromium) -> None:
    """A feed that ends is said to be lost, and is taken up again; nothing needs to be pressed."""
    counted = Counted()
    console = filled(counted, 10)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        page.value("window.stays = 1")
        console.listeners.close()
        page.wait(f"{TEXT.format('link')}.startsWith('not connected')")
        assert page.value("document.getElementById('banner').className") == "idle"
        page.wait(f"{TEXT.format('link')} === 'live'")
        counted.shed(500)
        console.look(time.time())
        page.wait(f"{TEXT.format('verdict-text')}.startsWith('Shedding')")
        assert page.value("window.stays") == 1


def test_page_takes_up_a_server_that_was_started_anew(browser: Chromium) -> None:
    """Of another process on the same port: what the first one has said is gone, as what it has counted is."""
    counted = Counted()
    with served(counted, filled(counted, 30)) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        page.value("window.stays = 1")
    page.wait(f"{TEXT.format('link')}.startsWith('not connected')")
    successor = Counted(release="r9")
    with served(successor, filled(successor, 4), port=port):
        page.wait(f"{TEXT.format('link')} === 'live' && {TEXT.format('versions')}.includes('r9')")
        assert page.value("window.stays") == 1


def test_roll_out_is_shown_side_by_side_and_marked_in_every_chart(browser: Chromium) -> None:
    """Both releases stand in the table while both answer; the timeline has the new one, pointing at it the charts."""
    counted = Counted()
    console = filled(counted, 30)
    successor = counted.roll_out("r2")
    successor.answer(100)
    console.look(time.time())
    with served(counted, console) as port:
        page = opened(browser, port)
        heads = "[...document.querySelectorAll('#versions tbody th span')].map(each => each.firstChild.textContent)"
        assert page.value(heads) == ["r1", "r2"]
        assert "release r2 is served" in page.value(TEXT.format("events"))
        page.value("document.querySelector('#events li.release').dispatchEvent(new MouseEvent('mouseenter'))")
        for chart, figures in (("heat", 2), ("traffic", 5), ("batch", 1), ("wait", 1)):
            assert page.value(f"document.getElementById('{chart}-legend').children.length") == figures + 1


def test_silent_server_is_not_shown_as_live(browser: Chromium) -> None:
    """A connection over which nothing comes any more, of a machine that is gone say, is noticed."""
    counted = Counted()
    console = filled(counted, 10)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        page.wait(f"{TEXT.format('link')}.includes('the server is silent')")


def test_clock_that_is_set_back_stops_no_chart(browser: Chromium) -> None:
    """The page asks for all anew, and goes on: it would else wait an hour for the time to come again."""
    counted = Counted()
    console = filled(counted, 20)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        console.move(-3_600, time.time() - 3_600)
        counted.answer(777)
        console.look(time.time() - 3_600)
        page.wait(f"{TEXT.format('traffic-legend')}.includes('777')")
        assert "the clock was set by -3600 s" in page.value(TEXT.format("events"))


def test_every_control_is_reached_by_keyboard(browser: Chromium) -> None:
    """Tab comes to each button, chart and list in turn, each has a name and a ring that shows where one is."""
    counted = Counted()
    counted.fire()
    counted.said = observed("fraud", "pay-7")
    with served(counted, filled(counted, 20, lines=logged("line"), explains=True)) as port:
        page = opened(browser, port)
        wanted = page.value(
            f"[...document.querySelectorAll('{CONTROLS}')].filter(e => e.getClientRects().length).length"
        )
        page.value("document.body.focus()")
        reached = []
        for _ in range(wanted):
            for kind in ("keyDown", "keyUp"):
                page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(page.value(FOCUSED))
        assert len({number for number, _, _ in reached}) == wanted
        assert all(name for _, name, _ in reached)
        assert all(ring for _, _, ring in reached)


def test_link_that_has_the_focus_keeps_it(browser: Chromium) -> None:
    """The page is told anew each second: who has come to a request by keyboard is still there if another is slower."""
    counted = Counted()
    counted.said = observed("fraud", "pay-7")
    console = filled(counted, 10, explains=True)
    with served(counted, console) as port:
        page = opened(browser, port)
        page.wait(f"{TEXT.format('link')} === 'live'")
        page.value("document.querySelector('#slow a').focus()")
        said = observed("fraud", "pay-7")
        slower = msgspec.structs.replace(said.slow["fraud"][1], id="slower", whole=99.0)
        counted.said = Observed(at_s=said.at_s, slow={"fraud": (slower, *counted.said.slow["fraud"])})
        console.look(time.time())
        page.wait(f"{TEXT.format('slow')}.includes('slower')")
        assert page.value("document.activeElement.textContent") == "pay-7"
        page.value("getSelection().selectAllChildren(document.querySelector('#slow tbody th')); 1")
        counted.said = Observed(at_s=said.at_s)
        counted.shed(9)
        console.look(time.time())
        page.wait(f"{TEXT.format('verdict-text')}.startsWith('Shedding')")
        assert page.value("getSelection().toString()").strip() == "slower"


def test_page_has_landmarks_and_heads_in_order(browser: Chromium) -> None:
    """One head of the page, its parts below it each with a name, and what is spoken in regions of its own."""
    counted = Counted()
    with served(counted, filled(counted, 10)) as port:
        page = opened(browser, port)
        assert (
            page.value("['header', 'nav', 'main', 'footer'].map(e => document.querySelectorAll(e).length)") == [1] * 4
        )
        tags = ["header", "nav", "main", "footer", "h1"]
        assert page.value(f"{tags}.map(e => document.querySelectorAll(e).length)") == [1] * len(tags)
        sections = "[...document.querySelectorAll('main section')]"
        named = f"{sections}.every(e => e.ariaLabel || e.querySelector('h2').textContent)"
        assert page.value(named)
        assert page.value("[...document.querySelectorAll('[aria-live]')].map(e => e.id)") == ["verdict", "spoken"]
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        still = "[...document.querySelectorAll('*')].every(e => getComputedStyle(e).transitionDuration === '0s')"
        assert page.value(still)


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


@pytest.mark.parametrize(
    ("width", "theme"), [(320, "light"), (360, "light"), (360, "dark"), (720, "dark"), (820, "light"), (1_920, "dark")]
)
def test_page_fits_its_window(browser: Chromium, width: int, theme: str) -> None:
    """From a phone to a wide screen nothing is cut off at its window or card, and text stands out from its ground."""
    counted = Counted(view="CustomerProfile", release="2323e820d851")
    counted.answer(180_000)
    counted.fire()
    counted.said = observed("fraud", "pay-7")
    counted.lose(3, "overwritten")
    with served(counted, filled(counted, 30, lines=logged("a line"), explains=True)) as port:
        page = opened(browser, port, width=width, theme=theme)
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        cards = "[...document.querySelectorAll('.card')].filter(e => e.offsetParent && e.scrollWidth > e.clientWidth)"
        assert page.value(f"{cards}.map(e => e.innerText)") == []
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
