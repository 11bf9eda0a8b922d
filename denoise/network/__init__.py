"""torch, no Ray: the networks, saved, loaded and run."""
