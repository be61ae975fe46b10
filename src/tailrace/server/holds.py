"""The holds of a release on the versions of a registry, renewed while it is served: once a day, by a process for each.

The first renewal comes a minute after the start, since nobody hears of a hold that failed when the release was made.
The supervisor begins those processes, and carries no traffic itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tailrace.core_share import hold_back
from tailrace.errors import RegistryError
from tailrace.release.pinned import Pin, Release
from tailrace.release.registry.child import COMMAND, HoldRenewal, RegistryChoice, Renewed, told_by

PERIOD_S: Final = 86_400.0
"""A hold lasts for thirty of them: a registry may be away for weeks."""
FIRST_S: Final = 60.0
"""From the start to the first renewal, which tells of a registry that the release could not be noted in."""
RENEWAL_S_MAX: Final = 600.0
"""For one version."""


async def renew_holds(
    pin: Pin, choice: RegistryChoice, log: Any, *, first_s: float = FIRST_S, period_s: float = PERIOD_S
) -> None:
    """Renew what a release holds, soon after it is made and once a period then, until cancelled.

    What fails is logged, and tried again a period later.

    choice: whose keys are trusted. log: of the supervisor.
    """
    wait_s = first_s
    while True:
        await asyncio.sleep(wait_s)
        wait_s = period_s if pin.release_file.exists() else first_s
        for renewal in _renewals(pin, choice):
            try:
                await _renew(renewal)
            except (RegistryError, OSError) as error:
                log.warning("hold was not renewed", version=renewal.version, registry=renewal.url, error=str(error))


def _renewals(pin: Pin, choice: RegistryChoice) -> Iterator[HoldRenewal]:
    """Give what a release has to hold; nothing where it is not made yet."""
    try:
        release = msgspec.json.decode(pin.release_file.read_bytes(), type=Release)
    except (OSError, msgspec.DecodeError):
        return
    for url, version in dict.fromkeys((each.directory, each.registered) for each in release.models if each.registered):
        yield HoldRenewal(url, version, choice.trusted_keys, pin.root)


async def _renew(renewal: HoldRenewal) -> None:
    """Have a process renew one hold. Raises RegistryError, or OSError where there can be no process."""
    where = f"{renewal.version} in {renewal.url}"
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    hold_back(process.pid)
    try:
        async with asyncio.timeout(RENEWAL_S_MAX):
            out, errors = await process.communicate(msgspec.json.encode(renewal))
    except TimeoutError:
        raise RegistryError(f"it took over {RENEWAL_S_MAX:.0f} s", where=where, next="see what is slow") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    told_by(out, errors, Renewed, where)
