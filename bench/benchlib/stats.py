"""Medians, ratios and what is held against a floor. Pure functions; nothing is measured here."""

import statistics

GIB = 1 << 30
MIB = 1 << 20


def median(values):
    return statistics.median(values)


def ratio(ours, theirs):
    """Compare two equally long lists, one value a round, paired by round.

    The figure is the ratio of the medians; the spread is that of the ratios of each round (least,
    quartiles, greatest), so that what moves both sides alike does not widen it.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"cannot pair {len(ours)} rounds with {len(theirs)}")
    per_round = [a / b for a, b in zip(ours, theirs)]
    return {"value": median(ours) / median(theirs), **spread(per_round)}


def spread(values):
    """min, q1, q3 and max; the quartiles include the ends (they are the ends for one value)."""
    if len(values) < 2:
        q1 = q3 = values[0]
    else:
        q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"min": min(values), "q1": q1, "q3": q3, "max": max(values)}


def check(what, figure, floor=None, ceiling=None, unit="x"):
    """A figure beside what it must reach. figure: a dict with value, min and max.

    ok is None where nothing is asked, which makes the line information only.
    """
    ok = None
    if floor is not None:
        ok = figure["value"] >= floor
    if ceiling is not None:
        ok = ok is not False and figure["value"] <= ceiling
    return {"what": what, "unit": unit, "floor": floor, "ceiling": ceiling, "ok": ok, **figure}


def total_ratio(numerators, denominators):
    """Sum over sum, with the spread of the rounds. For costs that come in bursts (a checkpoint every
    so many bytes), which a median of rounds would leave out."""
    per_round = [a / b for a, b in zip(numerators, denominators)]
    return {"value": sum(numerators) / sum(denominators), **spread(per_round)}


def relative_cost(ours, theirs):
    """How much more an operation costs us: each a list with (cost, operations) of every round. Costs
    that are zero on both sides are equal; one that only we have is infinite."""
    def each(a, b):
        mine, other = a[0] / a[1], b[0] / b[1]
        return mine / other if other else 1.0 if not mine else float("inf")

    def total(rounds):
        return sum(r[0] for r in rounds), sum(r[1] for r in rounds)

    if not ours or len(ours) != len(theirs):
        raise ValueError(f"cannot pair {len(ours)} rounds with {len(theirs)}")
    return {"value": each(total(ours), total(theirs)), **spread([each(a, b) for a, b in zip(ours, theirs)])}


def percentile(values, percent):
    """The least value that so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]


def rate(samples, begin, end):
    """Events per second between two times, of samples (time, events so far) in order of time: between
    the first sample at begin or later and the last at end or earlier. None: fewer than two of them."""
    inside = [s for s in samples if begin <= s[0] <= end]
    if len(inside) < 2:
        return None
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def human_bytes(n):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if n >= 100 or unit == "B" else f"{n:.2f} {unit}"
        n /= 1024


def parse_size(text):
    """'64M' -> bytes. Suffixes K M G T, powers of 1024."""
    factor = {"K": 1 << 10, "M": MIB, "G": GIB, "T": 1 << 40}.get(text[-1:].upper())
    return int(float(text[:-1]) * factor) if factor else int(text)
