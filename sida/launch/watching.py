"""A thread that lists, then watches, and puts what it sees into a queue: it outlives expired watches, lost versions and outages."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

from sida.launch.cluster import MAX_PAUSE, WATCH_SECONDS, Cluster, Refused, lines, passing

LISTED, REFUSED = "LISTED", "REFUSED"  # beside Kubernetes' ADDED, MODIFIED, DELETED

Seen = tuple[str, str, Any]  # (kind, what happened, object, list of objects, or Refused)


class Gone(Exception):
    """The version we were at is too old: list again."""


def start_watch(
    kind: str, name: str, cluster: Cluster, out: queue.Queue[Seen], stop: threading.Event
) -> threading.Thread:
    """Watch "trainjobs" or "events" of ``name``, or "pods" that have its labels, until ``stop`` is set."""
    thread = threading.Thread(target=_watch, args=(kind, name, cluster, out, stop), name=f"watch {kind}", daemon=True)
    thread.start()
    return thread


def _watch(kind: str, name: str, cluster: Cluster, out: queue.Queue[Seen], stop: threading.Event) -> None:
    version, pause = "", 1.0
    while not stop.is_set():
        try:
            if not version:
                with cluster.objects(kind, name) as response:
                    listed = json.loads(response.data)
                version = listed["metadata"]["resourceVersion"]
                out.put((kind, LISTED, listed["items"]))
            for what, seen in _events(kind, name, cluster, version):
                version = seen["metadata"]["resourceVersion"]
                if what != "BOOKMARK":
                    out.put((kind, what, seen))
                if stop.is_set():
                    return
            pause = 1.0  # it ended in peace: the next one begins where it stopped
            cluster.clock.wait(stop, 0.1)  # a server that ends every watch at once is not to be stormed
        except Gone:
            version = ""
            cluster.clock.wait(stop, pause)
        except Exception as error:
            if passing(error) is None:
                if isinstance(error, Refused):
                    out.put((kind, REFUSED, error))
                    return
                raise
            cluster.clock.wait(stop, pause)
            pause = min(2 * pause, MAX_PAUSE)


def _events(kind: str, name: str, cluster: Cluster, version: str) -> Any:
    """(what, object) of one watch, until the server ends it."""
    options = {"watch": True, "resource_version": version, "timeout_seconds": WATCH_SECONDS}
    try:
        response = cluster.objects(kind, name, allow_watch_bookmarks=True, **options)
    except Refused as error:
        if error.status == 410:
            raise Gone from error
        raise
    for line in lines(response):
        event = json.loads(line)
        cluster.reach.heard()
        if event["type"] == "ERROR":
            code = event["object"].get("code")
            if code == 410:
                raise Gone
            raise Refused(code or 500, event["object"].get("reason", ""), event["object"].get("message", ""))
        yield event["type"], event["object"]
