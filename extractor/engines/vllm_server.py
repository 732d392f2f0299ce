"""Any OpenAI-compatible server that takes vLLM's `structured_outputs` parameter."""

import random
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from extractor.adapters import Adapter
from extractor.engines.base import Generation, GenerationRequest
from extractor.errors import AdapterError, EngineError, EngineUnavailable, ModelNotFoundError

RETRIED_STATUS = {429, 500, 502, 503, 504}
_CONTEXT = re.compile(r"maximum context length (?:is|of) (\d+)|max_model_len[^\d]*(\d+)", re.IGNORECASE)
_PROMPT = re.compile(r"(\d+) (?:input tokens|in the messages)|(?:contains|prompt) (?:at least )?(\d+)", re.IGNORECASE)


class ServerEngine:
    """`base_url` ends in /v1. At most `concurrency` requests are under way; broken connections, 429 and 5xx are retried
    `retries` times with growing, jittered pauses (or what Retry-After says), other 4xx never. `adapters` that the server does
    not serve yet are loaded by their folders, which it must see."""

    name = "server"

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000/v1",
        model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 0.5,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        from outlines.models.vllm import VLLMTypeAdapter

        self.base_url = base_url.rstrip("/")
        self._concurrency, self._retries, self._backoff = concurrency, retries, backoff
        self._client = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=5.0),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=False,
        )
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="shelfwise-server")
        self._output_type = VLLMTypeAdapter().format_output_type
        self.retried = 0  # requests sent again, over the engine's life
        try:
            served = self._served()
            if model and model not in served:
                raise ModelNotFoundError(
                    f"{self.base_url} serves {', '.join(served)}, not {model!r}; name one with --model"
                )
            self.model = model or served[0]
            for adapter in adapters:
                if adapter.reference not in served:
                    self._load(adapter)
        except BaseException:
            self.close()
            raise

    def _served(self) -> list[str]:
        response = self._send("GET", "/models")
        if response.status_code != 200:
            raise EngineError(f"{self.base_url}: GET /models answered {response.status_code}", _message(response))
        return [str(entry["id"]) for entry in response.json()["data"]]

    def _load(self, adapter: Adapter) -> None:
        """By vLLM's own API: https://docs.vllm.ai/en/latest/features/lora/ (dynamic serving)."""
        body = {"lora_name": adapter.reference, "lora_path": str(adapter.folder.resolve())}
        response = self._send("POST", "/load_lora_adapter", body)
        if response.status_code != 200:
            raise AdapterError(
                f"{self.base_url} does not load adapter {adapter.reference} ({response.status_code}: {_message(response)});"
                " start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, where it sees that folder"
            )

    def generate(self, requests: list[GenerationRequest]) -> list[Generation]:
        return list(self._pool.map(self._one, requests))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _one(self, request: GenerationRequest) -> Generation:
        body = {
            "model": request.adapter or self.model,
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": 0.0,
            "logprobs": True,
            "chat_template_kwargs": {"enable_thinking": False},
            **self._output_type(request.constraint),
        }
        response = self._send("POST", "/chat/completions", body)
        if response.status_code == 200:
            return _generation(response.json())
        message = _message(response)
        if response.status_code in (401, 403):
            raise EngineError(f"{self.base_url} refuses the key ({response.status_code}); pass --api-key")
        if response.status_code == 404:
            raise ModelNotFoundError(f"{self.base_url} answered 404", message)
        if context := _CONTEXT.search(message):
            prompt = _PROMPT.search(message)
            return Generation(
                finish_reason="overflow",
                message=message,
                prompt_tokens=int(next(filter(None, prompt.groups()))) if prompt else 0,
                context=int(next(filter(None, context.groups()))),
            )
        if "structured output" in message.lower() or "grammar" in message.lower():
            message += "; start vLLM with --structured-outputs-config.backend guidance"
        return Generation(finish_reason="error", message=f"HTTP {response.status_code}: {message}")

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """The response, after retries where they can help. Raises EngineUnavailable when they are used up."""
        problem = answer = ""
        for attempt in range(self._retries + 1):
            pause, answer = self._backoff * 2**attempt * random.uniform(0.5, 1.0), ""
            try:
                response = self._client.request(method, path, json=body)
            except httpx.ConnectError as error:
                problem = f"no server answers at {self.base_url} ({error}); is vLLM running there?"
            except httpx.TransportError as error:
                problem = f"{self.base_url}: the connection broke ({type(error).__name__}: {error})"
            else:
                if response.status_code not in RETRIED_STATUS:
                    return response
                problem, answer = f"{self.base_url} answered {response.status_code}", _message(response)
                pause = _retry_after(response) or pause
            if attempt < self._retries:
                self.retried += 1
                time.sleep(pause)
        raise EngineUnavailable(f"{problem} (tried {self._retries + 1} times)", answer)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return min(float(value), 60.0) if value.isdigit() else None


def _message(response: httpx.Response) -> str:
    try:
        data = response.json()
        return str(data.get("error", data).get("message", data))
    except (ValueError, AttributeError):
        return response.text[:300]


def _generation(data: dict[str, Any]) -> Generation:
    choice, usage = data["choices"][0], data.get("usage") or {}
    text = choice["message"]["content"] or ""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    reason = choice["finish_reason"]
    if reason == "stop" and tokens and not text.endswith(tokens[-1]["token"]):
        tokens = tokens[:-1]  # the end token
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Generation(
        text=text,
        pieces=[t["token"] for t in tokens],
        logprobs=[t["logprob"] for t in tokens],
        finish_reason=reason if reason in ("stop", "length") else "error",
        message="" if reason in ("stop", "length") else f"the server ended the request: {reason}",
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=cached,
        output_tokens=usage.get("completion_tokens", 0),
    )
