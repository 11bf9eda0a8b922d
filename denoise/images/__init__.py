"""One image: its codecs, its noise and its metrics."""
