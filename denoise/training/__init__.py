"""Ray Train and torch: from photographs to a model."""
