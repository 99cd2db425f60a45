"""The engine: each text as if it were alone, whoever comes and goes beside it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from experiment_harness import architecture
from generation_harness import (
    ENDLESS,
    GREEDY,
    PROMPTS,
    TOKENIZER,
    VOCABULARY,
    plain_greedy,
    requests,
    run,
    shaken,
    tokens,
)

from babygpt_exp.generation.engine import Engine, Written, num_rows
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.sampler import Sampler
from babygpt_exp.generation.texts import for_writing, generate
from babygpt_exp.model import Decoder, ModelConfig, build_model
from babygpt_exp.sampling import Settings
from babygpt_exp.serving.cli import warm_up
from babygpt_exp.tokenizer import TextTokenizer


@pytest.fixture(scope="module", params=["modern", "llama", "gpt2", "eir"])
def model(request: pytest.FixtureRequest) -> Decoder:
    return shaken(request.param)


@pytest.fixture(scope="module")
def modern() -> Decoder:
    return shaken("modern")


class TestTexts:
    """What is written."""

    @pytest.mark.parametrize("cached", [True, False])
    def test_greedy_text_is_that_of_the_plain_loop(self, model: Decoder, cached: bool) -> None:
        asked = requests(chosen=(GREEDY,) * 5)
        expected = [plain_greedy(model, one.prompt, one.max_new_tokens) for one in asked]
        assert tokens(model, asked, cached=cached) == expected

    def test_drawn_text_is_the_same_without_a_cache(self, model: Decoder) -> None:
        assert tokens(model, requests()) == tokens(model, requests(), cached=False)

    def test_neighbours_have_no_part_in_it(self, model: Decoder) -> None:
        together = tokens(model, requests())
        for one, expected in zip(requests(), together, strict=True):
            assert tokens(model, [one]) == [expected]

    def test_seed_decides(self, modern: Decoder) -> None:
        one = Request(PROMPTS[1], 12, Settings(seed=1))
        other = replace(one, settings=Settings(seed=2))
        first, again, different = tokens(modern, [one, one, other])
        assert first == again != different

    def test_global_random_state_has_no_part(self, modern: Decoder) -> None:
        torch.manual_seed(1)
        first = tokens(modern, requests())
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert tokens(modern, requests()) == first
        assert torch.equal(torch.get_rng_state(), before)

    def test_draws_follow_the_chances(self) -> None:
        count, chances = 2000, torch.tensor([0.5, 0.3, 0.15, 0.05])
        sampler = Sampler(count, 4, torch.device("cpu"))
        for slot in range(count):
            sampler.begin(slot, Settings(seed=slot, top_k=3, temperature=0.5), ())
        drawn = sampler.draw(chances.log().expand(count, 4))
        shares = torch.bincount(torch.tensor(drawn), minlength=4) / count
        expected = chances.square() * torch.tensor([1, 1, 1, 0])
        torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=0.04)

    def test_penalty_keeps_from_repeating(self, modern: Decoder) -> None:
        never_again = replace(GREEDY, repetition_penalty=1e6)
        (found,) = tokens(modern, [Request(PROMPTS[2], 20, never_again)])
        assert len({*found, *PROMPTS[2]}) == 20 + len(PROMPTS[2])

    def test_coldest_temperature_is_greedy(self, modern: Decoder) -> None:
        cold = Request(PROMPTS[1], 10, Settings(temperature=1e-30))
        assert tokens(modern, [cold]) == tokens(modern, [replace(cold, settings=GREEDY)])


class TestBits:
    """The same numbers, not only the same text."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_logits_are_the_same_beside_others(self, model: Decoder, dtype: torch.dtype) -> None:
        writing, asked = for_writing(model, dtype), replace(requests()[1], num_top_logprobs=2)
        alone = Engine(writing, ENDLESS, 4)
        alone.add(asked)
        beside = Engine(writing, ENDLESS, 4)
        for one in (requests()[2], requests()[4]):
            beside.add(one)
        beside.step()
        slot = beside.add(asked)
        found = [written for written in run(beside) if written.slot == slot]
        expected = run(alone)
        assert [w.logprob for w in found] == [w.logprob for w in expected]
        assert [w.top_logprobs for w in found] == [w.top_logprobs for w in expected]

    def test_spans_go_by_the_own_length(self) -> None:
        torch.manual_seed(1)
        size = ModelConfig(1, 32, 2, 256, 64, 640)
        model = build_model(size, architecture("llama"), VOCABULARY)
        asked = Request(PROMPTS[1], 80, Settings(seed=5), num_top_logprobs=1)
        found = []
        for neighbours in ([], [Request(tuple(range(200)), 50, GREEDY)]):
            engine = Engine(model, ENDLESS, 3)
            for one in neighbours:
                engine.add(one)
            slot = engine.add(asked)
            found.append([w.top_logprobs for w in run(engine) if w.slot == slot])
        assert found[0] == found[1]


@pytest.mark.parametrize(("num_slots", "rows"), [(1, 1), (3, 3), (4, 4), (5, 8), (8, 8), (9, 12)])
def test_rows_are_a_multiple_of_four(modern: Decoder, num_slots: int, rows: int) -> None:
    assert num_rows(num_slots) == rows
    engine = Engine(modern, ENDLESS, num_slots)
    assert engine.num_free == num_slots
    asked = Request(PROMPTS[1], 4, Settings(seed=1))
    assert generate(engine, [asked] * num_slots)[-1].tokens == tokens(modern, [asked], num_slots)[0]


class TestComingAndGoing:
    """Slots."""

    def test_a_slot_is_free_again_after_cancelling(self, modern: Decoder) -> None:
        engine = Engine(modern, ENDLESS, 2)
        first, other = engine.add(requests()[0]), engine.add(requests()[1])
        with pytest.raises(RuntimeError, match="no slot"):
            engine.add(requests()[2])
        start = [w.token for w in engine.step() if w.slot == other]
        engine.cancel(first)
        assert engine.num_free == 1
        assert engine.add(requests()[3]) == first
        written = run(engine)
        rest = [w.token for w in written if w.slot == other]
        assert [start + rest] == tokens(modern, [requests()[1]])
        assert [[w.token for w in written if w.slot == first]] == tokens(modern, [requests()[3]])
        assert engine.num_free == 2

    def test_a_step_without_texts_does_nothing(self, modern: Decoder) -> None:
        assert Engine(modern, ENDLESS, 2).step() == []

    def test_tokens_that_the_model_does_not_have(self, modern: Decoder) -> None:
        with pytest.raises(ValueError, match="tokens"):
            Engine(modern, ENDLESS, 1).add(Request((VOCABULARY,), 1, GREEDY))

    def test_a_step_makes_no_new_cache(self, modern: Decoder) -> None:
        engine = Engine(modern, ENDLESS, 2)
        places = [keys.data_ptr() for keys in engine._cache.keys]
        generate(engine, requests())
        assert [keys.data_ptr() for keys in engine._cache.keys] == places

    def test_nothing_stays_of_the_text_before(self, modern: Decoder) -> None:
        engine = Engine(modern, ENDLESS, 1)
        for one in (requests()[4], requests()[3], requests()[0]):
            assert [[w.token for w in run(engine) or []]] == [[]]
            engine.add(one)
            assert [[w.token for w in run(engine)]] == tokens(modern, [one], num_slots=1)


class TestEnds:
    """Why a text ends, and what is shown of it."""

    def one(self, model: Decoder, asked: Request, end_of_text: int = -1) -> list[Written]:
        engine = Engine(model, TextTokenizer(TOKENIZER.inner, end_of_text), 1)
        engine.add(asked)
        return run(engine)

    def test_max_new_tokens(self, modern: Decoder) -> None:
        written = self.one(modern, Request(PROMPTS[0], 7, GREEDY))
        assert [w.finish_reason for w in written] == [None] * 6 + ["length"]

    def test_end_of_text_is_left_out(self, modern: Decoder) -> None:
        asked = Request(PROMPTS[1], 20, Settings(seed=1))
        whole = [w.token for w in self.one(modern, asked)]
        end = whole[8]
        engine = Engine(modern, TextTokenizer(TOKENIZER.inner, end), 1)
        (found,) = generate(engine, [asked])
        assert found.tokens == whole[: whole.index(end)]
        assert found.finish_reason == "stop"

    def test_stop_string_across_tokens(self, modern: Decoder) -> None:
        asked = Request(PROMPTS[1], 40, Settings(seed=2))
        (whole,) = generate(Engine(modern, ENDLESS, 1), [asked])
        stop = whole.text[10:13]
        place = whole.text.index(stop)
        (found,) = generate(Engine(modern, ENDLESS, 1), [replace(asked, stop=("\n\n\n", stop))])
        assert (found.text, found.finish_reason) == (whole.text[:place], "stop")
        assert found.tokens == whole.tokens[: len(found.tokens)]

    def test_what_is_held_back_comes_with_the_end(self, modern: Decoder) -> None:
        asked = Request(PROMPTS[1], 12, Settings(seed=2))
        (whole,) = generate(Engine(modern, ENDLESS, 1), [asked])
        stop = (whole.text[-1] + "?" * 30,)
        (found,) = generate(Engine(modern, ENDLESS, 1), [replace(asked, stop=stop)])
        assert (found.text, found.finish_reason) == (whole.text, "length")

    def test_pieces_make_up_the_text(self, modern: Decoder) -> None:
        written = self.one(modern, Request(PROMPTS[1], 60, Settings(seed=3, temperature=2.0)))
        text = "".join(w.text for w in written)
        assert text == TOKENIZER.decode([w.token for w in written])

    def test_log_chances_are_the_models_own(self, modern: Decoder) -> None:
        asked = Request(PROMPTS[1], 3, Settings(seed=3, top_k=2), num_top_logprobs=5)
        first = self.one(modern, asked)[0]
        with torch.no_grad():
            logits = modern.logits(modern.hidden(torch.tensor([PROMPTS[1]]))[0, -1])
        expected = logits.log_softmax(-1)
        assert first.logprob == pytest.approx(float(expected[first.token]), abs=1e-4)
        assert [t for t, _ in first.top_logprobs] == expected.topk(5).indices.tolist()
        assert self.one(modern, replace(asked, num_top_logprobs=None))[0].logprob is None


def test_compiled_steps_write_the_same(modern: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that traces, but generates no code."""
    traced = []

    def compile_(function: Any, **options: Any) -> Any:
        traced.append(options)
        return inner(function, backend="eager", **options)

    inner = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    asked = requests(4)[1:3]
    other = copy.deepcopy(modern)
    other.lm_head.weight.copy_(modern.lm_head.weight.flip(0))
    assert tokens(modern, asked, 2) != tokens(other, asked, 2)
    for model in (modern, other):  # what was traced for one must not serve the other
        assert tokens(model, asked, 2, compiled=True) == tokens(model, asked, 2)
    assert traced


def test_a_compiled_server_compiles_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All lengths that steps can have."""
    sizes = []

    def compile_(function: Any, **_: Any) -> Any:
        def step(*arguments: Any) -> Any:
            sizes.append(arguments[2][0][2])
            return function(*arguments)

        return step

    monkeypatch.setattr(torch, "compile", compile_)
    size = ModelConfig(1, 32, 2, 200, 64, 640)
    model = build_model(size, architecture("modern"), VOCABULARY)
    engine = Engine(model, TOKENIZER, 2, compiled=True)
    warm_up(engine)
    assert (sizes, engine.num_free) == ([64, 128, 200], 2)


def test_weights_in_another_type_are_a_copy(model: Decoder) -> None:
    assert for_writing(model, torch.float32) is model
    copied = for_writing(model, torch.bfloat16)
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    is_tied = model.lm_head.weight is model.embedding.weight
    assert (copied.lm_head.weight is copied.embedding.weight) == is_tied
    assert len(tokens(copied, requests(5))[0]) == 5
