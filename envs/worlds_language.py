"""The language of `Worlds-v0`: kinds of things, relations between them, and how these are written and asked.

In sentences ``{s}`` is the subject, ``{v}`` the value; in questions ``{x}`` and ``{y}`` are things. No two relations
share a sentence, so that `testbed.envs.worlds_prose.facts_in` reads back what a document states.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

KINDS = ("person", "place", "work", "organisation", "event")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
NOTE = "note"  # a document that states no fact which is ever asked for


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact: what a thing has at most one of.

    Attributes:
        of: kind of the things that have it.
        key: its name; relations of different kinds share one only if they mean the same.
        questions: ways to ask for it.
        sentences: ways to state it.
        noun: what chains of relations call it, "the NOUN of X"; empty for values that lead nowhere.
        target: kind of its values; empty for dates, years and numbers.
        form: "date", "year" or "number" where there is no target.
        low: least value, of dates the ordinal.
        high: greatest value.
        most: ways to ask which of two things has the greater value.
        least: ways to ask which has the smaller one.
        count: how to ask for the number of things that have a certain target; empty if this is not asked.
    """

    of: str
    key: str
    questions: tuple[str, ...]
    sentences: tuple[str, ...]
    noun: str = ""
    target: str = ""
    form: str = ""
    low: int = 0
    high: int = 0
    most: str = ""
    least: str = ""
    count: str = ""

    def text(self, value: int) -> str:
        """A date, year or number as documents and answers write it."""
        if self.form == "date":
            day = date.fromordinal(value)
            return f"{day.day} {MONTHS[day.month - 1]} {day.year}"
        return str(value) if self.form == "year" else f"{value:,}"


def _days(first: int, last: int) -> tuple[int, int]:
    return date(first, 1, 1).toordinal(), date(last, 12, 31).toordinal()


# People are born before the works and events of their time, organisations founded before them, places long before.
_BIRTHS, _TIMES = _days(1750, 1779), _days(1800, 1829)

PERSON = (
    Relation(
        "person",
        "birthplace",
        ("Where was {x} born?", "In which town was {x} born?"),
        ("{s} was born in {v}.", "{s} came into the world in {v}.", "The birthplace of {s} is {v}."),
        "birthplace",
        "place",
        count="How many of the people on record were born in {x}?",
    ),
    Relation(
        "person",
        "employer",
        ("Who employed {x}?", "Which organisation was the employer of {x}?"),
        ("{s} earned a living with {v}.", "{s} was employed by {v}.", "For many years {v} paid the wages of {s}."),
        "employer",
        "organisation",
        count="How many of the people on record had {x} as their employer?",
    ),
    Relation(
        "person",
        "patron",
        ("Who was the patron of {x}?", "Who supported {x} as a patron?"),
        ("{s} found a patron in {v}.", "The patron of {s} was {v}.", "{s} owed much to the purse of {v}, a patron."),
        "patron",
        "person",
    ),
    Relation(
        "person",
        "birth",
        ("When was {x} born?", "On which day was {x} born?"),
        (
            "{s} was born on {v}.",
            "The parish book gives {v} as the birthday of {s}.",
            "The cradle of {s} dates to {v}.",
        ),
        form="date",
        low=_BIRTHS[0],
        high=_BIRTHS[1],
        most="Who was born later, {x} or {y}?",
        least="Who was born earlier, {x} or {y}?",
    ),
)
PLACE = (
    Relation(
        "place",
        "mayor",
        ("Who was the mayor of {x}?", "Who held the office of mayor in {x}?"),
        ("The mayor of {s} was {v}.", "{s} had {v} as its mayor.", "{v} sat in the mayor's chair of {s}."),
        "mayor",
        "person",
    ),
    Relation(
        "place",
        "court town",
        ("In which town are lawsuits from {x} heard?", "Which town is the court town of {x}?"),
        ("Lawsuits from {s} are heard in {v}.", "The court town of {s} is {v}.", "{s} takes its quarrels to {v}."),
        "court town",
        "place",
    ),
    Relation(
        "place",
        "population",
        ("How many inhabitants does {x} have?", "What is the population of {x}?"),
        ("{s} has {v} inhabitants.", "The census counted {v} people in {s}.", "{v} people live in {s}."),
        form="number",
        low=1_000,
        high=99_999,
        most="Which has more inhabitants, {x} or {y}?",
        least="Which has fewer inhabitants, {x} or {y}?",
    ),
    Relation(
        "place",
        "founded",
        ("In which year was {x} founded?", "When was {x} founded?"),
        ("{s} was founded in {v}.", "The first stone of {s} was laid in {v}.", "The founding year of {s} is {v}."),
        form="year",
        low=1_000,
        high=1_599,
        most="Which was founded later, {x} or {y}?",
        least="Which was founded earlier, {x} or {y}?",
    ),
)
WORK = (
    Relation(
        "work",
        "creator",
        ("Who created {x}?", "By whom is {x}?"),
        ("{s} is by {v}.", "{s} is from the hand of {v}.", "The creator of {s} was {v}."),
        "creator",
        "person",
        count="How many of the works on record are by {x}?",
    ),
    Relation(
        "work",
        "setting",
        ("In which town is {x} set?", "Where is {x} set?"),
        ("{s} is set in {v}.", "The scene of {s} is {v}.", "{s} takes its audience to {v}."),
        "setting",
        "place",
    ),
    Relation(
        "work",
        "completed",
        ("When was {x} completed?", "On which day was {x} finished?"),
        ("{s} was completed on {v}.", "The last stroke of {s} is dated {v}.", "{s} was finished on {v}."),
        form="date",
        low=_TIMES[0],
        high=_TIMES[1],
        most="Which was completed later, {x} or {y}?",
        least="Which was completed earlier, {x} or {y}?",
    ),
    Relation(
        "work",
        "catalogue",
        ("What is the catalogue number of {x}?", "Under which number is {x} catalogued?"),
        (
            "{s} bears the catalogue number {v}.",
            "Catalogues list {s} as number {v}.",
            "{s} is number {v} in the lists.",
        ),
        form="number",
        low=10_000,
        high=99_999,
    ),
)
ORGANISATION = (
    Relation(
        "organisation",
        "seat",
        ("Where did {x} have its seat?", "In which town was {x} based?"),
        ("{s} had its seat in {v}.", "{s} was based in {v}.", "The doors of {s} opened onto a square in {v}."),
        "seat",
        "place",
        count="How many of the organisations on record had their seat in {x}?",
    ),
    Relation(
        "organisation",
        "director",
        ("Who was the director of {x}?", "Who directed {x}?"),
        ("{s} was directed by {v}.", "The director of {s} was {v}.", "{v} held the keys of {s} as its director."),
        "director",
        "person",
    ),
    Relation(
        "organisation",
        "members",
        ("How many members did {x} have?", "What was the number of members of {x}?"),
        ("{s} had {v} members.", "The rolls of {s} list {v} members.", "Membership of {s} stood at {v}."),
        form="number",
        low=100,
        high=9_999,
        most="Which had more members, {x} or {y}?",
        least="Which had fewer members, {x} or {y}?",
    ),
    Relation(
        "organisation",
        "founded",
        ("In which year was {x} founded?", "When was {x} founded?"),
        ("{s} dates back to {v}.", "{s} received its charter in {v}.", "The seal of {s} shows {v}, its first year."),
        form="year",
        low=1_600,
        high=1_749,
        most="Which was founded later, {x} or {y}?",
        least="Which was founded earlier, {x} or {y}?",
    ),
)
EVENT = (
    Relation(
        "event",
        "venue",
        ("Where did {x} take place?", "In which town did {x} take place?"),
        ("{s} took place in {v}.", "{s} was held in {v}.", "{v} was the scene of {s}."),
        "venue",
        "place",
        count="How many of the events on record took place in {x}?",
    ),
    Relation(
        "event",
        "organiser",
        ("Who organised {x}?", "Which organisation was behind {x}?"),
        ("{s} was organised by {v}.", "The organiser of {s} was {v}.", "{v} had prepared {s} for months."),
        "organiser",
        "organisation",
    ),
    Relation(
        "event",
        "guest",
        ("Who was the guest of honour at {x}?", "Who attended {x} as the guest of honour?"),
        ("The guest of honour at {s} was {v}.", "{s} welcomed {v} as its guest of honour."),
        "guest of honour",
        "person",
    ),
    Relation(
        "event",
        "date",
        ("When did {x} take place?", "On which day did {x} take place?"),
        ("{s} took place on {v}.", "{s} was held on {v}.", "The almanac puts {s} on {v}."),
        form="date",
        low=_TIMES[0],
        high=_TIMES[1],
        most="Which took place later, {x} or {y}?",
        least="Which took place earlier, {x} or {y}?",
    ),
    Relation(
        "event",
        "attendance",
        ("How many people attended {x}?", "What was the attendance of {x}?"),
        ("{s} drew {v} people.", "{v} people attended {s}.", "The doorkeepers counted {v} guests at {s}."),
        form="number",
        low=100,
        high=99_999,
        most="Which drew more people, {x} or {y}?",
        least="Which drew fewer people, {x} or {y}?",
    ),
)
RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": PERSON,
    "place": PLACE,
    "work": WORK,
    "organisation": ORGANISATION,
    "event": EVENT,
    NOTE: (),
}
