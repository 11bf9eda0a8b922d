"""Denoise images in bulk and measure the result.

On a cluster, from a clone:
    ray job submit --working-dir . -- python -m jobs.infer --images s3://b/photos --output s3://b/out
Here: python -m jobs.infer --images photos --output out
"""

from denoise.__main__ import main

if __name__ == "__main__":
    main(verb="infer")
