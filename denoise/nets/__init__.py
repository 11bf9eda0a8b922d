"""The networks, their packages and what runs them: torch, and no Ray."""

from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]  # of the convolutions
Asked = Literal["auto", "float32", "bfloat16", "float16"]
