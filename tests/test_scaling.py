"""The arithmetic of docs/scaling.md."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields, replace
from types import ModuleType

import pytest
from experiment_harness import REPOSITORY


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    path = REPOSITORY / "docs" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_rates_replicas_and_bytes(scaling: ModuleType) -> None:
    inputs = replace(
        scaling.Inputs(),
        peak_flops=1e15,
        utilization=0.5,
        served_tokens_per_s=1e7,
        connections=256,
        frame_bytes=256,
        rank_batch_tokens=1024,
    )
    assert scaling.tokens_per_s(1e9, 8, inputs) == 4e6
    assert scaling.replicas(4e6, 8, inputs) == 1
    assert scaling.replicas(4.5e7, 64, inputs) == 5
    assert scaling.replicas(1.0, 1024, inputs) == 8  # two connections a rank
    assert inputs.bytes_per_token == 2 * 1025 / 1024 + 0.25


def test_a_listing(scaling: ModuleType) -> None:
    inputs = replace(
        scaling.Inputs(),
        num_bytes=1000.0,
        file_bytes=10.0,
        file_row_groups=5,
        num_tokens=10_000.0,
        footer_bytes=1e6,
        file_cpu_seconds=0.1,
        request_seconds=0.2,
        num_requests=10,
        hub_requests_per_s=4.0,
        link_bits_per_s=8e6,
    )
    assert (inputs.num_files, inputs.num_shards, inputs.shard_tokens) == (100, 500, 20.0)
    seconds = [4.0, 100.0, 10.0, 50.0]
    assert list(scaling.listing_seconds(inputs).values()) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0053, "0.0053"), (1.26, "1.3"), (9.94, "9.9"), (1234.5, "1,234")],
)
def test_numbers_are_short(scaling: ModuleType, value: float, text: str) -> None:
    assert scaling.short(value) == text


def test_the_page_has_the_tables_of_today(scaling: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    for line in scaling.report(scaling.Inputs(), scaling.model_flops()).splitlines():
        assert not line.startswith("| ") or line in page.splitlines(), line


def test_every_input_says_where_it_is_from(scaling: ModuleType) -> None:
    text = (REPOSITORY / "docs" / "scaling.py").read_text()
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    for field in fields(scaling.Inputs):
        after = text.partition(f"    {field.name}: ")[2].split('"""')[1]
        assert after, field.name
        for name in ("h100", "card", "files", "rows", "groups", "s3", "hub", "price"):
            assert f"[{name}]" not in after or f"\n[{name}]: https://" in page
