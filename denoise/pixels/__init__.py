"""Arrays only: one image's bytes, pixels, noise and measures."""
