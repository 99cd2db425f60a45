"""What a config is refused for: one line, and the nearest that is right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from babygpt_exp import cli


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The one line that a wrong command line gives, by the program's own main."""

    def refuse(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setattr(sys, "argv", ["babygpt", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == 2
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1, said.err
        assert list(tmp_path.iterdir()) == []
        return said.err.removeprefix("error: ").rstrip("\n")

    return refuse


class TestTypos:
    """A wrong name is refused with the nearest right one, however it is written."""

    @pytest.mark.parametrize(
        ("argument", "meant"),
        [
            ("model=bbaby", "baby"),
            ("optimizer=adam", "adamw"),
            ("data=sampel", "sample"),
            ("schedule=cosin", "cosine"),
            ("precision=bf16-mixd", "bf16-mixed"),
            ("experiment=smok", "smoke"),
            ("seedd=1", "seed"),
            ("+seedd=1", "seed"),
            ("++seedd=1", "seed"),
            ("model.witdh=64", "model.width"),
            ("+model.witdh=64", "model.width"),
            ("++model.witdh=64", "model.width"),
            ("modle.width=64", "model.width"),
            ("+modle.width=64", "model"),
            ("optimzer=adamw", "optimizer"),
            ("optimizer.momentm=0.9", "optimizer.momentum"),
            ("++optimizer.momentm=0.9", "optimizer.momentum"),
            ("run.max_token=1000", "run.max_tokens"),
            ("++run.max_token=1000", "run.max_tokens"),
            ("sampling.temprature=1", "sampling.temperature"),
            ("hardware.compil=false", "hardware.compile"),
            ("++logger.tag=[a]", "logger.tags"),
            ("++data.shuffle_shard=1", "data.shuffle_shards"),
            ("++arch.softcapp=1", "arch.softcap"),
            ("++tokenizer.vocabsize=512", "tokenizer.vocab_size"),
        ],
    )
    def test_names_the_nearest(
        self, refusal: Callable[..., str], argument: str, meant: str
    ) -> None:
        line = refusal(argument)
        assert re.split(r"[.=]", argument.lstrip("+"))[0] in line
        assert f"did you mean '{meant}'?" in line

    @pytest.mark.parametrize(
        ("argument", "choices"),
        [
            ("precision=32", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"]),
            ("precision=16", ["16-mixed", "bf16-mixed"]),
            ("model=12", ["nano", "baby", "small", "medium", "gpt2"]),
            ("arch=qqq", ["modern", "gpt2"]),
            ("++zzz=1", ["model", "optimizer", "seed"]),
            ("zzz=1", ["model", "optimizer", "seed"]),
            ("++run.zzz=1", ["run.max_tokens", "run.prompts"]),
            ("run.zzz=1", ["run.max_tokens", "run.prompts"]),
        ],
    )
    def test_names_all_where_none_is_near(
        self, refusal: Callable[..., str], argument: str, choices: list[str]
    ) -> None:
        line = refusal(argument)
        assert all(choice in line for choice in choices), line

    def test_a_key_of_another_option_without_force(self, refusal: Callable[..., str]) -> None:
        line = refusal("hardware.devices=2")
        assert "the chosen hardware has no key 'hardware.devices'" in line
        assert "++hardware.devices=..." in line

    @pytest.mark.parametrize("arguments", [["optimizer=adamw", "++optimizer.momentum=0.9"]])
    def test_a_key_of_another_option(
        self, refusal: Callable[..., str], arguments: list[str]
    ) -> None:
        assert "unknown key 'optimizer.momentum'" in refusal(*arguments)

    @pytest.mark.parametrize(
        "argument", ["model=[", "nonsense", "model=nano,baby", "=1", "seed=${nowhere}"]
    )
    def test_what_can_not_be_read(self, refusal: Callable[..., str], argument: str) -> None:
        assert refusal(argument)


class TestValues:
    """Wrong types, and values that do not fit together."""

    @pytest.mark.parametrize(
        ("argument", "words"),
        [
            ("model.num_layers=2.5", "model.num_layers=2.5 must be a whole number"),
            ("model.width=true", "model.width=True must be a whole number"),
            ("optimizer.lr=true", "optimizer.lr=True must be a number"),
            ("optimizer.lr=fast", "optimizer.lr=fast must be a number"),
            ("optimizer.betas=[0.9]", "must have 2 items"),
            ("optimizer.betas=0.9", "must be a list"),
            ("run.prompts=Steven", "must be a list"),
            ("run.prompts=[1]", "must be text"),
            ("run.log_every_tokens=often", "must be a whole number"),
            ("run.max_tokens=null", "run.max_tokens=None must be a whole number"),
            ("hardware.compile=maybe", "must be one of: auto, True, False"),
            ("arch.qk_norm=1", "arch.qk_norm=1 must be true or false"),
            ("logger.mode=onlin", "must be one of: offline, online, disabled"),
            ("optimizer.name=adamw", "optimizer.name"),
            ("seed=1.5", "seed=1.5 must be a whole number"),
            ("seed=true", "seed=True must be a whole number"),
            ("seed=null", "seed=None must be a whole number"),
            ("~seed", "seed"),
            ("~optimizer", "optimizer is missing"),
            ("~optimizer.lr", "optimizer.lr is missing"),
            ("data=local", "data.source has no value"),
            ("data=remote", "data.url has no value"),
            ("tokenizer=file", "tokenizer.path has no value"),
        ],
    )
    def test_types(self, refusal: Callable[..., str], argument: str, words: str) -> None:
        assert words in refusal(argument)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["model.num_heads=5"], "model.num_heads=5 does not divide model.width=512"),
            (["model.width=24", "model.num_heads=8"], "3 channels a head, which must be even"),
            (["model.num_layers=0"], "model.num_layers=0 must be at least 1"),
            (["run.batch_tokens=1000"], "no multiple of model.context=512"),
            (["hardware.micro_batch_tokens=1000"], "hardware.micro_batch_tokens=1000"),
            (["hardware.micro_batch_tokens=1536"], "divide run.batch_tokens=8192"),
            (["hardware.compile=1"], "hardware.compile=1 must be one of: auto, True, False"),
            (["hardware.num_threads=0"], "hardware.num_threads=0"),
            (["run.max_tokens=8191"], "run.max_tokens=8191 is below run.batch_tokens=8192"),
            (["run.eval_tokens=0"], "run.eval_tokens=0 must be at least 1"),
            (["run.log_every_tokens=-1"], "run.log_every_tokens=-1 must be at least 1"),
            (["sampling.prompt_tokens=512"], "must be below model.context=512"),
            (["sampling.temperature=-1"], "sampling.temperature=-1"),
            (["sampling.max_new_tokens=0"], "sampling.max_new_tokens=0 must be at least 1"),
            (["schedule.warmup=1"], "schedule.warmup=1"),
            (["schedule.warmdown=0.99"], "schedule.warmdown=0.99"),
            (["schedule=cosine", "schedule.final=2"], "schedule.final=2"),
            (["optimizer.lr=-0.1"], "optimizer.lr=-0.1 must not be negative"),
            (["optimizer.momentum=1"], "optimizer.momentum=1"),
            (["optimizer.num_iterations=0"], "optimizer.num_iterations=0"),
            (["optimizer.betas=[0.9,1]"], "optimizer.betas"),
            (["tokenizer.vocab_size=256"], "tokenizer.vocab_size=256"),
            (["tokenizer.setup_samples=0"], "tokenizer.setup_samples=0"),
            (["tokenizer=file", "tokenizer.path=nowhere.json"], "nowhere.json is no file"),
            (["data.validation_fraction=0"], "data.validation_fraction=0"),
            (["data.shuffle_shards=0"], "data.shuffle_shards=0"),
            (["data.shuffle_shards=1025", "run.eval_tokens=0"], "data.shuffle_shards=1025"),
            (["data=remote", "data.url=http://127.0.0.1"], "must start with ws:// or wss://"),
            (["data=remote", "data.url=[]"], "data.url must name at least one address"),
            (["data=remote", "data.url=[ws://a/ws,ws://a/ws]"], "none twice"),
            (["data=remote", "data.url=[ws://a/ws,b]"], "data.url=b must start with ws:// or"),
            (["data=remote", "data.url=[1]"], "data.url=[1] must be text"),
            (["data=eir", "data.url=[ws://a/ws,ws://b/ws]"], "data=eir takes one data.url"),
            (["data=local", "data.source=a", "data.on_bad_document=x"], "error, skip"),
            (["data=mix", "data.sources=[]"], "data.sources must name at least one"),
            (["data=mix", "data.sources=[a,a]"], "none twice"),
            (["data=mix", "data.sources=[a,b]", "data.weights=[1]"], "1 weights for 2 sources"),
            (["data=mix", "data.sources=[a]", "data.weights=[0]"], "must be above 0"),
            (["arch.softcap=-1"], "arch.softcap=-1"),
            (["seed=-1"], "seed=-1 must be between"),
            (["seed=4294967296"], "seed=4294967296 must be between"),
            (["precision=16-mixed", "hardware=cpu"], "precision=16-mixed needs a GPU"),
        ],
        ids=lambda value: value if isinstance(value, str) else value[-1],
    )
    def test_values_that_do_not_fit(
        self, refusal: Callable[..., str], arguments: list[str], words: str
    ) -> None:
        assert words in refusal(*arguments)

    @pytest.mark.parametrize(
        "argument", ["optimizer.lr=nan", "optimizer.lr=inf", "sampling.temperature=nan"]
    )
    def test_numbers_that_are_none(self, refusal: Callable[..., str], argument: str) -> None:
        assert argument.partition("=")[0] in refusal(argument, "run.eval_tokens=0")

    def test_all_problems_at_once(self, refusal: Callable[..., str]) -> None:
        line = refusal("model.num_heads=5", "run.eval_tokens=0", "++optimizer.lrr=1", "seed=x")
        for word in ("model.num_heads=5", "run.eval_tokens=0", "'optimizer.lrr'", "seed=x"):
            assert word in line
