"""Averages the weights of two models of one shape, such as one and what it was trained on to.

    python -m tests.bench.average FIRST SECOND --share 0.7 --into DESTINATION

A training on other pictures gains there and loses a little where the first model was good. Between
the two lies a model that keeps most of both (Wortsman et al., Robust fine-tuning of zero-shot
models, 2022). The record is the second's, the card says what was averaged.
"""

import argparse

from denoise.nets import package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--share", type=float, default=0.7, help="of the second, 0..1")
    parser.add_argument("--into", required=True, help="the folder of the new package")
    given = parser.parse_args()
    first, second = package.load(given.first), package.load(given.second)
    before, after = first.model.state_dict(), second.model.state_dict()
    if {name: value.shape for name, value in before.items()} != {
        name: value.shape for name, value in after.items()
    }:
        parser.error(f"{given.first} and {given.second} have other shapes of weights")
    second.model.load_state_dict(
        {name: before[name].lerp(value, given.share) for name, value in after.items()}
    )
    averaged = f"{1 - given.share:.0%} {first.id}, {given.share:.0%} {second.id}"
    card = f"The average of the weights of two models: {averaged}.\n"
    digest = package.save(
        given.into, second.model, second.config | {"averaged": averaged, "card": card}, half=True
    )
    print(f"{given.into}: {averaged}; digest {digest}")


if __name__ == "__main__":
    main()
