"""How an arrangement gets better where it stands: cores change places, and spikes travel less.

Cores that do not talk to each other can move at once and the gain of each is exact, whatever the others of them do. So all
three moves here are made of whole sets of such strangers, save the last, which takes one exchange at a time:

- `settle` lays a set of strangers anew among their own places and the free ones, a block of the board at a time, at the least
  cost there is (a linear assignment; as in the detailed placement of circuits);
- `anneal` lets pairs of strangers, or a core and a free place, trade with a probability that falls with what it costs;
- `exchange` makes the best trade of any two cores, or of a core and a free place, until none is left that gains.

`at` holds for each logical core an index into `points`, and is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from neurodeploy.board.mesh import Floats, Integers
from neurodeploy.board.traffic import Crowd, Talk, crowd, strangers

GAIN = 1e-9
"""What counts as a gain, as a share of the spikes of a core: less is rounding."""


def prices(them: Crowd, near: Floats, points: Floats) -> Floats:
    """What each member would pay at each point, where its neighbours stand at `near` (n_members, n_points)."""
    total = np.zeros((them.members.size, len(points)))
    if them.row.size == 0:
        return total
    starts = np.flatnonzero(np.diff(them.row, prepend=-1))
    talkers = them.row[starts]
    for axis in range(points.shape[1]):
        values, index = np.unique(points[:, axis], return_inverse=True)
        paid = np.add.reduceat(them.spikes[:, None] * np.abs(near[:, axis, None] - values), starts, axis=0)
        total[talkers] += paid[:, index.ravel()]
    return total


def free_places(at: Integers, n_places: int) -> Integers:
    """Indices of places where nobody stands."""
    taken = np.zeros(n_places, bool)
    taken[at] = True
    return np.flatnonzero(~taken)


def blocks(points: Floats, size: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Points parted into blocks of at most `size` that lie together, cut differently each time."""
    if len(points) <= size:
        yield np.arange(len(points))
        return
    long, across = rng.permutation(2) if points.shape[1] > 1 else (0, 0)
    spread = np.ptp(points, axis=0) + 1
    n_strips = max(1, round(np.sqrt(len(points) / size * spread[long] / spread[across]) * rng.uniform(0.7, 1.4)))
    order = np.lexsort((rng.random(len(points)), points[:, long]))
    width = -(-len(points) // n_strips)
    for strip in np.split(order, range(int(rng.integers(1, width + 1)), len(order), width)):
        along = strip[np.lexsort((rng.random(strip.size), points[strip, across]))]
        yield from (part for part in np.split(along, range(int(rng.integers(0, size)), along.size, size)) if part.size > 1)


def settle(talk: Talk, at: Integers, points: Floats, members: Integers, size: int, rng: np.random.Generator) -> None:
    """Lay `members`, none of whom talks to another, anew among their places and the free ones, block by block."""
    places = np.concatenate([at[members], free_places(at, len(points))])
    for block in blocks(points[places], size, rng):
        mine, here = block[block < members.size], places[block]
        if mine.size == 0:
            continue
        them = crowd(talk, members[mine])
        _, best = linear_sum_assignment(prices(them, points[at[them.core]], points[here]))
        at[them.members] = here[best]


def partners(points: Floats, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Pairs of points that lie near each other, drawn differently each time; none stands in two pairs."""
    n = len(points)
    long, across = rng.permutation(2) if points.shape[1] > 1 else (0, 0)
    strip = np.floor(points[:, long] / rng.uniform(1, 6) + rng.random())
    order = np.lexsort((points[:, across] + rng.random(n) * 4, strip))
    step = int(rng.integers(1, 4))
    pairs = order[: n // (2 * step) * 2 * step].reshape(-1, 2, step)
    return pairs[:, 0].ravel(), pairs[:, 1].ravel()


def trade(them: Crowd, at: Integers, points: Floats, free: Integers, heat: float, rng: np.random.Generator) -> None:
    """One step of `anneal`: each pair trades if that gains, or costs less than a draw from an exponential of mean `heat`."""
    members = them.members
    places = np.concatenate([at[members], rng.permutation(free)[: members.size]])
    one, two = partners(points[places], rng)
    swap = np.arange(places.size)
    swap[one], swap[two] = two, one
    here, there, near = at[members], places[swap[: members.size]], at[them.core]
    change = np.zeros(them.row.size)
    for axis in range(points.shape[1]):
        line = points[:, axis]
        change += np.abs(line[near] - line[there][them.row]) - np.abs(line[near] - line[here][them.row])
    cost = np.zeros(places.size)
    cost[: members.size] = np.bincount(them.row, them.spikes * change, members.size)
    refused = cost[one] + cost[two] > rng.exponential(heat, one.size)
    swap[one[refused]], swap[two[refused]] = one[refused], two[refused]
    at[members] = places[swap[: members.size]]


def anneal(
    talk: Talk, at: Integers, points: Floats, rounds: int, rng: np.random.Generator, told: Callable[[float], None]
) -> None:
    """Simulated annealing (Kirkpatrick et al. 1983) by trades between strangers, a whole set at a time.

    The heat falls geometrically from most of what a core pays for one hop of all its spikes to a hundredth of it.
    """
    wide = points[:, np.ptp(points, axis=0) > 0]
    if rounds < 1 or talk.core.size == 0 or wide.size == 0:
        return
    draw = strangers(talk, rng)
    crowds = [crowd(talk, next(draw)) for _ in range(int(np.clip(3e7 / talk.core.size, 6, 60)))]
    hop = talk.spikes.sum() / talk.n_cores
    free = free_places(at, len(points))
    for turn in range(rounds):
        trade(crowds[rng.integers(len(crowds))], at, wide, free, hop * 0.8 * 0.0125 ** (turn / rounds), rng)
        if free.size:
            free = free_places(at, len(points))
        if turn % 64 == 0:
            told(turn / rounds)


def exchange(talk: Talk, at: Integers, points: Floats, limit: int) -> None:
    """Make the best trade of any two cores, or of a core and a free place, until none gains, at most `limit` of them.

    Keeps what every core would pay at every place: for some thousand cores at most.
    """
    n, n_places = talk.n_cores, len(points)
    if talk.core.size == 0:
        return
    them = crowd(talk, np.arange(n))
    pays = np.zeros((n_places, n_places))
    pays[:n] = prices(them, points[at[them.core]], points)
    heard = np.zeros((n_places, n_places))
    heard[talk.owner, talk.core] = talk.spikes
    distance = np.abs(points[:, None] - points).sum(-1)
    who = np.concatenate([at, free_places(at, n_places)])
    least = GAIN * talk.spikes.sum() / n * max(distance.max(), 1.0)
    for _ in range(limit):
        moved = pays[:, who] - pays[np.arange(n_places), who][:, None]
        gain = -(moved + moved.T) - 2 * heard * distance[np.ix_(who, who)]
        one, two = divmod(int(gain.argmax()), n_places)
        if gain[one, two] <= least:
            break
        shift = distance[who[two]] - distance[who[one]]
        pays += np.outer(heard[:, one] - heard[:, two], shift)
        who[one], who[two] = who[two], who[one]
    at[:] = who[:n]
