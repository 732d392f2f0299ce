"""Tokens of a prompt, counted without loading the model: its chat template and its tokenizer, as transformers applies them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox

from extractor.engines.models import model_reference, resolve_model
from extractor.errors import InputError, MissingExtraError, TemplateError
from extractor.prompts import Message


@dataclass(frozen=True)
class TokenCounter:
    """`count` gives the tokens of the prompt that the engines make of messages; `context` those that `model` takes, the
    answer's included."""

    model: str
    context: int
    count: Callable[[Sequence[Message]], int]


def load_counter(model: str) -> TokenCounter:
    """Raises InputError where `model` is no folder, or its folder lacks a file; MissingExtraError without tokenizers."""
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        raise InputError(f"--model {model!r}: tokens are counted with the files of a model's folder; name a folder")
    config = _read(folder / "config.json")
    context = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    if not context:
        raise InputError(f"{folder}/config.json: no max_position_embeddings, so the context's length is unknown")
    settings = _read(folder / "tokenizer_config.json")
    special = {k: _text(settings.get(k)) for k in ("bos_token", "eos_token", "pad_token", "unk_token")}
    template = _chat_template(folder, settings)
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenizers", "huggingface") from error
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder}: no tokenizer.json, so tokens cannot be counted")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def count(messages: Sequence[Message]) -> int:
        try:
            text = template.render(messages=messages, add_generation_prompt=True, enable_thinking=False, **special)
        except jinja2.TemplateError as error:
            raise TemplateError(f"{folder}: its chat template refuses the prompt: {error}") from error
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return TokenCounter(model_reference(model), int(context), count)


def _chat_template(folder: Path, settings: dict[str, Any]) -> jinja2.Template:
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if isinstance(source, list):
        source = next((t["template"] for t in source if t["name"] == "default"), None)
    if not source:
        raise InputError(f"{folder}: the model has no chat template, so it takes no messages")
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token or ""
