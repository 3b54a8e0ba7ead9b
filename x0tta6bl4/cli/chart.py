"""Draws a band and the line within it: on a terminal with blocks, and as a picture in a file."""

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, isfinite

Column = tuple[float, float, float]
"""Low, middle and high of one column; not finite where nothing is known."""

BAND, LINE = "░", "█"
PLAIN_BAND, PLAIN_LINE = ".", "#"
"""For terminals that have no blocks."""
_WIDE, _TALL, _LEFT, _FOOT, _TOP = 960, 280, 90, 40, 40


def drawn(columns: Sequence[Column], told: Callable[[float], str], *, rows: int = 8, blocks: bool = True) -> list[str]:
    """Lines from the top to the bottom, with the values at both ends in front."""
    known = [value for column in columns for value in column if isfinite(value)]
    if not known:
        return []
    bottom, top = min(known), max(known)
    step = (top - bottom) / rows or 1.0
    band, line = (BAND, LINE) if blocks else (PLAIN_BAND, PLAIN_LINE)

    def cell(value: float) -> int:
        return min(rows - 1, max(0, floor((value - bottom) / step)))

    ends = (told(top), told(bottom))
    room = max(map(len, ends))
    lines = []
    for row in range(rows - 1, -1, -1):
        signs = []
        for low, middle, high in columns:
            if isfinite(middle) and cell(middle) == row:
                signs.append(line)
            elif isfinite(low) and isfinite(high) and cell(low) <= row <= cell(high):
                signs.append(band)
            else:
                signs.append(" ")
        label = ends[0] if row == rows - 1 else ends[1] if row == 0 else ""
        lines.append(f"{label.rjust(room)} {'|' if not blocks else '│'}{''.join(signs).rstrip()}")
    return lines


def narrowed(columns: Sequence[Column], width: int) -> list[Column]:
    """So many columns at most: neighbours are put together, with the band around all of them."""
    each = max(1, ceil(len(columns) / max(1, width)))
    return [_together(columns[at : at + each]) for at in range(0, len(columns), each)]


def widened(columns: Sequence[Column], times: int) -> list[Column]:
    return [column for column in columns for _ in range(max(1, times))]


def _together(columns: Sequence[Column]) -> Column:
    lows, middles, highs = ([v for v in values if isfinite(v)] for values in zip(*columns, strict=True))
    if not middles:
        return (float("nan"),) * 3
    return min(lows, default=float("nan")), sum(middles) / len(middles), max(highs, default=float("nan"))


def svg(
    title: str, parts: Sequence[tuple[str, Sequence[Column], Sequence[tuple[int, str]]]], told: Callable[[float], str]
) -> str:
    """A picture with one chart below the other: its words, its columns, and the words under some of them."""
    tall = _TOP + len(parts) * (_TALL + _FOOT)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {tall}" font-family="sans-serif" '
        'font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDE}" height="{tall}" fill="#fff"/>',
        f'<text x="10" y="24" font-size="16">{escape(title)}</text>',
    ]
    for number, (words, columns, marks) in enumerate(parts):
        lines += _part(_TOP + number * (_TALL + _FOOT), words, columns, marks, told)
    return "\n".join([*lines, "</svg>", ""])


def _part(
    top: int, words: str, columns: Sequence[Column], marks: Sequence[tuple[int, str]], told: Callable[[float], str]
) -> list[str]:
    known = [value for column in columns for value in column if isfinite(value)]
    lines = [f'<text x="{_LEFT}" y="{top + 14}">{escape(words)}</text>']
    if not known:
        return [*lines, f'<text x="{_LEFT}" y="{top + 60}">nothing is known yet</text>']
    least, most = min(known), max(known)
    above, height = top + 22, _TALL - 30
    step = (_WIDE - _LEFT - 20) / max(1, len(columns))

    def x(column: float) -> str:
        return f"{_LEFT + column * step:.1f}"

    def y(value: float) -> str:
        return f"{above + height * (1 - (value - least) / (most - least or 1.0)):.1f}"

    for run in _runs(columns):
        upper = [f"{x(at + side)},{y(columns[at][2])}" for at in run for side in (0, 1)]
        lower = [f"{x(at + side)},{y(columns[at][0])}" for at in reversed(run) for side in (1, 0)]
        lines.append(f'<polygon fill="#c6dbef" points="{" ".join([*upper, *lower])}"/>')
        middle = " ".join(f"{x(at + side)},{y(columns[at][1])}" for at in run for side in (0, 1))
        lines.append(f'<polyline fill="none" stroke="#08519c" stroke-width="1.5" points="{middle}"/>')
    for value in (most, least):
        lines.append(
            f'<text x="{_LEFT - 8}" y="{float(y(value)) + 4:.1f}" text-anchor="end">{escape(told(value))}</text>'
        )
    lines += [f'<text x="{x(at)}" y="{top + _TALL + 10}" fill="#555">{escape(mark)}</text>' for at, mark in marks]
    return lines


def _runs(columns: Sequence[Column]) -> list[list[int]]:
    """Where it is known without a gap."""
    runs: list[list[int]] = []
    for at, column in enumerate(columns):
        if not all(map(isfinite, column)):
            continue
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    return runs
