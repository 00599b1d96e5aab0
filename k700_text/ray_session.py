"""The only importer of Ray: joining the cluster that ``RAY_ADDRESS`` names, or starting a local one.

What all that runs there assumes: every node has the same version of this package with its ``cluster`` extra, and sees
the same files under the same names (shared storage).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from k700_text.errors import MissingExtraError, UsageError
from k700_text.starting import patience

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as missing:
    raise MissingExtraError("--engine ray needs Ray: pip install 'k700-text[cluster]' on every node") from missing

__all__ = ["ADDRESS_VARIABLE", "RayError", "RayTaskError", "num_cpus", "num_nodes", "ray", "ray_session"]

ADDRESS_VARIABLE = "RAY_ADDRESS"
# The least that Ray takes: results are taken as they come, and are small.
LOCAL_STORE_BYTES = 128 << 20
# Workers elsewhere finish what they are at, and Ray itself takes its time.
STOP_SECONDS = 60.0


@contextmanager
def ray_session(local_cpus: int) -> Iterator[None]:
    """Joins or starts a Ray, and leaves or stops it at the end; one that this process uses already is left as it is.

    What is printed inside goes to stderr.

    Args:
        local_cpus: what a local Ray promises its tasks; may be more than there are.

    Raises:
        UsageError: the cluster cannot be joined, or a local one not be started.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        # A local Ray listens to the network, but only to those who know this.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    local = {"num_cpus": local_cpus, "object_store_memory": LOCAL_STORE_BYTES, "include_dashboard": False}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **({} if address else local))
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".:")
        if not address:
            raise UsageError(f"cannot start a local Ray: {reason}") from error
        remedy = f"check {ADDRESS_VARIABLE}, and RAY_AUTH_MODE=token if the cluster wants a token"
        raise UsageError(f"cannot join the Ray cluster at {address}: {reason}; {remedy}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has taken it for itself.
    # Ray tells of dead workers on stdout, to the very end; that belongs to the answer of a command.
    with redirect_stdout(sys.stderr), patience(STOP_SECONDS):
        try:
            yield
        finally:
            ray.shutdown()


def num_nodes() -> int:
    """Returns the number of nodes that take tasks (often not the head), at least 1."""
    return max(1, [node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes()].count(True))


def num_cpus() -> int:
    """Returns the number of cores of all nodes, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 0)))
