"""A trained model for lm-eval, the evaluation harness of EleutherAI (an extra).

lm_eval.simple_evaluate(harness_model(load_trained(path)), tasks=["lambada_openai"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from babygpt_exp.errors import ConfigError
from babygpt_exp.evaluation.likelihood import loglikelihood, loglikelihood_rolling
from babygpt_exp.evaluation.scoring import BATCH
from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import generate
from babygpt_exp.sampling import Settings
from babygpt_exp.trained import Trained

MAX_NEW_TOKENS = 256
"""Most tokens of an answer where the task does not say; lm-eval's own default."""


def harness_model(trained: Trained, batch: int = BATCH) -> Any:
    """An `lm_eval.api.model.LM`; every text starts from an end of text, as in training."""
    try:
        from lm_eval.api.model import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            LM,
        )
    except ImportError as error:
        raise ConfigError(
            "tasks need the package lm-eval: pip install 'babygpt-exp[lm-eval]'"
        ) from error

    model, tokenizer = trained.model, trained.tokenizer

    class HarnessModel(LM):  # type: ignore[misc,unused-ignore]
        """What lm-eval asks a model."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Log chance of each continuation, and whether greedy decoding gives it."""
            pairs = [request.args for request in requests]
            return loglikelihood(model, tokenizer, pairs, batch=batch)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Log chance of each text."""
            texts = [request.args[0] for request in requests]
            return loglikelihood_rolling(model, tokenizer, texts, batch=batch)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """What the model writes after each context, up to a stop string."""
            contexts = tokenizer.encode_all([request.args[0] for request in requests])
            asked = [
                as_request([tokenizer.end_of_text, *tokens], request.args[1])
                for tokens, request in zip(contexts, requests, strict=True)
            ]
            engine = Engine(model, tokenizer, min(batch, len(asked)))
            return [written.text for written in generate(engine, asked)]

    return HarnessModel()


def as_request(prompt: list[int], asked: dict[str, Any]) -> Request:
    """A request for the engine: greedy, unless the task asks to draw."""
    stop = asked.get("until") or []
    draws = asked.get("do_sample", False)
    return Request(
        prompt=tuple(prompt),
        max_new_tokens=int(asked.get("max_gen_toks", MAX_NEW_TOKENS)),
        settings=Settings(
            temperature=float(asked.get("temperature", 1.0)) if draws else 0.0,
            top_k=int(asked.get("top_k", 0)),
            top_p=float(asked.get("top_p", 1.0)),
        ),
        stop=tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text),
    )


def results_of(
    trained: Trained, tasks: list[str], task_folder: str | None, batch: int
) -> dict[str, Any]:
    """Metrics of tasks by their names, as lm-eval has them; ConfigError for unknown ones."""
    model = harness_model(trained, batch)
    from lm_eval import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        simple_evaluate,
    )
    from lm_eval.tasks import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        TaskManager,
    )

    manager = TaskManager(include_path=task_folder)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(f"lm-eval knows no task {', '.join(unknown)}; lm-eval ls tasks lists all")
    found = simple_evaluate(model, tasks=tasks, task_manager=manager, log_samples=False)
    results: dict[str, Any] = found["results"]
    return results
