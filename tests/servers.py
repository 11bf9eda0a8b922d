"""Object stores on this machine's loopback, real servers each, and a proxy that disturbs one.

Every server is a process group of its own on a free port, ended by its own id. Its `env` holds
what a program needs to find the store: tests hand it to subprocesses or to `monkeypatch`.
"""

import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import fsspec
import pytest

from denoise.storage import stores

SECRET = "a-planted-secret-that-nobody-may-print"  # what the tests look for in every log
AZURITE = "3.35.0"  # the newest that Node 20 runs
# Read when gcsfs is imported, whoever does that first; the emulator speaks no gRPC.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# The account that azurite is documented to have; it opens nothing else.
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True)
class Store:
    """A running store: a bucket's URI, its endpoint, and the environment that leads there."""

    root: str
    endpoint: str
    env: dict[str, str]


@contextmanager
def visible(store: Store) -> Iterator[Store]:
    """Lets this very process see a store, which others are told of by their environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        patch.setattr(fsspec.config, "conf", {})
        fsspec.config.set_conf_env(fsspec.config.conf)
        _forget(store)
        try:
            yield store
        finally:
            _forget(store)


def _forget(store: Store) -> None:
    """Drops the connections that fsspec and we keep: the next server has another port."""
    stores._store.cache_clear()
    fsspec.get_filesystem_class(store.root.partition(":")[0]).clear_instance_cache()


@contextmanager
def s3(bucket: str = "bucket") -> Iterator[Store]:
    """moto's S3 server; it takes any credentials, so these are a planted secret."""
    port = free_port()
    with _process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        endpoint = f"http://127.0.0.1:{port}"
        _ask(endpoint, "PUT", f"/{bucket}")
        yield Store(f"s3://{bucket}", endpoint, s3_environment(endpoint))


def s3_environment(endpoint: str) -> dict[str, str]:
    """Where an S3-compatible store is, in the variables that all of AWS's tools read."""
    return {
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextmanager
def gcs(bucket: str = "bucket") -> Iterator[Store]:
    """gcp-storage-emulator, in memory, with pages."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", bucket]
    with _process(command, port), _proxy(f"http://127.0.0.1:{port}", _Paging) as endpoint:
        yield Store(
            f"gs://{bucket}",
            endpoint,
            {
                "STORAGE_EMULATOR_HOST": endpoint,
                "FSSPEC_GS": json.dumps({"token": "anon", "endpoint_url": endpoint}),
                "FSSPEC_GCS": json.dumps({"token": "anon", "endpoint_url": endpoint}),
            },
        )


@contextmanager
def azure(container: str = "bucket") -> Iterator[Store]:
    """azurite, in memory; `azurite_program` says whether it can be had."""
    port = free_port()
    command = ["node", str(azurite_program()), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with _process(command, port):
        endpoint = f"http://127.0.0.1:{port}/{_AZURE_ACCOUNT}"
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={_AZURE_ACCOUNT};"
            f"AccountKey={_AZURE_KEY};BlobEndpoint={endpoint};"
        )
        env = {"AZURE_STORAGE_CONNECTION_STRING": connection}
        make = "import fsspec; fsspec.filesystem('az').mkdir('" + container + "')"
        subprocess.run([sys.executable, "-c", make], env=os.environ | env, check=True, timeout=60)
        yield Store(f"az://{container}", endpoint, env)


def azurite_program() -> Path:
    """azurite's script, installed into the user's cache by npm when first asked for.

    Raises RuntimeError saying why there is none: the tests skip with that reason.
    """
    if not shutil.which("npm") or not shutil.which("node"):
        raise RuntimeError("azurite needs Node.js and npm, which are not here")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "denoise-tests" / f"azurite-{AZURITE}"
    program = home / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not program.exists():
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home)]
        done = subprocess.run([*command, f"azurite@{AZURITE}"], capture_output=True, timeout=300)
        if done.returncode or not program.exists():
            shutil.rmtree(home, ignore_errors=True)
            raise RuntimeError(f"npm could not install azurite: {done.stderr.decode()[:200]}")
    return program


# A rule looks at the number of a request, its method and its path, and names a fault or None.
Rule = Callable[[int, str, str], str | None]


@contextmanager
def faulty(endpoint: str, rule: Rule) -> Iterator[str]:
    """A proxy in front of an HTTP store; yields its endpoint.

    Faults: `error` answers 500, `throttle` 503, `stall` never answers (until the proxy ends), `cut`
    announces a whole body, sends half of it and breaks off, `slow` takes a while.
    """
    with _proxy(endpoint, _Handler, rule) as proxy:
        yield proxy


@contextmanager
def _proxy(
    endpoint: str, handler: type["_Handler"], rule: Rule = lambda *request: None
) -> Iterator[str]:
    server = _Proxy(("127.0.0.1", 0), handler)
    server.endpoint, server.rule = endpoint, rule
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, content


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    endpoint: str
    rule: Rule

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.over = threading.Event()
        self.numbers = itertools.count()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was stopped waits for no answer; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.rule(next(self.server.numbers), self.command, self.path)
        if fault == "stall":
            self.server.over.wait(300)
            self.close_connection = True
        elif fault in _STATUS:
            self._answer(_STATUS[fault], [], b"")
        else:
            self.server.over.wait(0.25 if fault == "slow" else 0)
            self._answer(*self._fetched(body), cut=fault == "cut")

    def _fetched(self, body: bytes) -> Answer:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        return _ask(self.server.endpoint, self.command, self.path, body, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = next((v for k, v in headers if k.lower() == "content-length"), len(content))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        """Says nothing: the tests look at what the program under test prints."""


_STATUS = {"error": 500, "throttle": 503}


class _Paging(_Handler):
    """Gives as many names as were asked for, as Google's store does; the emulator gives all."""

    def _fetched(self, body: bytes) -> Answer:
        status, headers, content = super()._fetched(body)
        asked = dict(parse_qsl(urlsplit(self.path).query))
        if status != 200 or "maxResults" not in asked:
            return status, headers, content
        listed = json.loads(content)
        items, prefixes = listed.get("items", []), listed.get("prefixes", [])
        start, count = int(asked.get("pageToken", 0)), int(asked["maxResults"])
        names = sorted([item["name"] for item in items] + prefixes)
        page = names[start : start + count]
        listed["items"] = [item for item in items if item["name"] in page]
        listed["prefixes"] = [prefix for prefix in prefixes if prefix in page]
        if start + count < len(names):
            listed["nextPageToken"] = str(start + count)
        content = json.dumps(listed).encode()
        headers = [(name, v) for name, v in headers if name.lower() != "content-length"]
        return status, headers, content


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    """Ends a process that leads a session of its own, and all that it started in there."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(seconds)


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(port, process)
        yield
    finally:
        stop(process)


def _wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not answer on port {port}")


def _ask(
    endpoint: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()
