"""Add Gaussian noise to images: a table of clean and noisy pairs.

On a cluster, from a clone:
    ray job submit --working-dir . -- python -m jobs.noise --images s3://b/in --output s3://b/pairs
Here: python -m jobs.noise --images photos --output pairs
"""

from denoise.__main__ import main

if __name__ == "__main__":
    main(verb="noise")
