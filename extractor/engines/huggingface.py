"""transformers in this process, for a laptop without vLLM. Slower than vLLM; the same constraints, the same records."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.torch import allocate_token_bitmask, fill_next_token_bitmask_par
from outlines.backends.llguidance import LLGuidanceBackend
from outlines.models.transformers import Transformers
from outlines.types import CFG
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LogitsProcessor

from extractor.adapters import Adapter, check_adapter
from extractor.engines.base import Generation, GenerationRequest, overflow
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import EngineError, MissingExtraError


class HuggingFaceEngine:
    """`device` is a torch device; by default a GPU where there is one. Requests run in batches of `batch_size` (by default 128
    on a GPU, 32 elsewhere), the longest prompts together. `adapters` may be of any of PEFT's methods; requests of one run
    together."""

    name = "huggingface"
    retried = 0

    def __init__(
        self,
        model: str = "base",
        adapters: Sequence[Adapter] = (),
        device: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        loaded, tokenizer = load(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if adapters:
            loaded = with_adapters(loaded, adapters)
        self._hold(loaded.eval(), tokenizer, model_reference(model), batch_size, bool(adapters))

    @classmethod
    def around(cls, model: Any, tokenizer: Any, reference: str, batch_size: int | None = None) -> Self:
        """An engine for a model that is loaded already, and may be in training: `reference` names it in provenance."""
        engine = cls.__new__(cls)
        engine._hold(model, tokenizer, reference, batch_size)
        return engine

    def _hold(self, model: Any, tokenizer: Any, reference: str, batch_size: int | None, adapted: bool = False) -> None:
        self.model = reference
        self._model, self._tokenizer = model, tokenizer
        self._batch_size = batch_size or (128 if model.device.type == "cuda" else 32)
        self._adapted = adapted
        self._backend = LLGuidanceBackend(Transformers(model, tokenizer))
        self._context = model.config.max_position_embeddings
        ends = model.generation_config.eos_token_id
        self._ends = set(ends) if isinstance(ends, list) else {ends}

    def generate(self, requests: list[GenerationRequest]) -> list[Generation]:
        generations: dict[int, Generation] = {}
        prompts: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            ids = self._tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, return_dict=False, enable_thinking=False
            )
            if len(ids) + request.max_tokens > self._context:
                generations[place] = overflow(len(ids), request.max_tokens, self._context)
            else:
                prompts[place] = ids
        for adapter in dict.fromkeys(requests[place].adapter for place in prompts):
            own = [place for place in prompts if requests[place].adapter == adapter]
            own.sort(key=lambda place: len(prompts[place]), reverse=True)
            with self._using(adapter):
                for begin in range(0, len(own), self._batch_size):
                    batch = own[begin : begin + self._batch_size]
                    answers = self._batch([requests[p] for p in batch], [prompts[p] for p in batch])
                    generations.update(zip(batch, answers, strict=True))
        return [generations[place] for place in range(len(requests))]

    def _using(self, adapter: str | None) -> AbstractContextManager[Any]:
        if adapter is not None:
            self._model.set_adapter(adapter)
            return nullcontext()
        return self._model.disable_adapter() if self._adapted else nullcontext()

    def close(self) -> None:
        pass

    @torch.inference_mode()
    def _batch(self, requests: list[GenerationRequest], prompts: list[list[int]]) -> list[Generation]:
        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._model.device)
        width = inputs["input_ids"].shape[1]
        limits = [r.max_tokens for r in requests]
        outputs = self._model.generate(
            **inputs,
            logits_processor=[_PerRow([self._processor(r) for r in requests], self._ends, width)],
            max_new_tokens=max(limits),
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        written = outputs.sequences[:, width:].cpu()
        scores = torch.stack(
            [
                s.float().log_softmax(-1).gather(1, written[:, i : i + 1].to(s.device))[:, 0]
                for i, s in enumerate(outputs.scores)
            ],
            dim=1,
        ).cpu()
        rows = zip(written.tolist(), scores.tolist(), prompts, limits, strict=True)
        return [self._generation(ids, logprobs, len(prompt), limit) for ids, logprobs, prompt, limit in rows]

    def _processor(self, request: GenerationRequest) -> Any:
        if isinstance(request.constraint, CFG):
            return self._backend.get_cfg_logits_processor(request.constraint.definition)
        return self._backend.get_json_schema_logits_processor(request.constraint.schema)

    def _generation(self, ids: list[int], logprobs: list[float], prompt_tokens: int, limit: int) -> Generation:
        end = next((i for i, token in enumerate(ids[: limit + 1]) if token in self._ends), None)
        stopped = end is not None
        count = min(limit, len(ids)) if end is None else end
        ids = ids[:count]
        return Generation(
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            pieces=[self._tokenizer.decode([i]) for i in ids],
            logprobs=logprobs[:count],
            finish_reason="stop" if stopped else "length",
            prompt_tokens=prompt_tokens,
            output_tokens=count + stopped,
        )


def load(model: str, device: str, four_bit: bool = False, whole: bool = False) -> tuple[Any, Any]:
    """A model and its tokenizer, which pads on the left; `four_bit` quantizes its weights (bitsandbytes), `whole` keeps them in
    float32, to be trained. Raises EngineError."""
    path = resolve_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        # bfloat16 on a CPU without its instructions is slower than float32, and greedy answers differ little.
        dtype = torch.bfloat16 if device.startswith("cuda") and not whole else torch.float32
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            device_map=device,
            quantization_config=BitsAndBytesConfig(load_in_4bit=True) if four_bit else None,
        )
    except (OSError, ValueError) as error:
        raise EngineError(f"transformers cannot load {model!r}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer


def with_adapters(model: Any, adapters: Sequence[Adapter]) -> Any:
    """The model with adapters, by their references. Raises AdapterError for one that is damaged or another model's, and
    MissingExtraError."""
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "finetune") from error
    for adapter in adapters:
        check_adapter(adapter.folder, model.config.name_or_path)
    first, *others = adapters
    adapted = PeftModel.from_pretrained(model, str(first.folder), adapter_name=first.reference)
    for adapter in others:
        adapted.load_adapter(str(adapter.folder), adapter_name=adapter.reference)
    return adapted


class _PerRow(LogitsProcessor):
    """A grammar for each row of a batch, as Outlines built it: an Outlines model takes one output type for a whole batch. Its
    own processor masks row by row, and compiles a kernel for it, which needs a C++ compiler."""

    def __init__(self, processors: list[Any], ends: set[int], width: int) -> None:
        self._matchers = [LLMatcher(p.llg_tokenizer, p.grammar) for p in processors]
        self._executor = LLExecutor()
        self._bitmask = allocate_token_bitmask(len(processors), processors[0].llg_tokenizer.vocab_size)
        self._ends, self._width = ends, width
        self._running = set(range(len(processors)))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self._width:
            last = input_ids[:, -1].tolist()
            for i in sorted(self._running):
                if last[i] in self._ends:
                    # A row that has ended is padded until its batch has; its grammar has nothing more to say.
                    self._running.discard(i)
                    self._bitmask[i] = -1
                else:
                    self._matchers[i].consume_token(last[i])
        fill_next_token_bitmask_par(self._executor, [(self._matchers[i], i) for i in self._running], self._bitmask)
        words = self._bitmask.to(scores.device)
        bits = torch.arange(32, dtype=torch.int32, device=scores.device)
        allowed = (words[:, :, None] >> bits & 1).bool().flatten(1)[:, : scores.shape[1]]
        scores[:, : allowed.shape[1]].masked_fill_(~allowed, float("-inf"))
        scores[:, allowed.shape[1] :] = float("-inf")  # rows of the embedding beyond the vocabulary
        return scores
