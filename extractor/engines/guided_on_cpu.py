"""vLLM's worker on a CPU, with less work for an answer that a grammar guides.

- A token that the grammar forces needs no step of the model: it joins the answer at once, and the next step reads it as it
  reads a prompt (jump-forward decoding, https://lmsys.org/blog/2024-02-05-compressed-fsm/).
- Only the tokens that the grammar allows get logits, not the whole vocabulary.

Answers and log-probabilities stay what they were: vLLM's are those among the allowed tokens, which gives a forced one 0.
"""

from typing import Any

import numpy
import torch
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.v1.structured_output import backend_guidance
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner


def install() -> None:
    """In this process, vLLM's workers on a CPU are made with this runner; `guide` sets it to work."""
    cpu_worker.CPUModelRunner = GuidedRunner
    # It compiles every grammar, and throws away what the engine then compiles again; of a wrong one no token is allowed.
    backend_guidance.validate_guidance_grammar = lambda *_, **__: None


def guide(llm: Any) -> None:
    """Nothing changes where the engine runs in another process, or with draft tokens."""
    core = getattr(llm.llm_engine.engine_core, "engine_core", None)
    if core is None:
        return
    runner = core.model_executor.driver_worker.worker.model_runner
    if isinstance(runner, GuidedRunner) and runner.speculative_config is None and not runner.use_async_scheduling:
        runner.scheduler = core.scheduler


class GuidedRunner(CPUModelRunner):
    scheduler: Any = None  # has the grammars
    _guidance: Any = None  # of this step: what the grammars allow

    def execute_model(self, scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
        requests = scheduler_output.num_scheduled_tokens
        if self.scheduler is None or not all(self.scheduler.requests[r].use_structured_output for r in requests):
            return super().execute_model(scheduler_output, *arguments, **named)
        self.model.compute_logits = lambda hidden: hidden  # they wait until it is known which are wanted
        try:
            return super().execute_model(scheduler_output, *arguments, **named)
        finally:
            del self.model.compute_logits

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:
        state = self.execute_model_state
        if state is None or state.logits is not state.sample_hidden_states:
            return super().sample_tokens(grammar_output)
        self._guidance = grammar_output  # None where no prompt is read to its end: then what is sampled is thrown away
        try:
            return super().sample_tokens(None)
        finally:
            self._guidance = None

    def _sample(self, logits: torch.Tensor, spec_decode_metadata: Any) -> Any:
        if self._guidance is None:
            return super()._sample(logits, spec_decode_metadata)
        # Requests whose prompt is not read to its end have no row: nothing is allowed, and what is sampled is thrown away.
        rows = {request: row for row, request in enumerate(self._guidance.structured_output_request_ids)}
        bits = numpy.zeros((len(logits), self._guidance.grammar_bitmask.shape[1]), dtype=numpy.int32)
        for place, request in enumerate(self.input_batch.req_ids):
            if request in rows:
                bits[place] = self._guidance.grammar_bitmask[rows[request]]
        any_of = numpy.bitwise_or.reduce(bits, axis=0).view(numpy.uint8)
        tokens = numpy.nonzero(numpy.unpackbits(any_of, bitorder="little"))[0]
        refused = (bits[:, tokens >> 5] >> (tokens & 31).astype(numpy.int32) & 1) == 0
        columns = torch.from_numpy(tokens)
        sampled = super()._sample(
            self._logits(logits, columns).masked_fill_(torch.from_numpy(refused), -torch.inf), None
        )
        sampled.sampled_token_ids = columns[sampled.sampled_token_ids].to(sampled.sampled_token_ids.dtype)
        if (found := sampled.logprobs_tensors) is not None:
            ids = columns[found.logprob_token_ids.long()].to(found.logprob_token_ids.dtype)
            sampled.logprobs_tensors = found._replace(logprob_token_ids=ids)
        return sampled

    def _logits(self, hidden: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        head: Any = getattr(self.model, "lm_head", None)
        processor: Any = getattr(self.model, "logits_processor", None)
        plain = type(processor) is LogitsProcessor and isinstance(head.quant_method, UnquantizedEmbeddingMethod)
        if not plain or 2 * len(columns) > len(head.weight):
            return self.model.compute_logits(hidden)[:, columns].float()
        return processor(_Head(head.weight[columns]), hidden).float()

    def _bookkeeping_sync(self, *arguments: Any) -> Any:
        kept = super()._bookkeeping_sync(*arguments)
        if self._guidance is None:
            return kept
        nans, counted, logprobs, sampled, *rest = kept
        batch, forced = self.input_batch, [0] * len(sampled)
        for place, tokens in enumerate(sampled):
            request = batch.req_ids[place]
            following = self._forced(request, tokens[-1]) if tokens else []
            if not following:
                continue
            forced[place] = len(following)
            tokens += following
            begin = batch.num_tokens_no_spec[place]
            end = batch.num_tokens_no_spec[place] = begin + len(following)
            batch.token_ids_cpu[place, begin:end] = following
            batch.is_token_ids[place, begin:end] = True
            self.requests[request].output_token_ids.extend(following)
        return nans, counted, _with_forced(logprobs, sampled, forced), sampled, *rest

    def _forced(self, request: str, token: int) -> list[int]:
        """What the grammar leaves no choice about after this token."""
        grammar = self.scheduler.requests[request].structured_output_request.grammar
        matcher = grammar.ll_matcher
        if matcher.is_stopped() or not matcher.consume_token(token):
            return []
        following: list[int] = [] if matcher.is_stopped() else matcher.compute_ff_tokens()
        matcher.consume_tokens(following)
        ended = matcher.is_stopped()
        matcher.rollback(1 + len(following))
        return [*following, grammar.ll_tokenizer.eos_token] if ended else following


def _with_forced(logprobs: Any, sampled: list[list[int]], forced: list[int]) -> Any:
    """Log-probabilities with a row for each token, not each request; those of forced ones are 0."""
    if logprobs is None or not any(forced):
        return logprobs
    counts = 1 + numpy.array(forced)
    ends = numpy.cumsum(counts)
    places = numpy.repeat(numpy.arange(len(counts)), counts)
    ids, values, ranks = (
        logprobs.logprob_token_ids[places],
        logprobs.logprobs[places],
        logprobs.sampled_token_ranks[places],
    )
    for tokens, n, end in zip(sampled, forced, ends, strict=True):
        if n:
            ids[end - n : end, 0] = tokens[-n:]
            values[end - n : end] = 0.0
            ranks[end - n : end] = 0
    return type(logprobs)(ids, values, ranks, [0, *ends.tolist()])


class _Head:
    """Some rows of an output layer."""

    tp_size = 1

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.quant_method = weight, self

    def apply(self, head: "_Head", hidden: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.linear(hidden, head.weight, bias)
