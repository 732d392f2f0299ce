"""`shelfwise serve`."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from extractor.config import open_extractor, schemas_of, settings_of
from extractor.demonstrations import check_demonstrations
from extractor.errors import InputError, MissingExtraError
from extractor.extract import Extractor
from extractor.io import read_labelled
from extractor.options import (
    Adapter,
    Adapters,
    BaseUrl,
    Calibration,
    Choice,
    DataDir,
    Demonstrations,
    Engine,
    Grounding,
    K,
    Known,
    MaskPii,
    Model,
    Order,
    StoreAddress,
    Template,
    opened_database,
)
from extractor.prompts import Template as Prompt

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def serve(
    context: typer.Context,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    schema: Annotated[Path | None, typer.Option(help="A schema, or a folder of schemas.")] = None,
    attributes: Annotated[str | None, typer.Option(help="Zero-shot: attribute names, with commas between.")] = None,
    auth: Annotated[bool, typer.Option("--auth/--no-auth", help="Without keys, on a loopback address alone.")] = True,
    max_batch: Annotated[int, typer.Option(min=1, help="Offers of one call to the engine.")] = 256,
    window: Annotated[float, typer.Option(min=0, help="Milliseconds in which they are gathered.")] = 10.0,
    queue: Annotated[int, typer.Option(min=1, help="Offers that may wait; beyond it the answer is 429.")] = 4096,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second of one key; 0 for any.")] = 100.0,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for an answer without X-Timeout.")] = 60.0,
    thresholds: Annotated[
        str | None,
        typer.Option(help="From which confidence on values need no review: a number, or a file of `eval thresholds`."),
    ] = None,
    store: StoreAddress = None,
    data_dir: DataDir = None,
    demonstrations: Demonstrations = None,
    k: K = None,
    choice: Choice = None,
    order: Order = None,
    known: Known = None,
    template: Template = None,
    grounding: Grounding = None,
    mask_pii: MaskPii = None,
    truncate: Annotated[bool | None, typer.Option("--truncate", help="Cut offers that overflow the context.")] = None,
    calibration: Calibration = None,
    engine: Engine = None,
    model: Model = None,
    adapter: Adapter = None,
    adapters: Adapters = None,
    base_url: BaseUrl = None,
    api_key: Annotated[str | None, typer.Option(help="For that server; better in SHELFWISE_API_KEY.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests under way at a server. (default: 64)")] = None,
) -> None:
    """Serve extraction over HTTP."""
    try:
        from extractor.adapters import Registry
        from extractor.database import default_file
        from extractor.definitions import Definitions
        from extractor.feedback import Store, thresholds_of
        from extractor.keys import Keys
        from extractor.service.auth import is_loopback
        from extractor.service.serve import serve as run
        from extractor.service.served import Limits, Service, prompter, trained_schemas
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or "fastapi").split(".")[0], "service") from error
    if not auth and not is_loopback(host):
        raise InputError(f"--no-auth lets anybody in, and {host} can be reached from elsewhere; use 127.0.0.1, or keys")
    settings, schemas = settings_of(context.params), schemas_of(schema, attributes)
    labelled = read_labelled(demonstrations) if demonstrations else []
    check_demonstrations(labelled, schemas)
    limits = Limits(batch=max_batch, window=window / 1000, queue=queue, rate=rate or None, timeout=timeout)
    accepting = thresholds_of(thresholds)
    with opened_database(store, data_dir) as database:
        keys = Keys(database) if auth else None
        if keys and not any(key.revoked is None for key in keys.all()):
            errors.print("there is no key yet, and nobody gets in without: shelfwise keys create NAME --role extract")
        definitions = Definitions(database)
        own = None if settings.template.endswith(".jinja") else definitions.template(settings.template)

        def registry() -> Registry | None:  # as it is now, for adapters are promoted while the service runs
            return Registry(settings.adapters) if settings.adapters else None

        def opened() -> AbstractContextManager[Extractor]:
            return open_extractor(settings, trained_schemas(schemas, definitions, registry()), labelled, own)

        def prompting(template: Prompt | None) -> Extractor:
            return prompter(settings, trained_schemas(schemas, definitions, registry()), labelled, template, own=own)

        folder = default_file(data_dir).parent
        kept = Store(database, accepting)
        asking = (settings, labelled, own)
        run(Service(opened, schemas, prompting, kept, folder, keys, limits, asking, registry()), host, port)
