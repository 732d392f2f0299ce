"""The API, version 1: a room for each thing that it is about."""

from extractor.service.api import adapters, extract, feedback, operations, quality, schemas, sessions, templates

ROUTERS = (
    sessions.entering,
    extract.extracting,
    schemas.reading,
    schemas.trying,
    schemas.saving,
    templates.reviewing,
    templates.saving,
    adapters.reviewing,
    feedback.reviewing,
    quality.reviewing,
    operations.watching,
    operations.probing,
)
