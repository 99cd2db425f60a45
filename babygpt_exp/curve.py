"""training_curve.svg: loss over tokens, drawn by hand so that it needs no library to make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 48, 52
STYLE = """
  svg { background: #fff; font: 12px system-ui, sans-serif; fill: #444 }
  .grid { stroke: #e4e4e4 } .axis { stroke: #888 }
  .title { font-size: 14px; font-weight: 600; fill: #222 }
  polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
"""
COLORS = {"train": "#9db8d9", "validation": "#c8452d"}


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from low to high."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(number: float) -> str:
    """1200000 as 1.2M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def training_curve(title: str, train: Points, validation: Points) -> str:
    """An SVG of the two curves, (tokens, nats a token) each; points not finite are left out."""
    curves = {
        name: [(x, y) for x, y in points if math.isfinite(y)]
        for name, points in (("train", train), ("validation", validation))
    }
    points = [point for curve in curves.values() for point in curve] or [(0.0, 0.0)]
    x_max = max(1.0, *(x for x, _ in points))
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    pad = 0.05 * max(y_high - y_low, 1e-3)
    y_low, y_high = y_low - pad, y_high + pad

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / x_max * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
    ]
    for y in nice_ticks(y_low, y_high, 6):
        _, down = place(0, y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{y:.4g}</text>'
        )
    for x in nice_ticks(0, x_max, 6):
        across, _ = place(x, y_low)
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{short(x)}</text>"
        )
    floor = HEIGHT - BOTTOM
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">tokens'
        f'</text><text x="16" y="{(TOP + floor) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + floor) / 2})">loss (nats a token)</text>'
    )
    for place_number, (name, curve) in enumerate(curves.items()):
        if not curve:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        color = COLORS[name]
        right = WIDTH - RIGHT - 150
        down = TOP + 10 + 18 * place_number
        parts.append(
            f'<polyline id="{name}" stroke="{color}" points="{path}"/>'
            f'<line x1="{right}" x2="{right + 24}" y1="{down}" y2="{down}" stroke="{color}" '
            f'stroke-width="3"/><text x="{right + 32}" y="{down + 4}">{name} '
            f"{curve[-1][1]:.3f}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
