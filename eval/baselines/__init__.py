"""Systems to compare with. Each learns from labelled offers and then has the Extractor's own method, `extract(offers)`."""
