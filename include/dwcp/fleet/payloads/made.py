"""The fleet's own objects: how many of which kind, how large, how dirty, by the mix."""

from __future__ import annotations

import math
import random
from functools import partial
from statistics import NormalDist
from typing import Any

from dwcp.fleet.mix import Mix
from dwcp.fleet.payloads import containers, databases, disks, logs, media, messages, other, processes
from dwcp.fleet.payloads.objects import Maker, PayloadObject, Spec

MAKERS: dict[str, dict[str, Maker]] = {
    "vm_memory": processes.KINDS,
    "vm_disk": disks.KINDS,
    "database": databases.KINDS,
    "container": containers.KINDS,
    "logs": logs.KINDS,
    "media": media.KINDS,
    "metadata": messages.KINDS,
    "other": other.KINDS,
}
"""How objects of each data type are made, by kind."""

_STEPS = (0.754_877_666_246_693, 0.569_840_290_998_053)
"""Multiples of these, modulo one, fill the square evenly (the R2 sequence: powers of the plastic number's inverse)."""


def made_objects(mix: Mix, count: int, versions: int, seed: int) -> list[PayloadObject]:
    """``count`` objects in the mix's shares, of at most ``versions`` versions.

    Object n is the same whatever ``count`` is. Types, kinds and the large tail follow a low-discrepancy sequence in
    place of chance, so that the mix's shares hold for few objects too.
    """
    objects = []
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")  # noqa: S311
        name, place = _type_at(mix, (0.5 + number * _STEPS[0]) % 1.0)
        entry = mix.types[name]
        kinds = list(MAKERS[name])
        kind = kinds[int((0.5 + number * _STEPS[1]) % 1.0 * len(kinds))]
        size = _size(entry, place, rng)
        dirty = math.exp(rng.uniform(math.log(entry["min_dirty"]), math.log(entry["max_dirty"])))
        spec = Spec(kind, size, dirty, min(versions, mix.versions_of(size)), seed=rng.randrange(2**31))
        objects.append(PayloadObject(f"{name}-{number:05d}", name, kind, partial(MAKERS[name][kind], spec)))
    return objects


def _type_at(mix: Mix, place: float) -> tuple[str, float]:
    """The type whose share of [0, 1) holds ``place``, and where in it: evenly spread over [0, 1) itself."""
    begin = 0.0
    for name, entry in mix.types.items():
        if place < begin + entry["share"]:
            return name, (place - begin) / entry["share"]
        begin += entry["share"]
    return name, 1.0  # the shares' sum, rounded, ends just below one


def _size(entry: dict[str, Any], place: float, rng: random.Random) -> int:
    """Bytes: log-uniform for the share of the tail, else lognormal between the type's least and most."""
    chance = rng.random()
    if place < entry.get("tail_share", 0.0):
        low, high = math.log(entry["tail_min_bytes"]), math.log(entry["tail_max_bytes"])
        return int(math.exp(low + chance * (high - low)))
    body = NormalDist(math.log(entry["median_bytes"]), entry["sigma"])
    low, high = body.cdf(math.log(entry["min_bytes"])), body.cdf(math.log(entry["max_bytes"]))
    return round(math.exp(body.inv_cdf(low + max(chance, 1e-9) * (high - low))))
