"""Engines by name. An engine is imported when it is asked for, with whatever heavy package it needs."""

from importlib import import_module
from typing import Any

from extractor.engines.base import Engine, Generation, GenerationRequest
from extractor.errors import InputError, MissingExtraError

ENGINES = {
    "vllm": "extractor.engines.vllm_offline:VllmEngine",
    "server": "extractor.engines.vllm_server:ServerEngine",
    "huggingface": "extractor.engines.huggingface:HuggingFaceEngine",
    "scripted": "extractor.engines.scripted:ScriptedEngine",
}
_EXTRAS = {"vllm": "vllm", "torch": "huggingface", "transformers": "huggingface", "llguidance": "huggingface"}

__all__ = ["ENGINES", "Engine", "Generation", "GenerationRequest", "create_engine"]


def create_engine(name: str, **options: Any) -> Engine:
    """Make an engine; `options` are those of its constructor. Raises MissingExtraError, EngineError or InputError."""
    if name not in ENGINES:
        raise InputError(f"no engine {name!r}; known are {', '.join(ENGINES)}")
    module, _, cls = ENGINES[name].partition(":")
    try:
        engine: Engine = getattr(import_module(module), cls)(**options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise MissingExtraError(package, _EXTRAS[package]) from error
    return engine
