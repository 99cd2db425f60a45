"""The adapter for lm-eval: its evaluator runs a small task of each kind with a tiny run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from experiment_harness import TinyRun

from babygpt_exp.evaluation.cli import main
from babygpt_exp.evaluation.harness import as_request
from babygpt_exp.evaluation.likelihood import evaluate, loglikelihood
from babygpt_exp.trained import load_trained

ROWS = [
    {"context": "The movie", "text": "The movie is the most.", "choices": [" was", " zqx"]},
    {"context": "He said that the ", "text": "A film", "choices": ["film", "a b c d e f g"]},
]
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
target_delimiter: ""
output_type: {kind}
doc_to_text: {prompt}
doc_to_target: {target}
{more}
"""
KINDS = {
    "rolling": (
        "loglikelihood_rolling",
        '""',
        '"{{text}}"',
        "metric_list: [metric: bits_per_byte]",
    ),
    "choice": (
        "multiple_choice",
        '"{{context}}"',
        "0",
        'doc_to_choice: "{{choices}}"\nmetric_list: [metric: acc]',
    ),
    "writing": (
        "generate_until",
        '"{{context}}"',
        '"{{text}}"',
        "generation_kwargs: {until: [.], max_gen_toks: 8}\nmetric_list: [metric: exact_match]",
    ),
}


def test_evaluator_gets_our_numbers(
    tiny_run: TinyRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, (kind, prompt, target, more) in KINDS.items():
        text = TASK.format(
            name=f"ours_{name}", data=data, kind=kind, prompt=prompt, target=target, more=more
        )
        (tmp_path / f"{name}.yaml").write_text(text)
    names = [f"ours_{name}" for name in KINDS]
    main([str(tiny_run.folder), "--tasks", *names, "--task-folder", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    trained = load_trained(tiny_run.folder)
    model, tokenizer = trained.model, trained.tokenizer
    bits = evaluate(model, tokenizer, [[str(row["text"]) for row in ROWS]]).bits_per_byte
    assert found["ours_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    pairs = [(str(row["context"]), choice) for row in ROWS for choice in row["choices"]]
    nats = [nats for nats, _ in loglikelihood(model, tokenizer, pairs)]
    right = sum(nats[i] > nats[i + 1] for i in (0, 2)) / 2
    assert found["ours_choice"]["acc,none"] == pytest.approx(right)
    assert math.isfinite(found["ours_writing"]["exact_match,none"])


def test_answers_are_greedy_unless_the_task_draws() -> None:
    greedy = as_request([0, 1], {"until": "\n\n", "temperature": 0.7})
    assert greedy.settings.temperature == 0
    assert greedy.stop == ("\n\n",)
    drawn = as_request([0], {"do_sample": True, "temperature": 0.7, "max_gen_toks": 5})
    assert drawn.settings.temperature == 0.7
    assert drawn.max_new_tokens == 5
    assert drawn.stop == ()
