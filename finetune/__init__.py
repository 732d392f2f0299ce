"""Training: the synthetic corpus and the base model."""
