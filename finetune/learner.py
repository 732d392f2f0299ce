"""Adapters as a system of `shelfwise eval compare`: trained on the labels that an arm was given, and asked in transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.datasets import Dataset
from eval.run import Predictor, code_hash, folder_hash
from extractor.config import Settings, make_extractor
from extractor.engines import create_engine
from extractor.engines.models import resolve_model
from extractor.prompts import load_template
from extractor.records import LabelledOffer
from finetune.dataset import complete
from finetune.lora import Recipe, recipe_for, tune

# Of this room, what adapters depend on.
CODE = ("attention.py", "conversations.py", "dataset.py", "labelled.py", "learner.py", "lora.py", "trainer.py")


class Adapters:
    """`settings` say the base model and the template; known values are the labels' own, demonstrations are not shown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.model_copy(update={"engine": "huggingface", "k": 0, "calibration": "none"})

    def _recipe(self, labels: Sequence[LabelledOffer], seed: int, epochs: float) -> Recipe:
        return recipe_for(len(labels), seed=seed, epochs=epochs)

    def inputs(self, dataset: Dataset, labels: Sequence[LabelledOffer], seed: int, epochs: float) -> dict[str, Any]:
        template = load_template(self._settings.template)
        return {
            "model": folder_hash(resolve_model(self._settings.model or "base")),
            "template": f"{template.reference} {template.sha256}",
            "recipe": asdict(self._recipe(labels, seed, epochs)),
            "code": [code_hash(), code_hash("finetune", CODE)],
        }

    @contextmanager
    def trained(
        self, dataset: Dataset, labels: Sequence[LabelledOffer], seed: int, epochs: float
    ) -> Iterator[Predictor]:
        with TemporaryDirectory() as folder:  # its predictions are kept, its weights are not
            recipe = self._recipe(labels, seed, epochs)
            learned = complete(labels, dataset.schemas)
            adapter, _ = tune(learned, dataset.schemas, self._settings, Path(folder) / "arm", recipe, report="none")
            settings = self._settings.model_copy(update={"adapter": adapter})
            yield make_extractor(create_engine("huggingface", **settings.engine_options()), settings, dataset.schemas)
