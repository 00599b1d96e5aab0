"""The Data API's errors in its envelope: ready answers of section 2.4 of the service contracts, also to script."""

from __future__ import annotations

import json
from typing import Any

from k700_text.sandbox.messages import Response

HEADERS = (
    ("Content-Type", "application/json; charset=UTF-8"),
    ("Vary", "Origin, X-Origin, Referer"),
    ("Server", "scaffolding on HTTPServer2"),
    ("Cache-Control", "private"),
    ("X-Content-Type-Options", "nosniff"),
)


def error(
    code: int,
    message: str,
    reason: str,
    domain: str,
    location: tuple[str, str] | None = None,
    *,
    status: str | None = None,
    details: list[dict[str, Any]] | None = None,
) -> Response:
    """Returns an error in the API's envelope; ``status`` and ``details`` only occur in its newer answers."""
    entry = {"message": message, "domain": domain, "reason": reason}
    if location is not None:
        entry.update(location=location[0], locationType=location[1])
    envelope: dict[str, Any] = {"code": code, "message": message, "errors": [entry]}
    if status is not None:
        envelope["status"] = status
    if details is not None:
        envelope["details"] = details
    return Response(code, HEADERS, json.dumps({"error": envelope}, indent=2).encode())


def invalid_key() -> Response:
    """Returns the modern answer to a key that does not exist."""
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "youtube.googleapis.com"},
    }
    message = "API key not valid. Please pass a valid API key."
    return error(400, message, "badRequest", "global", status="INVALID_ARGUMENT", details=[detail])


def quota_exceeded() -> Response:
    """Returns the answer of a used-up daily quota; its message holds HTML, as the service's does."""
    message = (
        "The request cannot be completed because you have exceeded your "
        '<a href="/youtube/v3/getting-started#quota">quota</a>.'
    )
    return error(403, message, "quotaExceeded", "youtube.quota")


def old_invalid_key() -> Response:
    """Returns the older answer to a key that does not exist."""
    return error(400, "Bad Request", "keyInvalid", "usageLimits")


def access_not_configured() -> Response:
    """Returns the answer to the key of a project in which the API is switched off."""
    message = "Access Not Configured. YouTube Data API has not been used in this project before or it is disabled."
    return error(403, message, "accessNotConfigured", "usageLimits")


def rate_limit_exceeded() -> Response:
    """Returns the older answer to a burst: a 403 that is over in a second."""
    return error(403, "Rate Limit Exceeded", "rateLimitExceeded", "usageLimits")


def resource_exhausted() -> Response:
    """Returns the newer answer to a burst."""
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {"service": "youtube.googleapis.com"},
    }
    message = "Resource has been exhausted (e.g. check quota)."
    return error(429, message, "rateLimitExceeded", "global", status="RESOURCE_EXHAUSTED", details=[detail])


def backend_error(code: int = 503) -> Response:
    """Returns a fault of the server: 503 backendError, or 500 internalError."""
    reason = "internalError" if code == 500 else "backendError"
    return error(code, "Backend Error", reason, "global", status="INTERNAL" if code == 500 else "UNAVAILABLE")
