"""The process of the service: uvicorn around the application, from start to graceful end."""

import gc
import socket
from concurrent.futures import Future

import uvicorn

from extractor.errors import InputError
from extractor.service.app import create_app
from extractor.service.observe import log, log_as_json
from extractor.service.served import Service

GRACE = 30  # seconds for what the engine has begun


class Server(uvicorn.Server):
    """Answers whoever waits before it waits for the answers that are under way; ends where no engine can be started at all."""

    def __init__(self, service: Service, host: str = "127.0.0.1", port: int = 0) -> None:
        self._service = service
        super().__init__(
            uvicorn.Config(
                create_app(service),
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE,
            )
        )
        service.batcher.started.add_done_callback(self._started)

    def _started(self, started: "Future[None]") -> None:
        if (error := started.exception()) and not getattr(error, "retryable", False):
            self.should_exit = True
        else:
            log.info("the engine answers" if error is None else "the engine does not answer yet")

    async def shutdown(self, sockets: "list[socket.socket] | None" = None) -> None:
        self._service.training.drain()
        self._service.jobs.drain()
        self._service.batcher.drain()
        await super().shutdown(sockets)


def serve(service: Service, host: str, port: int) -> None:
    """Until a signal says otherwise. Raises what kept the engine from starting, InputError for an address that is taken."""
    log_as_json()
    with _bound(host, port) as listener:
        log.info(f"listening on http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
        service.batcher.started.add_done_callback(settle)
        server = Server(service, host, port)
        server.run([listener])
    started = service.batcher.started
    if started.done() and (error := started.exception()) and not getattr(error, "retryable", False):
        raise error


def settle(started: "Future[None]") -> None:
    """What is in memory when the engine has started is there to stay, and is left out of garbage collection from now on: to look
    at all that was ever imported, a tenth of a second each time, took a quarter of a busy service's time."""
    gc.collect()
    gc.freeze()


def _bound(host: str, port: int) -> socket.socket:
    """Before the engine starts, which may take half a minute."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise InputError(f"{host}:{port}: {error.strerror}; choose another --host or --port") from error
