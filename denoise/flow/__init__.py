"""Ray, no torch: images on their way through many workers."""
