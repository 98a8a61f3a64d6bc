"""What was found, as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS
from dwcp.fleet.link import NAMESPACES
from dwcp.fleet.reality.found import Floats, Measured, Reality, Sent, excess_ms, predicted_ms
from dwcp.oracle import best_choice

SMALL_BYTES = 64 * 1024


def render(reality: Reality) -> str:
    """The tables, in Markdown."""
    sizes = np.array([len(one.payload) for one in reality.sent])
    how = (
        "network namespaces, a TUN device in each, packets carried in user space; the kernel's TCP end to end"
        if reality.way == NAMESPACES
        else "a TCP relay on loopback (no namespaces here): TCP ends at the relay, so slow start is not on the path"
    )
    kept = "new connections for every transfer" if reality.fresh else "connections kept open"
    lines = [
        f"{len(sizes)} payloads of {len({one.object_id for one in reality.sent})} objects, {sizes.sum() / 1e6:.0f} MB, "
        f"median {np.median(sizes) / 1e3:.0f} kB, largest {sizes.max() / 1e6:.1f} MB; {reality.cores} cores.",
        f"Links: {how}; {kept}; {reality.links[0].congestion}.",
        "",
        "| link | set | goodput | round trip | sent again |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.link.name} | {one.link.rate_mbps:g} Mbit/s, {one.link.rtt_ms:g} ms | {one.bandwidth_mbps:.0f} Mbit/s "
        f"| {one.rtt_ms:.2f} ms | {one.loss:.2%} |"
        for one in reality.links
    ]
    lines += [
        "",
        f"| link | algorithm | measured ÷ predicted p10 | p50 | p90 | p50 under {SMALL_BYTES >> 10} KiB | p50 above | "
        "p50 with half a round trip added | excess, p50: compression | transfer | decompression |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in reality.links:
        measured, predicted = one.total_ms.min(axis=2), predicted_ms(reality.sent, one)
        excess = np.median(excess_ms(reality.sent, one), axis=0)
        for place, algorithm in enumerate(ALGORITHMS):
            ratio = measured[:, place] / predicted[:, place]
            with_delay = measured[:, place] / (predicted[:, place] + one.rtt_ms / 2)
            cells = [
                *(one.link.name, algorithm, *(f"{value:.2f}" for value in np.quantile(ratio, (0.1, 0.5, 0.9)))),
                *(_median(ratio[sizes < SMALL_BYTES]), _median(ratio[sizes >= SMALL_BYTES]), _median(with_delay)),
                *(f"{value:+.2f} ms" for value in excess[place]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| link | predicted optimum is the measured one | outside 1 % ties | two measurements agree | "
        "mean regret of the prediction | p95 | of always zstd | under / above "
        f"{SMALL_BYTES >> 10} KiB agree |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_agreement(reality.sent, one, sizes) for one in reality.links]
    lines += [
        "",
        "| AMST threads | payloads | compression, wall ÷ plan p10 | p50 | p90 | decompression p10 | p50 | p90 |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for plan in reality.plans:
        quantiles = [*np.quantile(plan.compression, (0.1, 0.5, 0.9)), *np.quantile(plan.decompression, (0.1, 0.5, 0.9))]
        cells = [str(plan.streams), str(len(plan.compression)), *(f"{value:.2f}" for value in quantiles)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _agreement(sent: Sequence[Sent], one: Measured, sizes: NDArray[np.int64]) -> str:
    measured, predicted = one.total_ms.min(axis=2), predicted_ms(sent, one)
    rows = np.arange(len(sent))
    choice, _ = best_choice(predicted)
    best, margin_ms = best_choice(measured)
    least = measured[rows, best]
    regret = measured[rows, choice] / least - 1
    right, clear = choice == best, margin_ms > 0.01 * least
    repeats = one.total_ms.shape[2]
    again = "–"
    if repeats > 1:
        first, second = best_choice(one.total_ms[:, :, 0])[0], best_choice(one.total_ms[:, :, 1])[0]
        again = f"{(first == second).mean():.1%}"
    zstd = measured[:, ALGORITHMS.index("zstd")].sum() / measured[rows, choice].sum() - 1
    small = sizes < SMALL_BYTES
    cells = [
        *(one.link.name, f"{right.mean():.1%}", f"{right[clear].mean():.1%}" if clear.any() else "–", again),
        *(f"{regret.mean():.2%}", f"{np.quantile(regret, 0.95):.2%}", f"{zstd:+.1%}"),
        " / ".join(f"{right[part].mean():.1%}" if part.any() else "–" for part in (small, ~small)),
    ]
    return f"| {' | '.join(cells)} |"


def _median(values: Floats) -> str:
    return f"{np.median(values):.2f}" if len(values) else "–"
