"""The extraction service: an Extractor behind HTTP. `shelfwise serve` starts it."""
