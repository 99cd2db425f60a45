"""training_curve.svg: loss over tokens, drawn by hand so that it needs no library to make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, FLOOR = 64, 20, 48, HEIGHT - 52
"""Of the plot itself: what is left free beside it, where it begins and where it ends."""
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


@dataclass(frozen=True)
class Scale:
    """Where numbers stand in the picture."""

    x_max: float
    """Tokens at the right."""
    y_low: float
    """Loss at the bottom."""
    y_high: float
    """Loss at the top."""

    def across(self, x: float) -> float:
        """Pixels from the left."""
        return LEFT + x / self.x_max * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        """Pixels from the top."""
        return FLOOR - (y - self.y_low) / (self.y_high - self.y_low) * (FLOOR - TOP)


def scale_of(points: Points) -> Scale:
    """A scale on which all points have room."""
    low, high = min(y for _, y in points), max(y for _, y in points)
    pad = 0.05 * max(high - low, 1e-3)
    return Scale(max(1.0, *(x for x, _ in points)), low - pad, high + pad)


def training_curve(title: str, train: Points, validation: Points) -> str:
    """An SVG of the two curves, (tokens, nats a token) each; points not finite are left out."""
    curves = {
        name: [(x, y) for x, y in points if math.isfinite(y)]
        for name, points in (("train", train), ("validation", validation))
    }
    scale = scale_of([point for curve in curves.values() for point in curve] or [(0.0, 0.0)])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        *axes(scale),
    ]
    for number, (name, curve) in enumerate(curves.items()):
        if curve:
            parts.append(line_of(name, curve, scale, TOP + 10 + 18 * number))
    return "\n".join([*parts, "</svg>", ""])


def axes(scale: Scale) -> Iterator[str]:
    """Grid, ticks and what they are of."""
    for y in nice_ticks(scale.y_low, scale.y_high, 6):
        down = scale.down(y)
        yield (
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{y:.4g}</text>'
        )
    for x in nice_ticks(0, scale.x_max, 6):
        yield (
            f'<text x="{scale.across(x):.1f}" y="{FLOOR + 18}" text-anchor="middle">'
            f"{short(x)}</text>"
        )
    yield (
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{FLOOR}" y2="{FLOOR}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">tokens'
        f'</text><text x="16" y="{(TOP + FLOOR) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + FLOOR) / 2})">loss (nats a token)</text>'
    )


def line_of(name: str, curve: Points, scale: Scale, label_down: float) -> str:
    """A curve, and in the corner its name with its last value."""
    path = " ".join(f"{scale.across(x):.1f},{scale.down(y):.1f}" for x, y in curve)
    color, right = COLORS[name], WIDTH - RIGHT - 150
    return (
        f'<polyline id="{name}" stroke="{color}" points="{path}"/>'
        f'<line x1="{right}" x2="{right + 24}" y1="{label_down}" y2="{label_down}" '
        f'stroke="{color}" stroke-width="3"/><text x="{right + 32}" y="{label_down + 4}">{name} '
        f"{curve[-1][1]:.3f}</text>"
    )
