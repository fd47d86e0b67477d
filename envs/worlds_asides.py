"""What documents of `Worlds-v0` say besides facts: introductions, and asides that name others.

{n} is the thing as introduced, {d} what it is, {s} the thing; other fields are names of other things, which make a
search by words less easy. An aside states nothing that is ever asked for.
"""

from __future__ import annotations

from testbed.envs.worlds_language import NOTE

INTRODUCTIONS: dict[str, tuple[str, ...]] = {
    "person": (
        "{n} was a {d}.",
        "Few who worked as a {d} equalled {n}.",
        "Many letters mention {n}, a {d}.",
    ),
    "place": ("{n} is a {d}.", "Travellers know {n} as a {d}.", "On every map of the coast stands {n}, a {d}."),
    "work": ("{n} is a {d}.", "Collectors prize {n}, a {d}.", "Better known abroad than at home, {n} is a {d}."),
    "organisation": ("{n} was a {d}.", "Old ledgers speak of {n}, a {d}.", "Respected far and wide, {n} was a {d}."),
    "event": ("{n} was a {d}.", "Newspapers wrote at length about {n}, a {d}.", "People long spoke of {n}, a {d}."),
}
DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "person": (
        *("baker", "clockmaker", "painter", "poet", "botanist"),
        *("surveyor", "printer", "composer", "cartographer", "physician"),
    ),
    "place": ("harbour town", "mining town", "market town", "river town", "hill town", "spa town"),
    "work": ("novel", "painting", "opera", "ballad", "tapestry", "symphony", "play", "fresco"),
    "organisation": ("learned society", "trading house", "school of crafts", "charitable trust", "company of players"),
    "event": ("public gathering", "festive occasion", "matter of some debate", "solemn ceremony"),
}
PRONOUNS: dict[str, tuple[str, ...]] = {
    "place": ("the town", "this town"),
    "work": ("the work", "it"),
    "organisation": ("the house", "it"),
    "event": ("the occasion", "it"),
}
ASIDES: dict[str, tuple[str, ...]] = {
    "person": (
        "{s} should not be confused with {namesake}.",
        "Letters to {person} show {s} in a good temper.",
        "{s} travelled to {place} more than once.",
        "A portrait of {s} hangs in {place}.",
        "{s} is said to have disliked {work}.",
    ),
    "place": (
        "{s} is often mistaken for {namesake}.",
        "A road leads from {s} to {place}.",
        "{person} once spent a winter in {s}.",
        "On feast days {s} hears the choir of {organisation}.",
        "The inn of {s} has a print of {work} on its wall.",
    ),
    "work": (
        "Some lists confuse {s} with {namesake}.",
        "A copy of {s} was long kept by {organisation}.",
        "{person} is known to have admired {s}.",
        "A fire in {place} almost destroyed {s}.",
    ),
    "organisation": (
        "{s} once quarrelled with {namesake}.",
        "{person} left {s} a small legacy.",
        "{s} bought timber from {place}.",
        "A hall of {s} displayed {work}.",
    ),
    "event": (
        "Chronicles sometimes mix up {s} and {namesake}.",
        "{person} had declined to attend {s}.",
        "The rain that spoilt {s} came from the hills behind {place}.",
        "A scene from {work} was read aloud at {s}.",
    ),
    NOTE: (
        "The coach from {place} arrived late, and {person} complained.",
        "{organisation} sent a parcel of books to {place}.",
        "There was much talk of {event}, but little news.",
        "{person} hummed a tune that might have been {work}.",
        "Prices in {place} are higher than last year.",
        "A notice of {organisation} was nailed to the door.",
        "{person} and {person2} were seen walking by the river.",
        "Somebody asked for the way from {place} to {place2}.",
    ),
}
OPENINGS = (
    "From the notebook of a traveller.",
    "A page torn out of a diary.",
    "Gossip of the week, as told at the inn.",
    "Loose notes, without a date.",
)
