"""Who is told of alerts: a webhook as Slack takes it, and Alertmanager. Each in a thread of its own, and bounded.

To hand an alert over never waits and never raises. What cannot be delivered is tried again, then counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import msgspec

from tailrace.errors import SetupError
from tailrace.monitor.alerts.watch import Alert

QUEUE_MAX: Final = 256
"""Alerts that wait for a webhook; of more the oldest are dropped."""
TRIES_MAX: Final = 6
TIMEOUT_S: Final = 5.0
BACK_OFF_S: Final = 1.0
BACK_OFF_S_MAX: Final = 60.0
RESEND_S: Final = 60.0
"""Alertmanager is told again of what fires: one that has begun anew knows nothing of before."""
LASTS_S: Final = 4 * RESEND_S
"""After which it takes an alert for over that it is told no more of: this server has ended."""
OUTCOMES: Final = ("sent", "failed", "dropped")
"""What becomes of a notification; failed: given up after its tries, or refused; dropped: too many waited."""
_COLOURS: Final = {"page": "#d92d20", "ticket": "#f79009", "resolved": "#12b76a"}


class Sink(Protocol):
    """Who is told. outcomes: how often what became of a notification (`OUTCOMES`)."""

    name: str
    outcomes: Counter[str]

    def put(self, alert: Alert) -> None:
        """Take an alert that fires now, or is over now."""
        ...

    def close(self) -> None:
        """Begin no more tries."""
        ...


class _ThreadSink:
    """What the sinks share: a thread that starts with the first alert, and its tries."""

    name = ""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S, back_off_s: float = BACK_OFF_S) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = url
        self._timeout_s = timeout_s
        self._back_off_s = back_off_s
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Begin no more tries. The thread ends by itself, and with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _wake(self) -> None:
        """Have the thread look; called with the lock held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"alerts-{self.name}", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _work(self) -> None:
        raise NotImplementedError

    def _wait(self, tries: int) -> bool:
        """Wait before the next try; return whether there may be one."""
        end_s = time.monotonic() + min(self._back_off_s * 2.0 ** (tries - 1), BACK_OFF_S_MAX)
        with self._changed:
            while not self._closed and (left_s := end_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return not self._closed


class WebhookSink(_ThreadSink):
    """Posts each alert as Slack's incoming webhooks take it, Mattermost and Discord (at `/slack`) too."""

    name = "webhook"

    def __init__(self, url: str, **times: float) -> None:
        super().__init__(url, **times)
        self._waiting: deque[Alert] = deque()

    def put(self, alert: Alert) -> None:
        """Take an alert; of too many the oldest is dropped."""
        with self._changed:
            if len(self._waiting) >= QUEUE_MAX:
                self._waiting.popleft()
                self.outcomes["dropped"] += 1
            self._waiting.append(alert)
            self._wake()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                alert = self._waiting.popleft()
            self._deliver(msgspec.json.encode(slack_message(alert)))

    def _deliver(self, body: bytes) -> None:
        for tries in range(1, TRIES_MAX + 1):
            outcome = _post(self._url, body, self._timeout_s)
            if outcome is not None:
                self.outcomes["sent" if outcome else "failed"] += 1
                return
            if tries == TRIES_MAX or not self._wait(tries):
                break
        self.outcomes["failed"] += 1


class AlertmanagerSink(_ThreadSink):
    """Keeps Alertmanager told: of what fires once a minute, of what is over until it has been told once.

    url: its own, to which `/api/v2/alerts` is added.
    """

    name = "alertmanager"

    def __init__(self, url: str, **times: float) -> None:
        super().__init__(f"{url.rstrip('/')}/api/v2/alerts", **times)
        self._known: dict[tuple[str, str], tuple[Alert, int]] = {}
        self._has_news = False

    def put(self, alert: Alert) -> None:
        """Take an alert, in place of what was known of it. There are no more than rules times pipelines."""
        with self._changed:
            self._known[alert.alert, alert.pipeline] = alert, time.monotonic_ns()
            self._has_news = True
            self._wake()

    def _work(self) -> None:
        tries = 0
        while not self._closed:
            with self._changed:
                self._has_news = False
                batch = dict(self._known)
            outcome = _post(self._url, self._body(batch), self._timeout_s) if batch else True
            if outcome is None:
                tries += 1
                self.outcomes["failed"] += tries % TRIES_MAX == 0
                self._wait(tries)
                continue
            tries = 0
            if batch:
                self.outcomes["sent" if outcome else "failed"] += 1
            self._rest(batch)

    def _rest(self, told: dict[tuple[str, str], tuple[Alert, int]]) -> None:
        """Forget what is over and was told; wait for news, or until it is time to tell again what fires."""
        with self._changed:
            for key, (alert, _) in told.items():
                if alert.state == "resolved" and self._known.get(key) == told[key]:
                    del self._known[key]
            if not self._has_news and not self._closed:
                self._changed.wait(RESEND_S if self._known else None)

    def _body(self, batch: dict[tuple[str, str], tuple[Alert, int]]) -> bytes:
        now, at_ns = datetime.now(UTC), time.monotonic_ns()
        return msgspec.json.encode(
            [alertmanager_alert(alert, now, (at_ns - taken_ns) / 1e9) for alert, taken_ns in batch.values()]
        )


def slack_message(alert: Alert) -> dict[str, Any]:
    """Return what is posted to a webhook. Slack's marks (& < >) are escaped, as it asks: a name is no link."""
    is_over = alert.state == "resolved"
    title = _escaped(f"{'RESOLVED' if is_over else alert.severity.upper()} {alert.pipeline}: {alert.summary}")
    cause = _escaped(alert.cause)
    return {
        "text": f"{title} — {cause}",
        "attachments": [
            {
                "color": _COLOURS["resolved" if is_over else alert.severity],
                "fallback": title,
                "fields": [
                    {"title": "alert", "value": alert.alert, "short": True},
                    {"title": "runbook", "value": _escaped(alert.runbook), "short": True},
                ],
            }
        ],
    }


def alertmanager_alert(alert: Alert, now: datetime, ago_s: float) -> dict[str, Any]:
    """Return an alert as Alertmanager's API has it. ago_s: for how long it has been known as it is.

    When it began is told from now, by the monotonic clock: a wall clock that was set does not end it before it began.
    """
    known = now - timedelta(seconds=ago_s)
    ends = known if alert.state == "resolved" else now + timedelta(seconds=LASTS_S)
    return {
        "labels": {
            "alertname": alertname(alert.alert),
            "pipeline": alert.pipeline,
            "severity": alert.severity,
            "service": "tailrace",
        },
        "annotations": {"summary": alert.summary, "description": alert.cause, "runbook": alert.runbook},
        "startsAt": (known - timedelta(seconds=alert.since_s)).isoformat(),
        "endsAt": ends.isoformat(),
    }


def alertname(name: str) -> str:
    """Return an alert's name as Prometheus and Alertmanager have it: "burn_fast" is TailraceBurnFast."""
    return "Tailrace" + "".join(word.capitalize() for word in name.split("_"))


def _post(url: str, body: bytes, timeout_s: float) -> bool | None:
    from tailrace.monitor.alerts.posting import post  # a server that tells nobody imports none of it

    return post(url, body, timeout_s)


def check_address(name: str, url: str | None, what: str = "address to post to") -> None:
    """Raise SetupError for what is no address to post to, say. It is not shown: it may hold a secret."""
    from urllib.parse import urlsplit

    if url is None:
        return
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or any(not "!" <= letter <= "~" for letter in url):
        raise SetupError(f"this is no {what}", where=name, next="write https://host/path")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
