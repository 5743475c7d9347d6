"""What watches over the Pi asks: is it alive, can it take writes, and its figures for Prometheus."""

from __future__ import annotations

import shutil
from pathlib import Path

from flask import Blueprint, Response, jsonify, request

from changelog.errors import Unavailable
from changelog.node.access import from_loopback
from changelog.node.settings import Settings
from pi.keys import Keys
from pi.measures import Measures
from pi.writer import Writer

LEAST_FREE = 64 * 2**20  # bytes: with less, the next checkpoint, log rows or snapshot may find no place


def blueprint(settings: Settings, writer: Writer, keys: Keys, measures: Measures) -> Blueprint:
    """The routes /livez and /readyz, without a key, and /metrics, for a key of the role metrics or replica, or for this machine."""
    routes = Blueprint("probes", __name__)

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(success=True)

    @routes.get("/readyz")
    def readyz() -> Response:
        cause = not_ready(writer, settings.farm_db.parent)
        if cause:
            raise Unavailable(f"This Pi cannot take writes: {cause}.")
        return jsonify(success=True)

    @routes.get("/metrics")
    def metrics() -> Response:
        if request.headers.get("X-API-Key") is not None or not from_loopback(request, settings.trust_loopback):
            keys.admit("metrics", "replica")
        return measures.metrics.response()

    return routes


def not_ready(writer: Writer, folder: Path, least_free: int = LEAST_FREE) -> str | None:
    """Why no write can be promised just now, in words that anybody may read, or None.

    Of the disk that `folder` is on, `least_free` bytes must be free.
    """
    if writer.outage:
        return writer.outage
    free = shutil.disk_usage(folder).free
    return f"its disk is nearly full, {free // 2**20} MiB are free" if free < least_free else None
