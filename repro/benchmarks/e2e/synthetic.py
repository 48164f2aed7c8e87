"""Meaning representations and references without any data: the E2E slots' vocabulary and a small grammar.

It replaces the E2E set where neither files nor a network are available. The sentences are far more regular
than people's, so scores are high, and comparable only with each other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from repro.benchmarks.e2e.records import Row

_NAMES = (
    "Alimentum", "Aromi", "Bibimbap House", "Blue Spice", "Browns Cambridge", "Clowns", "Cocum", "Cotto",
    "Fitzbillies", "Giraffe", "Green Man", "Loch Fyne", "Midsummer House", "Strada", "The Cricketers",
    "The Eagle", "The Golden Curry", "The Mill", "The Olive Grove", "The Phoenix", "The Punter",
    "The Rice Boat", "The Vaults", "The Waterman", "Travellers Rest", "Wildwood", "Zizzi",
)  # fmt: skip
_VALUES: dict[str, tuple[str, ...]] = {
    "eatType": ("pub", "restaurant", "coffee shop"),
    "food": ("Chinese", "English", "Fast food", "French", "Indian", "Italian", "Japanese"),
    "priceRange": ("cheap", "moderate", "high", "less than £20", "£20-25", "more than £30"),
    "customer rating": ("low", "average", "high", "1 out of 5", "3 out of 5", "5 out of 5"),
    "area": ("city centre", "riverside"),
    "familyFriendly": ("yes", "no"),
    "near": ("Burger King", "Café Adriatic", "Café Rouge", "Crowne Plaza Hotel", "Raja Indian Cuisine",
             "The Bakers", "The Sorrento", "Yippee Noodle Bar"),
}  # fmt: skip

# Representations of each split; the splits are disjoint.
_SIZES = {"train": 1000, "validation": 100, "test": 200}
_REFERENCES = {"train": 4, "validation": 5, "test": 5}


def synthetic_rows(split: str) -> list[Row]:
    """(slots, reference) of every sentence of a split, the same in every process."""
    generator = random.Random("e2e")
    meanings: dict[tuple[tuple[str, str], ...], None] = {}
    while len(meanings) < sum(_SIZES.values()):
        meanings[_meaning(generator)] = None
    names = list(_SIZES)
    first = sum(_SIZES[name] for name in names[: names.index(split)])
    chosen = list(meanings)[first : first + _SIZES[split]]
    return [(slots, text) for slots in chosen for text in _references(slots, _REFERENCES[split])]


def _meaning(generator: random.Random) -> tuple[tuple[str, str], ...]:
    """A name, what it is, and two to five more slots, in the official order."""
    name = generator.choice(_NAMES)
    used = {"eatType", *generator.sample(list(_VALUES)[1:], generator.randint(2, 5))}
    others = [(slot, generator.choice(values)) for slot, values in _VALUES.items() if slot in used]
    return (("name", name), *others)


def _references(slots: tuple[tuple[str, str], ...], count: int) -> list[str]:
    """`count` different sentences for a meaning."""
    generator = random.Random(repr(slots))
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[_text(dict(slots), generator)] = None
    return list(texts)


# What may be said of a slot; where the value decides, by the value.
_OPENINGS = ("{name} is a {kind}", "There is a {kind} called {name}", "{name} is the name of a {kind}")
_FOOD = ("that serves {} food", "offering {} food", "where one can eat {} food")
_AREA = {
    "city centre": ("in the city centre", "in the centre of the city"),
    "riverside": ("by the river", "in the riverside area"),
}
_NEAR = ("near {}", "close to {}", "not far from {}")
_RATING = ("has a customer rating of {}", "is rated {} by its customers")
_PRICE = ("has a price range of {}", "asks prices in the range of {}")
_FAMILIES = {
    "yes": ("is family friendly", "welcomes families", "is a good place for children"),
    "no": ("is not family friendly", "is for adults only", "is no place for children"),
}


def _text(slots: dict[str, str], generator: random.Random) -> str:
    """One or two sentences: what and where the place is, then the rest in a random order."""
    pick = generator.choice
    kind = slots["eatType"]
    first = [pick(_OPENINGS).format(name=slots["name"], kind=kind)]
    if "food" in slots:
        food = slots["food"]
        first.append(pick(_FOOD).format("fast" if food == "Fast food" else food))
    places = []
    if "area" in slots:
        places.append(pick(_AREA[slots["area"]]))
    if "near" in slots:
        places.append(pick(_NEAR).format(slots["near"]))
    generator.shuffle(places)
    rest = []
    if "customer rating" in slots:
        rest.append(pick(_RATING).format(slots["customer rating"]))
    if "priceRange" in slots:
        rest.append(pick(_PRICE).format(slots["priceRange"]))
    if "familyFriendly" in slots:
        rest.append(pick(_FAMILIES[slots["familyFriendly"]]))
    generator.shuffle(rest)
    opening = " ".join([*first, *places])
    if not rest:
        return f"{opening}."
    return f"{opening}. {pick(['It', 'The place', f'This {kind}'])} {_listed(rest)}."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
