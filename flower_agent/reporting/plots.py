"""Line plots of metrics by round as SVG, drawn here so that a page needs no script. Pure.

Values come from apps: they may be of any size, missing, or very many.
"""

import dataclasses
import html
import math
from collections.abc import Iterator, Sequence

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 32
POINTS = 600
"""Points of a line; of more rounds the lowest and the highest value of each piece stay."""

DOTS = 60
"""Up to as many points are marked each."""

TICKS = 5
MARKS = ("circle", "square", "triangle")

Point = tuple[int, float | None]
"""A round and its value; None is a gap."""


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot."""

    name: str
    points: tuple[Point, ...]

    @property
    def measured(self) -> tuple[tuple[int, float], ...]:
        """Return the points that have a value."""
        return tuple((number, value) for number, value in self.points if value is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Plot:
    """The values of one metric, by round."""

    title: str
    series: tuple[Series, ...]

    @property
    def values(self) -> list[float]:
        """Return all values."""
        return [value for each in self.series for _, value in each.measured]


def svg(plot: Plot, name: str) -> str:
    """Return the plot; `name` is the beginning of its ids in the page."""
    title, text = html.escape(plot.title), html.escape(described(plot))
    x, y = _scales(plot)
    rows = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}t {name}d">',
        f'<title id="{name}t">{title} by round</title><desc id="{name}d">{text}</desc>',
        *_grid(x, y),
    ]
    for number, each in enumerate(plot.series[: len(MARKS)]):
        rows += [f'<g class="s{number}">', *_line(each, MARKS[number], x, y), "</g>"]
    return "\n".join((*rows, "</svg>"))


def described(plot: Plot) -> str:
    """Return in words what the plot shows, for those who do not see it."""
    said = []
    for each in plot.series:
        points = each.measured
        if not points:
            continue
        (first, begin), (last, end) = points[0], points[-1]
        if first == last:
            said.append(f"{each.name}: {number(begin)} in round {first}")
            continue
        low, high = min(points, key=_value), max(points, key=_value)
        said.append(
            f"{each.name}: {number(begin)} in round {first}, {number(end)} in round {last}; "
            f"lowest {number(low[1])} in round {low[0]}, "
            f"highest {number(high[1])} in round {high[0]}"
        )
    return ". ".join(said) or "no values"


def number(value: float) -> str:
    """Return a value for a person."""
    return f"{value + 0.0:.4g}"  # never -0


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """Turns values into places."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value; halves, so that the span of two doubles is one."""
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return self.begin + share * (self.end - self.begin)


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Return round values between two."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return (low, high)
    raw = span / TICKS
    if raw <= 0:  # two neighbors among the smallest numbers
        return (low, high)
    unit = 10.0 ** math.floor(math.log10(raw))
    if unit == 0 or not math.isfinite(unit):
        return (low, high)
    step = next((n * unit for n in (1, 2, 5) if n * unit >= raw), 10 * unit)
    first = math.ceil(low / step)
    found = tuple((first + n) * step for n in range(2 * TICKS) if (first + n) * step <= high)
    return found if len(set(map(number, found))) == len(found) > 1 else (low, high)


def thinned(points: Sequence[Point], most: int = POINTS) -> tuple[Point, ...]:
    """Return at most about `most` points with the first, the last and every peak."""
    if len(points) <= most:
        return tuple(points)
    kept: list[Point] = [points[0]]
    size = math.ceil(len(points) / (most // 2))
    for begin in range(0, len(points), size):
        piece = points[begin : begin + size]
        measured = [(n, v) for n, v in piece if v is not None]
        if not measured:
            kept.append(piece[0])
            continue
        kept += sorted({min(measured, key=_value), max(measured, key=_value)})
    kept.append(points[-1])
    return tuple(kept)


def _scales(plot: Plot) -> tuple[Scale, Scale]:
    rounds = [n for each in plot.series for n, _ in each.points] or [0]
    low, high = min(rounds), max(rounds)
    if low == high:
        low, high = low - 1, high + 1
    x = Scale(float(low), float(high), LEFT, WIDTH - RIGHT)
    values = plot.values or [0.0]
    least, most = min(values), max(values)
    if not most / 2 > least / 2:
        room = abs(most) / 10 or 1.0
        least, most = max(least - room, -_LARGEST), min(most + room, _LARGEST)
    return x, Scale(least, most, HEIGHT - BOTTOM, TOP)


_LARGEST = 1.7e308


def _grid(x: Scale, y: Scale) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in ticks(y.low, y.high):
        at = _place(y.at(value))
        yield f'<path class="grid" d="M{LEFT} {at}H{right}"/>'
        yield f'<text x="{LEFT - 6}" y="{at}" dy="4" text-anchor="end">{number(value)}</text>'
    whole = sorted({round(value) for value in ticks(x.low, x.high)})
    for each in whole:
        at = _place(x.at(each))
        yield f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{each}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'


def _line(series: Series, mark: str, x: Scale, y: Scale) -> Iterator[str]:
    """Yield the parts of a line between its gaps, and marks where there are few points."""
    points = thinned(series.points)
    path, pen = [], "M"
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        path.append(f"{pen}{_place(x.at(at))} {_place(y.at(value))}")
        pen = "L"
    if path:
        yield f'<path class="line" d="{"".join(path)}"/>'
    measured = series.measured
    if len(measured) > DOTS:
        measured = measured[-1:]
    for at, value in measured:
        yield _mark(mark, x.at(at), y.at(value))


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "circle":
        return f'<circle cx="{_place(x)}" cy="{_place(y)}" r="3"/>'
    if kind == "square":
        return f'<rect x="{_place(x - 3)}" y="{_place(y - 3)}" width="6" height="6"/>'
    return f'<path class="mark" d="M{_place(x)} {_place(y - 4)}l4 7h-8z"/>'


def _place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _value(point: tuple[int, float]) -> float:
    return point[1]
