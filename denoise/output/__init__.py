"""An output folder: its lock, manifest and tables."""
