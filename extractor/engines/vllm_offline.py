"""vLLM in this process: `vllm.LLM` with one set of sampling parameters per request."""

import logging
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from extractor.adapters import Adapter, check_adapter, rank_for_vllm
from extractor.engines.base import Generation, GenerationRequest, overflow
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import EngineError

# A library in somebody's process says nothing on its own; set the variable to see vLLM's log.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# It warns on every CPU, before vLLM has set its level.
logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# GiB for keys and values on a CPU; unset, vLLM claims much of the memory. Without effect on a GPU.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
# The engine core in this process: no second interpreter to start, and nothing to guard in a user's script.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class VllmEngine:
    """`model` is `base`, a folder or a hub name. `adapters` may serve requests, each its own in one batch; `loaded` of them
    are loaded at once, others are swapped in. `options` go to `vllm.LLM` as they are (tensor_parallel_size, …)."""

    name = "vllm"
    retried = 0

    def __init__(
        self,
        model: str = "base",
        adapters: Sequence[Adapter] = (),
        loaded: int = 64,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        **options: Any,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own imports warn of their own deprecations
            from vllm import LLM
        from outlines.models.vllm_offline import VLLMOfflineTypeAdapter
        from vllm.platforms import current_platform

        self.model = model_reference(model)
        path = resolve_model(model)
        settings: dict[str, Any] = {
            "enable_prefix_caching": True,
            # The grammar of strict grounding is llguidance's; without free white space no answer can run on in blanks.
            "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "use_tqdm_on_load": False,
        }
        if current_platform.is_cpu():
            from extractor.engines import guided_on_cpu

            guided_on_cpu.install()
            # Blocks of 64 tokens, not 128: a prompt's shared beginning is often shorter than that, and then not cached.
            settings |= {"enforce_eager": True, "dtype": cpu_dtype(), "block_size": 64}
        self._lora: dict[str | None, Any] = {None: None}
        if adapters:
            from vllm.lora.request import LoRARequest

            ranks = [rank_for_vllm(a.folder, check_adapter(a.folder, path)) for a in adapters]
            slots = min(loaded, len(adapters))
            settings |= {"enable_lora": True, "max_lora_rank": _allowed(max(ranks)), "max_loras": slots}
            if current_platform.is_cpu():
                from extractor.engines.lora_on_cpu import install

                install()
            self._lora |= {a.reference: LoRARequest(a.reference, i, str(a.folder)) for i, a in enumerate(adapters, 1)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._llm = LLM(path, **(settings | options))
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM cannot load {model!r}: {error}") from error
        if current_platform.is_cpu():
            guided_on_cpu.guide(self._llm)
        self._tokenizer = self._llm.get_tokenizer()
        self._piece = lru_cache(maxsize=None)(lambda token: self._tokenizer.decode([token]))
        self._context = self._llm.llm_engine.model_config.max_model_len
        self._output_type = VLLMOfflineTypeAdapter().format_output_type

    def generate(self, requests: list[GenerationRequest]) -> list[Generation]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        generations: list[Generation | None] = [None] * len(requests)
        prompts, parameters, adapters, places = [], [], [], []
        for place, request in enumerate(requests):
            ids = self._tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, return_dict=False, enable_thinking=False
            )
            if len(ids) + request.max_tokens > self._context:
                generations[place] = overflow(len(ids), request.max_tokens, self._context)
                continue
            prompts.append({"prompt_token_ids": ids})
            parameters.append(
                SamplingParams(
                    temperature=0.0,
                    max_tokens=request.max_tokens,
                    logprobs=0,
                    flat_logprobs=True,
                    detokenize=False,  # as they come, one by one: a tenth of the time of a small model
                    structured_outputs=StructuredOutputsParams(**self._output_type(request.constraint)),
                )
            )
            adapters.append(self._lora[request.adapter])
            places.append(place)
        if prompts:
            try:
                outputs = self._llm.generate(prompts, parameters, lora_request=adapters, use_tqdm=False)
            except (EngineDeadError, EngineGenerateError) as error:
                raise EngineError("vLLM's engine died", str(error)) from error
            for place, output in zip(places, outputs, strict=True):
                generations[place] = self._generation(output)
        return [g for g in generations if g is not None]

    def _generation(self, output: Any) -> Generation:
        completion = output.outputs[0]
        reason = completion.finish_reason
        # The end token is the last one, and writes no text.
        ids = completion.token_ids[: len(completion.token_ids) - (reason == "stop")]
        return Generation(
            text=self._tokenizer.decode(ids),
            pieces=[self._piece(i) for i in ids],
            logprobs=completion.logprobs.logprobs[: len(ids)],
            finish_reason=reason if reason in ("stop", "length") else "error",
            message="" if reason in ("stop", "length") else f"vLLM ended the request: {reason}",
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            output_tokens=len(completion.token_ids),
        )

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def cpu_dtype() -> str:
    """Without AVX-512, bfloat16 products are emulated: float32 wrote 3.6 times as many tokens/s."""
    import torch

    return "bfloat16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "float32"


def _allowed(rank: int) -> int:
    """The least rank that vLLM can be set to and that holds this one."""
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    return next((r for r in sorted(get_args(MaxLoRARanks)) if r >= max(8, rank)), rank)
