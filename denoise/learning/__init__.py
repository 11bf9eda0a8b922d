"""Training, exact and resumable: from photos to a model package."""
