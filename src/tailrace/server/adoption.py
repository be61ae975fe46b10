"""Who accepts on a slot's socket while the slot has no ready worker: a sibling adopts it, and hands it back later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tailrace.server.child import Child
from tailrace.server.control import HandBack, Listen
from tailrace.server.process import ChildProcess


class Adopter(NamedTuple):
    """The worker process that accepts for another slot, and its own slot."""

    slot: int
    process: ChildProcess


class Adoption:
    """Has every socket that listens accepted on, as long as any worker is ready."""

    def __init__(self, children: Iterable[Child]) -> None:
        self._workers = [(child.slot, child) for child in children if child.slot is not None]
        self._adopters: dict[int, Adopter] = {}

    def cover(self) -> None:
        """Have a ready sibling accept for every slot that has listened and has no ready worker now."""
        ready = [
            Adopter(slot.index, child.process)
            for slot, child in self._workers
            if child.process is not None and child.process.state == "ready"
        ]
        served = {adopter.slot for adopter in ready}
        listening = {slot.index: slot for slot, child in self._workers if child.was_ready}
        for index in sorted(listening.keys() - served):
            adopter = self._adopters.get(index)
            if adopter is not None and adopter.process.state == "ready":
                continue
            self._adopters.pop(index, None)
            if ready:
                adopter = ready[index % len(ready)]
                if adopter.process.send(Listen(index), listening[index].listener.fileno()):
                    self._adopters[index] = adopter

    def hand_back(self, slot: int) -> None:
        """Have the adopter of a slot, if there is one, leave it to the slot's own worker."""
        adopter = self._adopters.pop(slot, None)
        if adopter is not None:
            adopter.process.send(HandBack(slot))

    def adopter_of(self, slot: int) -> int | None:
        """Return the slot of the worker that accepts for this one."""
        adopter = self._adopters.get(slot)
        return adopter.slot if adopter is not None else None
