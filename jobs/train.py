"""Train a model on clean images, or on the pairs that the noise job wrote.

On a cluster, from a clone:
    ray job submit --working-dir . -- python -m jobs.train --images s3://b/in --output s3://b/model
Here: python -m jobs.train --images photos --output model
"""

from denoise.__main__ import main

if __name__ == "__main__":
    main(verb="train")
