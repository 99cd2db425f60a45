"""What every architecture must do; each inherits the whole suite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from experiment_harness import architecture
from torch import Tensor

from babygpt_exp.flops import flops_per_token
from babygpt_exp.model import (
    ARCHITECTURES,
    IGNORE,
    ArchConfig,
    Decoder,
    ModelConfig,
    Piece,
    Place,
    Step,
    one_run,
    runs_of,
)
from babygpt_exp.model import build_model as build
from babygpt_exp.model.eir import rotate_pairs
from babygpt_exp.model.parts import attend_by_rows, rotary_table, rotate

VOCABULARY, CONTEXT, WIDTH, LAYERS = 96, 32, 48, 2

Turn = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture
def size() -> ModelConfig:
    return ModelConfig(LAYERS, WIDTH, 4, CONTEXT, batch_tokens=64, budget_tokens=640)


@pytest.fixture
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(VOCABULARY, (3, CONTEXT), generator=generator)


@pytest.fixture
def targets() -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randint(VOCABULARY, (3, CONTEXT), generator=generator)


def shaken(model: Decoder) -> Decoder:
    """The model with every weight moved, as after some training: no projection is zero."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def number(tensor: Tensor) -> float:
    """The value of a tensor that has one."""
    return float(tensor.detach())


class DecoderSuite:
    """The contract of `Decoder`; a subclass names an architecture."""

    num_blocks = LAYERS
    block_weights = 12 * WIDTH**2
    """Weights of a block's matrices."""
    margin = 0.05
    """Nats that an untrained model may be away from a guess."""

    def arch(self) -> ArchConfig:
        raise NotImplementedError

    @pytest.fixture
    def model(self, size: ModelConfig) -> Decoder:
        torch.manual_seed(1)
        return build(size, self.arch(), VOCABULARY)

    def logits(self, model: Decoder, tokens: Tensor, place: Place | None = None) -> Tensor:
        return model.logits(model.hidden(tokens, place))

    def test_shapes_and_types(self, model: Decoder, tokens: Tensor, targets: Tensor) -> None:
        hidden = model.hidden(tokens)
        assert hidden.shape == (3, CONTEXT, WIDTH)
        assert model.logits(hidden).shape == (3, CONTEXT, VOCABULARY)
        assert model.logits(hidden[:, -1]).shape == (3, VOCABULARY)
        assert model.logits(hidden).dtype == torch.float32
        assert model(tokens, targets).shape == ()

    def test_any_length_up_to_the_context(self, model: Decoder, tokens: Tensor) -> None:
        for length in (1, 2, CONTEXT):
            assert self.logits(model, tokens[:, :length]).shape == (3, length, VOCABULARY)

    def test_loss_is_the_sum_of_nats(self, model: Decoder, tokens: Tensor, targets: Tensor) -> None:
        chances = self.logits(shaken(model), tokens).double().log_softmax(-1)
        nats = -chances.gather(-1, targets[..., None]).sum()
        assert number(model(tokens, targets)) == pytest.approx(number(nats), rel=1e-5)

    def test_initial_loss_is_near_that_of_a_guess(
        self, model: Decoder, tokens: Tensor, targets: Tensor
    ) -> None:
        mean = number(model(tokens, targets)) / targets.numel()
        assert mean == pytest.approx(math.log(VOCABULARY), abs=self.margin)

    def test_gradients_reach_every_parameter(
        self, model: Decoder, tokens: Tensor, targets: Tensor
    ) -> None:
        shaken(model)(tokens, targets).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.abs().sum() > 0, name

    def test_gradients_are_finite_at_the_start(
        self, model: Decoder, tokens: Tensor, targets: Tensor
    ) -> None:
        model(tokens, targets).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())

    @pytest.mark.parametrize("position", [1, 17, CONTEXT - 1])
    def test_a_later_token_changes_nothing_earlier(
        self, model: Decoder, tokens: Tensor, position: int
    ) -> None:
        before = self.logits(shaken(model), tokens)
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % VOCABULARY
        after = self.logits(model, changed)
        torch.testing.assert_close(after[:, :position], before[:, :position])
        assert not torch.allclose(after[:, position], before[:, position])

    def test_an_earlier_token_is_seen(self, model: Decoder, tokens: Tensor) -> None:
        before = self.logits(shaken(model), tokens)
        changed = tokens.clone()
        changed[:, 0] = (changed[:, 0] + 1) % VOCABULARY
        assert not torch.allclose(self.logits(model, changed)[:, -1], before[:, -1])

    def test_order_of_tokens_is_seen(self, model: Decoder, tokens: Tensor) -> None:
        swapped = tokens.clone()
        swapped[:, [3, 7]] = tokens[:, [7, 3]]
        before = self.logits(shaken(model), tokens)[:, -1]
        assert not torch.allclose(self.logits(model, swapped)[:, -1], before, atol=1e-4)

    def test_rows_do_not_see_each_other(self, model: Decoder, tokens: Tensor) -> None:
        together = self.logits(shaken(model), tokens)
        alone = torch.cat([self.logits(model, row[None]) for row in tokens])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        "pieces", [[CONTEXT], [5] + [1] * 20, [10, 22], [7, 9, 1, 15]], ids=str
    )
    def test_pieces_in_a_cache_change_nothing(
        self, model: Decoder, tokens: Tensor, pieces: list[int]
    ) -> None:
        shaken(model)
        cache, got, start = model.new_cache(3, torch.float32), [], 0
        with torch.no_grad():
            expected = self.logits(model, tokens[:1, : sum(pieces)])
            for size in pieces:
                piece = Piece(cache, 1, start, size)
                got.append(self.logits(model, tokens[:1, start : start + size], piece))
                start += size
        assert len(cache.keys) == self.num_blocks
        torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("runs", [runs_of, one_run])
    def test_steps_of_other_lengths_change_nothing(
        self, model: Decoder, tokens: Tensor, runs: Any
    ) -> None:
        shaken(model)
        cache, lengths = model.new_cache(3, torch.float32), [1, 12, CONTEXT - 4]
        with torch.no_grad():
            expected = self.logits(model, tokens)
            for slot, length in enumerate(lengths):
                model.hidden(tokens[slot : slot + 1, :length], Piece(cache, slot, 0, length))
            for done in range(4):
                positions = [length + done for length in lengths]
                column = torch.tensor(positions)[:, None]
                step = Step(cache, column, runs(positions, CONTEXT))
                got = self.logits(model, tokens.gather(1, column), step)[:, 0]
                wanted = expected[torch.arange(3), column[:, 0]]
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)

    def test_ignored_targets_count_nothing(
        self, model: Decoder, tokens: Tensor, targets: Tensor
    ) -> None:
        shaken(model)
        half = targets.clone()
        half[:, 10:] = IGNORE
        short = number(model(tokens[:, :10], targets[:, :10]))
        assert number(model(tokens, half)) == pytest.approx(short, rel=1e-5)
        assert number(model(tokens, torch.full_like(targets, IGNORE))) == 0.0

    def test_ignored_targets_have_no_gradient(
        self, model: Decoder, tokens: Tensor, targets: Tensor
    ) -> None:
        shaken(model)(tokens, torch.full_like(targets, IGNORE)).backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())

    def test_num_matmul_parameters(self, model: Decoder) -> None:
        blocks = self.num_blocks * self.block_weights
        assert model.num_matmul_parameters() == blocks + VOCABULARY * WIDTH

    def test_flops(self, model: Decoder, size: ModelConfig) -> None:
        products = 6 * (self.num_blocks * self.block_weights + VOCABULARY * WIDTH)
        attention = 12 * self.num_blocks * WIDTH * CONTEXT
        assert flops_per_token(size, model) == products + attention

    def test_same_seed_same_weights(self, size: ModelConfig) -> None:
        states: list[dict[str, Any]] = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            states.append(build(size, self.arch(), VOCABULARY).state_dict())
        for name, weight in states[0].items():
            assert torch.equal(weight, states[1][name]), name
        assert any(not torch.equal(w, states[2][name]) for name, w in states[0].items())

    def test_weights_travel(self, model: Decoder, size: ModelConfig, tokens: Tensor) -> None:
        shaken(model)
        torch.manual_seed(3)
        other = build(size, self.arch(), VOCABULARY)
        other.load_state_dict(model.state_dict())
        assert torch.equal(self.logits(other, tokens), self.logits(model, tokens))

    def test_works_in_bfloat16(self, model: Decoder, tokens: Tensor, targets: Tensor) -> None:
        shaken(model)
        exact = number(model(tokens, targets))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(tokens, targets)
        assert mixed.dtype == torch.float32
        assert number(mixed) == pytest.approx(exact, rel=0.03)

    def test_learns_a_sentence_by_heart(self, model: Decoder, tokens: Tensor) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        inputs, targets = tokens[:1, :-1], tokens[:1, 1:]
        for _ in range(60):
            optimizer.zero_grad()
            loss = model(inputs, targets) / targets.numel()
            loss.backward()
            optimizer.step()
        assert number(loss) < 0.5


class TestModern(DecoderSuite):
    """`arch=modern`."""

    def arch(self) -> ArchConfig:
        return architecture("modern")

    def test_logits_are_capped(self, model: Decoder, tokens: Tensor) -> None:
        with torch.no_grad():
            model.lm_head.weight.mul_(1e5)
        assert self.logits(model, tokens).abs().max() <= 15.0

    def test_has_no_biases_and_no_gains(self, model: Decoder) -> None:
        assert all(p.ndim == 2 for p in model.parameters())

    def test_head_is_not_tied(self, model: Decoder) -> None:
        embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert len(embeddings) == 1
        assert model.lm_head.weight is not embeddings[0].weight


class TestModernWithoutExtras(DecoderSuite):
    """`arch=modern arch.qk_norm=false arch.softcap=0`."""

    def arch(self) -> ArchConfig:
        return architecture("modern", qk_norm=False, softcap=0.0, rotary_base=100.0)


class TestLlama(DecoderSuite):
    """`arch=llama`."""

    def arch(self) -> ArchConfig:
        return architecture("llama")

    def test_has_gains_but_no_biases(self, model: Decoder) -> None:
        gains = [p for p in model.parameters() if p.ndim == 1]
        assert len(gains) == 2 * LAYERS + 1
        assert all((gain == 1).all() for gain in gains)

    def test_head_is_not_tied(self, model: Decoder) -> None:
        assert model.lm_head.weight is not model.embedding.weight

    def test_turns_as_the_paper_has_it(self, model: Decoder) -> None:
        x = torch.randn(1, 1, CONTEXT, 8, generator=torch.Generator().manual_seed(2))
        angles = torch.arange(CONTEXT)[:, None] * 10000.0 ** -(torch.arange(4) / 4)
        turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones(()), angles)
        cos, sin = rotary_table(CONTEXT, 8)
        expected = torch.cat((turned.real, turned.imag), dim=-1)
        torch.testing.assert_close(rotate(x, cos, -sin), expected)
        assert torch.equal(model.get_buffer("sin"), -rotary_table(CONTEXT, WIDTH // 4)[1])


class TestLlamaWithTiedHead(DecoderSuite):
    """`arch=llama arch.tied_head=true`."""

    def arch(self) -> ArchConfig:
        return architecture("llama", tied_head=True)

    def test_head_is_the_embedding(self, model: Decoder) -> None:
        assert model.lm_head.weight is model.embedding.weight


class TestEIR(DecoderSuite):
    """`arch=eir`."""

    num_blocks = 2 * LAYERS
    block_weights = 16 * WIDTH**2
    margin = 0.3

    def arch(self) -> ArchConfig:
        return architecture("eir")

    @pytest.fixture
    def tutorial(self) -> ModelConfig:
        return ModelConfig(4, 512, 8, 512, batch_tokens=65_536, budget_tokens=65_536)

    def test_size_and_cost_of_the_tutorial(self, tutorial: ModelConfig) -> None:
        with torch.device("meta"):
            model = build(tutorial, self.arch(), 8192)
        assert sum(p.numel() for p in model.parameters()) == 38_035_968
        assert flops_per_token(tutorial, model) == pytest.approx(251.7e6, rel=1e-3)

    def test_initial_spread(self) -> None:
        torch.manual_seed(1)
        model = build(ModelConfig(4, 256, 4, 64, 64, 64), self.arch(), VOCABULARY)
        found = {name: float(p.detach().std()) for name, p in model.named_parameters()}
        for name, spread in {
            "embedding.weight": 0.1 / 3**0.5,
            "positions.weight": 1.0,
            "lm_head.bias": 1 / 768**0.5,
            "layers.0.attention.q.weight": 1 / 768**0.5,
            "layers.7.attention.projection.weight": 0.02 / 16**0.5,
            "layers.0.mlp.gate.weight": 0.02,
            "layers.7.mlp.projection.weight": 0.02 / 16**0.5,
        }.items():
            assert found[name] == pytest.approx(spread, rel=0.15), name

    def test_head_is_the_embedding(self, model: Decoder) -> None:
        assert model.lm_head.weight is model.embedding.weight
        assert model.lm_head.bias is not None

    def test_starts_without_its_blocks(self, model: Decoder, tokens: Tensor) -> None:
        positions = model.get_parameter("positions.weight")
        plain = model.embedding(tokens) * WIDTH**0.5 + positions
        expected = torch.nn.functional.rms_norm(plain, (WIDTH,))
        torch.testing.assert_close(model.hidden(tokens), expected, rtol=1e-3, atol=1e-3)

    def test_starts_by_predicting_the_token_itself(self, model: Decoder, tokens: Tensor) -> None:
        chances = self.logits(model, tokens).softmax(-1)
        assert number(chances.gather(-1, tokens[..., None]).mean()) > 2 / VOCABULARY


class TestGPT2(DecoderSuite):
    """`arch=gpt2`."""

    def arch(self) -> ArchConfig:
        return architecture("gpt2", bias=False)

    def test_head_is_the_embedding(self, model: Decoder) -> None:
        tied = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert any(m.weight is model.lm_head.weight for m in tied)


class TestGPT2WithBiases(TestGPT2):
    """`arch=gpt2 arch.bias=true`."""

    def arch(self) -> ArchConfig:
        return architecture("gpt2", bias=True)

    def test_size_of_gpt2(self) -> None:
        size = ModelConfig(12, 768, 12, 1024, batch_tokens=1024, budget_tokens=1024)
        with torch.device("meta"):
            model = build(size, self.arch(), 50257)
        assert sum(p.numel() for p in model.parameters()) == 124_439_808


def test_every_architecture_has_a_suite() -> None:
    suites: list[type[DecoderSuite]] = [
        TestModern,
        TestModernWithoutExtras,
        TestLlama,
        TestLlamaWithTiedHead,
        TestEIR,
        TestGPT2,
        TestGPT2WithBiases,
    ]
    assert {suite().arch().name for suite in suites} == set(ARCHITECTURES)


@pytest.mark.parametrize("turn", [rotate, rotate_pairs])
class TestRotary:
    """Rotary positions, of halves and of neighbours."""

    def test_keeps_lengths(self, turn: Turn) -> None:
        x = torch.randn(2, 3, CONTEXT, 8, generator=torch.Generator().manual_seed(2))
        cos, sin = rotary_table(CONTEXT, 8)
        torch.testing.assert_close(turn(x, cos, sin).norm(dim=-1), x.norm(dim=-1))

    def test_products_depend_on_the_distance_alone(self, turn: Turn) -> None:
        generator = torch.Generator().manual_seed(3)
        q, k = (torch.randn(8, generator=generator).expand(1, 1, CONTEXT, 8) for _ in range(2))
        cos, sin = rotary_table(CONTEXT, 8)
        products = (turn(q, cos, sin) @ turn(k, cos, sin).mT)[0, 0]
        for distance in (0, 1, 5):
            along = products.diagonal(-distance)
            torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-4)

    def test_position_zero_is_not_turned(self, turn: Turn) -> None:
        x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(4))
        cos, sin = rotary_table(CONTEXT, 8)
        assert torch.equal(turn(x, cos[:1], sin[:1]), x)


def test_pairs_turn_against_halves() -> None:
    x = torch.randn(2, 3, CONTEXT, 8, generator=torch.Generator().manual_seed(5))
    cos, sin = rotary_table(CONTEXT, 8)
    halves = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    turned = rotate(halves, cos, -sin)
    expected = torch.stack(turned.chunk(2, dim=-1), dim=-1).flatten(-2)
    torch.testing.assert_close(rotate_pairs(x, cos, sin), expected)


def test_spans_are_doubled_up_to_the_context() -> None:
    assert runs_of([0, 63, 64, 200, 299, 5], 300) == (
        (0, 2, 64),
        (2, 3, 128),
        (3, 4, 256),
        (4, 5, 300),
        (5, 6, 64),
    )
    assert one_run([0, 63, 64], 300) == ((0, 3, 128),)


@pytest.mark.parametrize("length", [1, 100, 128, 300])
def test_attention_by_rows_is_attention(length: int) -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 3, length, 8, generator=generator) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend_by_rows(q, k, v), expected, rtol=1e-5, atol=1e-5)
