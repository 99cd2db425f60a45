"""The optimizers, against torch's own: groups, states, steps."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from experiment_harness import architecture
from torch import Tensor, nn

from babygpt_exp.errors import ConfigError
from babygpt_exp.model import ArchConfig, Decoder, ModelConfig, build_model
from babygpt_exp.optimizer import (
    MuonConfig,
    OptimizerConfig,
    build_optimizer,
    muon_groups,
)

VOCABULARY = 64
SIZE = ModelConfig(2, 32, 4, 16, batch_tokens=64, budget_tokens=640)
ARCHITECTURES: dict[str, ArchConfig] = {
    "modern": architecture("modern"),
    "llama": architecture("llama"),
    "eir": architecture("eir"),
    "gpt2": architecture("gpt2", bias=False),
    "gpt2-bias": architecture("gpt2", bias=True),
}
MUON = MuonConfig(
    name="muon",
    betas=(0.8, 0.95),
    weight_decay=0.1,
    clip=0.0,
    lr=0.02,
    embedding_lr=0.03,
    head_lr=0.004,
    scalar_lr=0.01,
    momentum=0.95,
    num_iterations=5,
    base_width=32,
)
ADAMW = OptimizerConfig(name="adamw", betas=(0.9, 0.95), weight_decay=0.1, clip=1.0, lr=0.002)
CONFIGS: dict[str, OptimizerConfig] = {"muon": MUON, "adamw": ADAMW}
MakeModel = Callable[[], Decoder]


@pytest.fixture(params=list(ARCHITECTURES))
def make_model(request: pytest.FixtureRequest) -> MakeModel:
    """Makes a model of each architecture, the same each time."""

    def make() -> Decoder:
        torch.manual_seed(1)
        return build_model(SIZE, ARCHITECTURES[request.param], VOCABULARY)

    return make


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Tokens that follow a rule: each is its predecessor plus 3."""
    generator = torch.Generator().manual_seed(number)
    start = torch.randint(VOCABULARY, (4, 1), generator=generator)
    text = (start + 3 * torch.arange(17)) % VOCABULARY
    return text[:, :-1], text[:, 1:]


def train(model: Decoder, optimizer: torch.optim.Optimizer, numbers: range) -> list[float]:
    """Steps on some batches; the losses before each."""
    losses = []
    for number in numbers:
        tokens, targets = batch(number)
        optimizer.zero_grad()
        loss = model(tokens, targets) / targets.numel()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


class TestGroups:
    """Every parameter is stepped once, by the right rule."""

    @pytest.mark.parametrize("name", list(CONFIGS))
    def test_every_parameter_is_in_one_group(self, make_model: MakeModel, name: str) -> None:
        model = make_model()
        optimizer = build_optimizer(CONFIGS[name], model)
        grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(p) for p in model.parameters()}

    def test_muon_has_the_matrices_of_the_blocks(self, make_model: MakeModel) -> None:
        model = make_model()
        groups = muon_groups(MUON, model)
        by_muon = {id(p) for group in groups if group["kind"] == "muon" for p in group["params"]}
        assert by_muon == {id(p) for p in model.layers.parameters() if p.ndim == 2}
        for group in groups:
            if group["kind"] == "muon":
                assert len({p.shape for p in group["params"]}) == 1

    def test_muon_refuses_what_has_no_group(self, make_model: MakeModel) -> None:
        model = make_model()
        model.layers.append(nn.Conv1d(4, 4, 3, bias=False))
        with pytest.raises(ConfigError, match=r"no group for layers\.\d+\.weight; give them one"):
            muon_groups(MUON, model)

    def test_rates(self, make_model: MakeModel) -> None:
        model = make_model()
        rates = {id(p): group["lr"] for group in muon_groups(MUON, model) for p in group["params"]}
        embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert rates[id(model.lm_head.weight)] == 0.004
        untied = [p for p in embeddings if p is not model.lm_head.weight]
        assert all(rates[id(p)] == 0.03 for p in untied)
        assert all(rates[id(p)] == 0.01 for p in model.parameters() if p.ndim < 2)

    def test_rates_of_a_narrower_base(self, make_model: MakeModel) -> None:
        narrow = dataclasses.replace(MUON, base_width=8)  # the models are four times as wide
        model = make_model()
        rates = {
            id(p): group["lr"] for group in muon_groups(narrow, model) for p in group["params"]
        }
        assert rates[id(model.lm_head.weight)] == pytest.approx(0.002)
        assert {rates[id(p)] for p in model.layers.parameters() if p.ndim == 2} == {0.02}

    def test_adamw_decays_matrices_only(self, make_model: MakeModel) -> None:
        optimizer = build_optimizer(ADAMW, make_model())
        for group in optimizer.param_groups:
            matrices = {p.ndim >= 2 for p in group["params"]}
            assert matrices == {group["weight_decay"] == 0.1}

    def test_parameters_without_a_gradient_stay(self, make_model: MakeModel) -> None:
        model = make_model()
        before = copy.deepcopy(model.state_dict())
        build_optimizer(MUON, model).step()
        assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


class TestAgainstTorch:
    """The AdamW groups of Muon step as torch.optim.AdamW does."""

    def test_three_steps(self, make_model: MakeModel) -> None:
        ours, theirs = make_model(), make_model()
        muon = build_optimizer(MUON, ours)
        names = {id(p): name for name, p in ours.named_parameters()}
        parameters = dict(theirs.named_parameters())
        groups = [
            {"params": [parameters[names[id(p)]] for p in group["params"]], "lr": group["lr"]}
            for group in muon.param_groups
            if group["kind"] == "adamw"
        ]
        adamw = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
        generator = torch.Generator().manual_seed(8)
        for _ in range(3):
            for name, p in ours.named_parameters():
                p.grad = torch.randn(p.shape, generator=generator)
                parameters[name].grad = p.grad.clone()
            muon.step()
            adamw.step()
        compared = 0
        for group in muon.param_groups:
            for p in group["params"] if group["kind"] == "adamw" else []:
                torch.testing.assert_close(p, parameters[names[id(p)]])
                compared += 1
        assert compared >= 2

    def test_adamw_is_torch_s(self, make_model: MakeModel) -> None:
        optimizer = build_optimizer(ADAMW, make_model())
        assert type(optimizer) is torch.optim.AdamW
        assert optimizer.defaults["betas"] == (0.9, 0.95)
        assert all(group["lr"] == 0.002 for group in optimizer.param_groups)

    @pytest.mark.parametrize("fused", [True, False])
    def test_fused_or_not(self, make_model: MakeModel, fused: bool) -> None:
        optimizer = build_optimizer(ADAMW, make_model(), fused=fused)
        assert optimizer.defaults["fused"] is fused


@pytest.mark.parametrize("name", list(CONFIGS))
class TestState:
    """What a checkpoint keeps of an optimizer."""

    def test_goes_on_bit_by_bit(self, make_model: MakeModel, name: str) -> None:
        through, model = make_model(), make_model()
        optimizer = build_optimizer(CONFIGS[name], through)
        expected = train(through, optimizer, range(3)) + train(through, optimizer, range(3, 6))

        optimizer = build_optimizer(CONFIGS[name], model)
        losses = train(model, optimizer, range(3))
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved: dict[str, Any] = torch.load(file, weights_only=True)
        model = make_model()
        model.load_state_dict(saved["model"])
        optimizer = build_optimizer(CONFIGS[name], model)
        optimizer.load_state_dict(saved["optimizer"])
        losses += train(model, optimizer, range(3, 6))

        assert losses == expected
        for key, weight in through.state_dict().items():
            assert torch.equal(weight, model.state_dict()[key]), key

    def test_learns(self, make_model: MakeModel, name: str) -> None:
        model = make_model()
        losses = train(model, build_optimizer(CONFIGS[name], model), range(100, 200))
        assert losses[0] == pytest.approx(4.16, abs=0.2)
        assert sum(losses[-5:]) / 5 < 0.7 * losses[0]

    def test_closure(self, make_model: MakeModel, name: str) -> None:
        model = make_model()
        optimizer = build_optimizer(CONFIGS[name], model)
        tokens, targets = batch(0)

        def closure() -> float:
            optimizer.zero_grad()
            loss = model(tokens, targets)
            loss.backward()
            return float(loss.detach())

        before = {key: weight.clone() for key, weight in model.state_dict().items()}
        first = optimizer.step(closure)
        assert first == pytest.approx(64 * 4.16, rel=0.05)
        assert all(p.grad is not None for p in model.parameters())
        assert any(not torch.equal(w, before[key]) for key, w in model.state_dict().items())


def test_compiled_or_not_the_groups_are_the_same(make_model: MakeModel) -> None:
    plain = build_optimizer(MUON, make_model())
    compiled = build_optimizer(MUON, make_model(), compile=True)
    assert [len(g["params"]) for g in plain.param_groups] == [
        len(g["params"]) for g in compiled.param_groups
    ]


@pytest.mark.parametrize(
    "change", [{"momentum": 1.0}, {"num_iterations": 0}, {"lr": -1.0}, {"betas": (1.0, 0.9)}]
)
def test_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        MuonConfig(**{**vars(MUON), **change})
