"""How training workers find each other where they share one machine: by a file, over loopback.

Ray's own way opens a port that answers whoever asks; across machines there is no other, and for one
worker there is nothing to find.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from tempfile import mkdtemp

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend as TorchBackend


@dataclass
class OnOneMachine(TorchConfig):  # type: ignore[misc]  # ray is left out of type checking
    """Ray Train's configuration of a group whose workers are all on this machine."""

    folder: str = ""  # where they meet: Ray's own, gone with its session

    @property
    def backend_cls(self) -> type[TorchBackend]:
        return _OnOneMachine


class _OnOneMachine(TorchBackend):  # type: ignore[misc]  # likewise
    """Ray makes and ends the group as ever, only its beginning is another."""

    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]  # as Ray's
        count = len(worker_group)
        if count == 1:
            return
        place = os.path.join(mkdtemp(dir=backend_config.folder), "group")
        kind, timeout = backend_config.backend, timedelta(seconds=backend_config.timeout_s)
        joins = [
            worker_group.execute_single_async(rank, _join, kind, place, rank, count, timeout)
            for rank in range(count)
        ]
        ray.get(joins)


def _join(kind: str, place: str, rank: int, count: int, timeout: timedelta) -> None:
    """Runs in each worker."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    dist.init_process_group(
        kind, init_method=f"file://{place}", rank=rank, world_size=count, timeout=timeout
    )
