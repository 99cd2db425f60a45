"""The fields of a completion: what they may be, and what is said of those that may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from babygpt_exp.sampling import Settings
from babygpt_exp.serving.completions import Served, read_completion
from babygpt_exp.serving.errors import Refused


class TestFields:
    """What is refused, and why."""

    @pytest.mark.parametrize(
        ("fields", "param", "word"),
        [
            ({}, "prompt", "prompt must be"),
            ({"prompt": []}, "prompt", "prompt must be"),
            ({"prompt": 7}, "prompt", "prompt must be"),
            ({"prompt": [[]]}, "prompt", "at least one"),
            ({"prompt": [512]}, "prompt", "from 0 to 511"),
            ({"prompt": [True]}, "prompt", "from 0 to 511"),
            ({"prompt": ["a", 3]}, "prompt", "Unicode text"),
            ({"prompt": "\ud800"}, "prompt", "Unicode text"),
            ({"prompt": [1] * 65}, "prompt", "65 tokens, and at most 64"),
            ({"max_tokens": 0}, "max_tokens", "from 1 to 4096"),
            ({"max_tokens": 4097}, "max_tokens", "from 1 to 4096"),
            ({"max_tokens": 1.5}, "max_tokens", "whole number"),
            ({"max_tokens": True}, "max_tokens", "whole number"),
            ({"temperature": "hot"}, "temperature", "must be a number"),
            ({"temperature": 10**400}, "temperature", "too large"),
            ({"top_p": 0}, "top_p", "top_p=0.0 must be above 0"),
            ({"min_p": 2}, "min_p", "between 0 (off) and 1"),
            ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
            ({"top_k": -1}, "top_k", "from 0"),
            ({"n": 129}, "n", "from 1 to 128"),
            ({"prompt": ["a"] * 65, "n": 2}, "n", "at most 128 texts"),
            ({"prompt": ["a"] * 200}, "n", "at most 128 texts"),
            ({"seed": -1}, "seed", "from 0 to 18446744073709551615"),
            ({"logprobs": 21}, "logprobs", "from 0 to 20"),
            ({"logprobs": 0, "echo": True}, "echo", "do not go together"),
            ({"stop": ""}, "stop", "each of 1 to 256"),
            ({"stop": ["a"] * 17}, "stop", "up to 16"),
            ({"stop": {"a": 1}}, "stop", "a string"),
            ({"stream": "yes"}, "stream", "true or false"),
            ({"stream_options": {"include_usage": True}}, "stream_options", "with stream"),
            ({"stream_options": {"x": 1}, "stream": True}, "stream_options", "include_usage"),
            ({"best_of": 2}, "best_of", "not supported"),
            ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
            ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
            ({"suffix": "b"}, "suffix", "not supported"),
            ({"model": 3}, "model", "a string"),
            ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ],
        ids=str,
    )
    def test_each_is_named(
        self, served: Served, fields: dict[str, Any], param: str, word: str
    ) -> None:
        body = {} if fields == {} else {"prompt": "The"} | fields
        with pytest.raises(Refused) as caught:
            read_completion(json.dumps(body).encode(), served)
        assert (caught.value.status, caught.value.param) == (400, param)
        assert word in str(caught.value)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b'"The"', b"\xff\xfe", b"[" * 100_000, b'{"seed": NaN}', b"9" * 5000],
        ids=lambda body: repr(body[:8]),
    )
    def test_bodies_that_are_no_object(self, served: Served, body: bytes) -> None:
        with pytest.raises(Refused, match="the body") as caught:
            read_completion(body, served)
        assert caught.value.status == 400

    def test_all_problems_at_once(self, served: Served) -> None:
        body = b'{"prompt": "a", "n": 0, "top_p": 2, "min_p": -1, "echo": 1}'
        with pytest.raises(Refused, match=r"n must.*top_p=2\.0.*min_p=-1\.0.*echo must"):
            read_completion(body, served)

    def test_fields_of_openai_that_do_no_harm(self, served: Served) -> None:
        harmless = {"best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "suffix": None}
        harmless |= {"logit_bias": {}, "user": "me", "stop": None, "stream_options": None}
        asked = read_completion(json.dumps({"prompt": "The"} | harmless).encode(), served)
        (request,) = asked.requests
        assert request.settings == Settings(seed=request.settings.seed)
        assert (request.max_new_tokens, request.num_top_logprobs) == (16, None)
        assert request.prompt == served.trained.prompt_tokens("The")
