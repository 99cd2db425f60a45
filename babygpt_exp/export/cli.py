"""The command line of the export: a run becomes a folder for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babygpt_exp.command import errors_in_a_line, importing_torch
from babygpt_exp.errors import ConfigError
from streamer.cli import Parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-export` and of `python -m babygpt_exp.export`."""
    arguments = build_parser().parse_args(argv)
    with errors_in_a_line():
        check_package()
        check_folder(arguments.folder)
        with importing_torch():
            from babygpt_exp.export.folder import export
            from babygpt_exp.trained import load_trained

        export(load_trained(arguments.run, arguments.checkpoint), arguments.folder)
        print(f"{arguments.folder}: AutoModelForCausalLM and AutoTokenizer load it from there")


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.export`."""
    parser = Parser(
        prog="python -m babygpt_exp.export",
        description="Write a trained model as a Hugging Face folder, in float32: arch=modern as\n"
        "NanoChat, arch=llama as Llama, arch=gpt2 as GPT-2. Transformers gives the same logits.\n"
        "What its models have no place for is refused by name.",
        examples=(
            "python -m babygpt_exp.export outputs/DATE/TIME my_model/",
            "python -m babygpt_exp.export outputs/DATE/TIME my_best_model/ --checkpoint best",
        ),
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder or a checkpoint file")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make; new, or empty")
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="last|best|FILE",
        help="which checkpoint of the run (default: last)",
    )
    return parser


def check_package() -> None:
    """Refuse to go on without the package that writes weights."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the export needs the package safetensors: pip install 'babygpt-exp[export]'"
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a place that has something in it."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder that is to be made")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a folder that is to be made")
