"""The API, version 1: a room for each thing that it is about."""

from extractor.service.api import (
    adapters,
    extract,
    feedback,
    jobs,
    operations,
    quality,
    results,
    schemas,
    sessions,
    templates,
    training,
    uploads,
)

ROUTERS = (
    sessions.entering,
    extract.extracting,
    uploads.sending,
    jobs.working,
    results.downloading,
    schemas.reading,
    schemas.trying,
    schemas.saving,
    templates.reviewing,
    templates.saving,
    adapters.reviewing,
    training.reviewing,
    training.deciding,
    feedback.reviewing,
    quality.reviewing,
    operations.watching,
    operations.probing,
)
