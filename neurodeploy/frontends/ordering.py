"""In which order populations answer: each after those that it hears. Loops through several are refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from neurodeploy.errors import ExtractError

Hears = Mapping[str, Mapping[str, int]]
"""Of each population those that it hears, and the steps of delay by which it does; of several ways the fewest."""


def in_order(hears: Hears, where: Mapping[str, str]) -> list[str]:
    """The names, each behind those that it hears, but for itself; otherwise as they stand.

    Parameters
    ----------
    hears : mapping of name to (mapping of name to int)
    where : mapping of name to str
        What errors call a population.

    Raises
    ------
    ExtractError
        Populations hear each other in a loop. On the chip it takes a step a synapse, so it would have to be delayed by as
        many; and layers hear only what is before them, or themselves.
    """
    waiting, done = list(hears), set[str]()
    order: list[str] = []
    while waiting:
        ready = next((name for name in waiting if all(s in done or s == name for s in hears[name])), None)
        if ready is None:
            raise _refused(_loop({name: hears[name] for name in waiting}), hears, where)
        waiting.remove(ready)
        done.add(ready)
        order.append(ready)
    return order


def _loop(waiting: Hears) -> list[str]:
    """One after another the names of a loop, as spikes go round it, from its first in the order of `waiting`."""
    name, way = next(iter(waiting)), list[str]()
    while name not in way:
        way.append(name)
        name = next(source for source in waiting[name] if source in waiting and source != name)
    loop = way[way.index(name) :][::-1]
    k = loop.index(min(loop, key=list(waiting).index))
    return loop[k:] + loop[:k]


def _refused(loop: list[str], hears: Hears, where: Mapping[str, str]) -> ExtractError:
    n = len(loop)
    delay = sum(hears[loop[(k + 1) % n]][name] for k, name in enumerate(loop))
    way = " -> ".join(repr(name) for name in [*loop, loop[0]])
    return ExtractError(
        where[loop[0]], f"is in a loop, {way}, which takes {n} steps on the chip, one a synapse, and has a delay of {delay}",
        source="a network's layers hear the input, layers before them and themselves",
        remedy=f"Make one population of them that hears itself a step later, so that its spikes go round in {n} steps, and "
        "train with that; or feed back to one population only.",
    )  # fmt: skip
