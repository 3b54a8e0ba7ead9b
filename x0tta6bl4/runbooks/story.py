"""Tells the story of an incident as people want to hear it: without what its runbook only says to itself."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.memory import Entry


def called_off(story: Sequence[Entry]) -> list[Entry]:
    """With the abort that a runbook does not speak of told as what it did: it is no event that nobody heard."""
    from x0tta6bl4.runbooks.life import ABORT  # brings the statecharts with it

    told = list(story)
    moves = [number for number, entry in enumerate(told) if entry.kind == "moved"]
    for number, after in pairwise(moves):
        entry, follows = told[number], told[after]
        if entry.data["event"] == ABORT and not entry.data["taken"] and follows.data["event"] == "$close":
            said = entry.text.removesuffix("; nothing listened to it")
            told[number] = replace(entry, text=f"{said}; its runbook is called off")
    return told


def calm(story: Sequence[Entry]) -> list[Entry]:
    """Without what a runbook only says to itself: which rung comes next, looks that led nowhere, and that it waits
    where it is said to have come to."""
    told: list[Entry] = []
    states: object = None
    for entry in story:
        if entry.kind == "moved":
            event, before, states = str(entry.data["event"]), states, entry.data["states"]
            is_choice = event.startswith(("done.act.", "failed.act.")) and event.endswith(".next")
            if is_choice or (event == "$seen" and states == before) or (event == "$close" and entry.data["taken"]):
                continue
        elif entry.kind == "decided" and entry.data["check"] == "runbook":
            continue
        told.append(entry)
    return told


def well_at(incident: Incident, verified: Iterable[float]) -> float:
    """When it was over: a heal counts from the moment at which the signs came back, though the incident stays open
    while they are held to it. ``verified``: those moments, of all of its bouts."""
    onset = incident.onset_at or incident.opened_at
    ended = incident.closed_at if incident.closed_at is not None else incident.updated_at
    return max([at for at in verified if onset <= at <= ended], default=ended)
