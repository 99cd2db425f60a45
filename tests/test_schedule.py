"""The schedules, by table and by what holds for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.schedule import (
    DecayingConfig,
    ScheduleConfig,
    WSDConfig,
    cosine,
    multiplier,
    warmup_stable_decay,
)

WSD = WSDConfig(name="wsd", warmup=0.1, warmdown=0.5, final=0.0)
COSINE = DecayingConfig(name="cosine", warmup=0.2, final=0.1)
CONSTANT = ScheduleConfig(name="constant", warmup=0.1)

PROGRESS = st.floats(0, 1)
ROUNDING = 1e-12


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    """Any schedule that its dataclass accepts."""
    warmup = draw(st.floats(0, 0.9))
    final = draw(st.floats(0, 1))
    kind = draw(st.sampled_from(["wsd", "cosine", "constant"]))
    if kind == "constant":
        return ScheduleConfig(name="constant", warmup=warmup)
    if kind == "cosine":
        return DecayingConfig(name="cosine", warmup=warmup, final=final)
    warmdown = draw(st.floats(0, 1 - warmup))
    return WSDConfig(name="wsd", warmup=warmup, warmdown=warmdown, final=final)


@pytest.mark.parametrize(
    ("schedule", "progress", "value"),
    [
        (WSD, 0.0, 0.0),
        (WSD, 0.05, 0.5),
        (WSD, 0.1, 1.0),
        (WSD, 0.3, 1.0),
        (WSD, 0.5, 1.0),
        (WSD, 0.75, 0.5),
        (WSD, 0.9, 0.2),
        (WSD, 1.0, 0.0),
        (COSINE, 0.1, 0.5),
        (COSINE, 0.2, 1.0),
        (COSINE, 0.6, 0.55),
        (COSINE, 1.0, 0.1),
        (CONSTANT, 0.0, 0.0),
        (CONSTANT, 0.05, 0.5),
        (CONSTANT, 0.1, 1.0),
        (CONSTANT, 1.0, 1.0),
        (ScheduleConfig("constant", 0.0), 0.0, 1.0),
        (WSDConfig(name="wsd", warmup=0.0, warmdown=0.0, final=0.3), 1.0, 1.0),
        (WSDConfig(name="wsd", warmup=0.0, warmdown=1.0, final=0.2), 0.5, 0.6),
    ],
)
def test_multiplier(schedule: ScheduleConfig, progress: float, value: float) -> None:
    assert multiplier(schedule, progress) == pytest.approx(value)


@pytest.mark.parametrize(
    ("progress", "warmdown", "final", "value"),
    [(0.4, 0.5, 0.1, 1.0), (0.75, 0.5, 0.1, 0.55), (1.0, 0.5, 0.1, 0.1), (1.0, 0.0, 0.1, 1.0)],
)
def test_warmup_stable_decay(progress: float, warmdown: float, final: float, value: float) -> None:
    assert warmup_stable_decay(progress, warmdown, final) == pytest.approx(value)


@pytest.mark.parametrize(
    ("progress", "final", "value"),
    [(0.0, 0.0, 1.0), (0.5, 0.0, 0.5), (1.0, 0.0, 0.0), (1.0, 0.3, 0.3), (1.5, 0.3, 0.3)],
)
def test_cosine(progress: float, final: float, value: float) -> None:
    assert cosine(progress, final) == pytest.approx(value)


@given(schedules(), PROGRESS)
def test_stays_between_0_and_1(schedule: ScheduleConfig, progress: float) -> None:
    assert 0 <= multiplier(schedule, progress) <= 1 + ROUNDING


@given(schedules(), PROGRESS, PROGRESS)
def test_rises_in_the_warmup_and_never_after(
    schedule: ScheduleConfig, one: float, two: float
) -> None:
    early, late = sorted((one, two))
    if late < schedule.warmup:
        assert multiplier(schedule, early) <= multiplier(schedule, late) + ROUNDING
    elif early >= schedule.warmup:
        assert multiplier(schedule, early) >= multiplier(schedule, late) - ROUNDING


@given(schedules(), PROGRESS)
def test_is_continuous(schedule: ScheduleConfig, progress: float) -> None:
    step = 1e-9
    before, after = multiplier(schedule, progress), multiplier(schedule, min(1, progress + step))
    shares = [schedule.warmup, getattr(schedule, "warmdown", 1.0)]
    if all(share == 0 or share > 1e-6 for share in shares):  # no jump is steeper than a share
        assert abs(after - before) < 0.01


@given(schedules())
def test_ends_where_it_should(schedule: ScheduleConfig) -> None:
    end = multiplier(schedule, 1.0)
    if isinstance(schedule, WSDConfig) and schedule.warmdown == 0:
        assert end == 1.0
    elif isinstance(schedule, DecayingConfig):
        assert end == pytest.approx(schedule.final, abs=1e-9)
    else:
        assert end == 1.0


@pytest.mark.parametrize(
    ("kind", "values", "word"),
    [
        (ScheduleConfig, {"name": "constant", "warmup": 1.0}, "warmup"),
        (ScheduleConfig, {"name": "constant", "warmup": -0.1}, "warmup"),
        (DecayingConfig, {"name": "cosine", "warmup": 0.0, "final": 1.1}, "final"),
        (WSDConfig, {"name": "wsd", "warmup": 0.6, "warmdown": 0.5, "final": 0.0}, "warmdown"),
    ],
)
def test_refuses(kind: type[ScheduleConfig], values: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        kind(**values)  # type: ignore[arg-type]
