"""A read-only S3 on loopback that answers as slowly as it is told to, and counts what it was asked.

nginx serves objects as static files (ranges, ETag, If-Match, sendfile) and s3.lua the listings. Each answer begins
`ttfb_s` late and each connection gets `bytes_per_s`. Every system is measured against this one server, so that
requests and bytes are counted in one place: its access log.
"""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_MODULES = Path("/usr/lib/nginx/modules")
_START_S = 10.0
_DRAIN_S = 5.0
_LISTING_S = 600  # a million files whose inodes are not in memory took 70 s
# One write of a connection under a rate: 8 ms of it. nginx sleeps after a write for as long as the rate says that it
# took, in whole milliseconds, so that a write must be a whole number of them. Its own default of 2 MiB would let the
# first 2 MiB of every answer through at once; 4 ms lose a fifth at 16 connections to timers that fire late. Measured
# with 8 ms: 58 to 61 MB/s on one connection for 1, 8 and 64 MiB, 740 MB/s on 16 for ranges of 8 MiB (of 850 that the
# delay and the rate would allow).
_WRITE_S = 0.008

# One worker: a GiB costs it 0.2 to 0.3 s of CPU, and without delay and rate it gives 1.4 GB/s to 16 connections, more
# than any system here takes. A second would hold the listings a second time and compete with those that are measured.
_CONFIG = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/pid;
error_log {folder}/error;
{user}
events {{ worker_connections 4096; }}
http {{
  log_format counted '$request_method $status $body_bytes_sent "$http_range" $request_uri';
  access_log {folder}/access counted;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  lua_package_path '{lua}/?.lua;;';
  default_type application/octet-stream;
  keepalive_requests 10000000;
  keepalive_timeout 300;
  sendfile on;
  tcp_nodelay on;
  {rate}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root {root};
    location = /.status {{ access_log off; stub_status; }}
    location / {{
      limit_except GET {{ deny all; }}
      access_by_lua_block {{
        if {ttfb_s} > 0 then ngx.sleep({ttfb_s}) end
        if ngx.var.uri:match('^/[^/]+/?$') then
          if ngx.req.get_method() == 'HEAD' then return ngx.exit(200) end
          return ngx.exec('@listing')
        end
      }}
      try_files $uri @missing;
    }}
    location @listing {{ content_by_lua_block {{ require('s3').answer('{root}') }} }}
    location @missing {{ default_type application/xml; return 404 '<Error><Code>NoSuchKey</Code></Error>'; }}
  }}
}}
"""


class ServerFailed(Exception):
    """nginx did not start, or answers no more."""


@dataclass(frozen=True)
class Traffic:
    """What a server was asked, and the bytes of objects that it sent."""

    gets: int = 0
    heads: int = 0
    lists: int = 0
    refused: int = 0
    object_bytes: int = 0

    @property
    def requests(self) -> int:
        return self.gets + self.heads + self.lists


class Server:
    """A running server over ROOT/<bucket>/<key>; a context manager. A delay or rate of 0 is none."""

    def __init__(self, root: Path, folder: Path, ttfb_s: float, bytes_per_s: int) -> None:
        self._root, self._folder = root.resolve(), folder.resolve()
        self._ttfb_s, self._bytes_per_s = ttfb_s, bytes_per_s
        self._process: subprocess.Popen[bytes] | None = None
        self._read_to = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "access").touch()
        self.port = _free_port()
        (self._folder / "nginx.conf").write_text(self._config())
        # It goes with this process even if that is killed; in a session of its own no Ctrl-C reaches it early.
        command = ["setpriv", "--pdeathsig", "TERM", _nginx(), "-e", f"{self._folder}/error", "-p", str(self._folder)]
        self._process = subprocess.Popen(
            [*command, "-c", f"{self._folder}/nginx.conf"], start_new_session=True, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # the worker is in its session
            self._process.wait()
        self._process = None

    def warm(self, bucket: str) -> None:
        """Has the bucket's listing read, so that no measured request waits for it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_LISTING_S)
        connection.request("GET", f"/{bucket}?list-type=2&max-keys=1")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            raise ServerFailed(f"listing {bucket}: {answer.status}: {self._complaint()}")

    def traffic(self) -> Traffic:
        """What was asked since the last call. An answer is counted at its end: waits for those that are on the way."""
        deadline = time.monotonic() + _DRAIN_S
        while self._answering() and time.monotonic() < deadline:
            time.sleep(0.02)
        with (self._folder / "access").open("rb") as log:
            log.seek(self._read_to)
            lines = log.readlines()
        self._read_to += sum(map(len, lines))
        return _count([line.decode(errors="replace").split(" ") for line in lines])

    def _config(self) -> str:
        rate = ""
        if self._bytes_per_s:
            rate = f"limit_rate {self._bytes_per_s}; sendfile_max_chunk {int(self._bytes_per_s * _WRITE_S)};"
        user = "user root root;" if os.geteuid() == 0 else ""  # else the worker is somebody who may not see the files
        return _CONFIG.format(
            modules=_MODULES,
            folder=self._folder,
            user=user,
            lua=Path(__file__).resolve().parent,
            rate=rate,
            port=self.port,
            root=self._root,
            ttfb_s=self._ttfb_s,
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self._answering()
                return
            except OSError:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise ServerFailed(f"nginx did not start: {self._complaint()}") from None
                time.sleep(0.02)

    def _answering(self) -> bool:
        """Whether any answer but this one is on its way."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", "/.status")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(r"Writing: (\d+)", text)
        return found is not None and int(found[1]) > 1

    def _complaint(self) -> str:
        try:
            return (self._folder / "error").read_text()[-500:].strip()
        except OSError:
            return "it says nothing"


def version() -> str:
    """nginx's version."""
    out = subprocess.run([_nginx(), "-v"], capture_output=True, text=True, check=False).stderr
    return out.strip().rpartition("/")[2]


def _nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None or not (_MODULES / "ngx_http_lua_module.so").exists():
        raise ServerFailed("nginx and its Lua module are needed: apt-get install nginx libnginx-mod-http-lua")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _count(lines: list[list[str]]) -> Traffic:
    gets = heads = lists = refused = object_bytes = 0
    for method, status, body_bytes, *rest in lines:
        is_object = "/" in rest[-1].partition("?")[0].strip().strip("/")
        refused += int(status) >= 400
        if method == "HEAD":
            heads += 1
        elif is_object:
            gets += 1
            object_bytes += int(body_bytes)
        else:
            lists += 1
    return Traffic(gets, heads, lists, refused, object_bytes)
