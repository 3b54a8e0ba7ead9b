"""Words a refusal the same way wherever it comes from: RFC 9457, with the member ``error`` for those who read that."""

import json
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.status.report import iso

Raw = tuple[bytes, bytes]
"""A header as ASGI has it: name in lower case, and value."""


CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDING: tuple[Raw, ...] = (
    (b"content-security-policy", CSP),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
"""On every answer, whatever it is; a form has a policy of its own, which differs in where it may go."""
CSP_FORM = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


class Refusal(Exception):
    """A request that gets no for an answer: the status, a code for programs and words for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        suggestions: Sequence[str] = (),
        headers: Sequence[Raw] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.suggestions = list(suggestions)
        self.headers = list(headers)

    def body(self, instance: str, request_id: str) -> bytes:
        """RFC 9457, with the member ``error`` for those who read that."""
        return to_json(
            {
                "type": f"urn:x0tta6bl4:problem:{self.code.lower().replace('_', '-')}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.message,
                "instance": instance,
                "error": {
                    "code": self.code,
                    "message": self.message,
                    "details": self.details,
                    "timestamp": iso(time.time()),
                    "request_id": request_id,
                    "suggestions": self.suggestions,
                },
            }
        )


def to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def store_failing(error: StoreError, what: str) -> Refusal:
    return Refusal(
        503,
        "STORE_FAILING",
        f"{what}: {error.message}",
        suggestions=[error.remedy] if error.remedy else [],
        headers=[(b"retry-after", b"5")],
    )


def unknown(code: str, what: str, suggestions: Sequence[str] = ()) -> Refusal:
    return Refusal(404, code, what, suggestions=suggestions)
