"""Refusals of requests, in the form of OpenAI's API: rule, value and fix, never what was sent."""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from simvtp.printing import printable

_SERVER_ERROR = 500


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
        message: the rule, the value and the fix; of what was sent no more than its kind and size.
        status: of HTTP.
        code: names the reason for programs.
        param: the part of the request that is at fault, such as `input[3].video`.
        headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def about(self, param: str) -> "Refusal":
        """The same, of a part of the request."""
        self.param = param
        return self

    def response(self) -> Response:
        """The answer."""
        kind = "server_error" if self.status >= _SERVER_ERROR else "invalid_request_error"
        error = {
            "message": printable(self),
            "type": kind,
            "param": self.param,
            "code": self.code,
        }
        return json_response({"error": error}, status=self.status, headers=self.headers)


def busy(message: str, *, seconds: float = 1.0) -> Refusal:
    """A refusal for now; the client is told when to ask again."""
    told = {"Retry-After": str(min(60, max(1, math.ceil(seconds))))}
    return Refusal(message, status=503, code="overloaded", headers=told)


def unread(message: str, *, status: int, code: str, **headers: str) -> Refusal:
    """A refusal before the body was read, which ends the connection: the rest is not taken."""
    return Refusal(message, status=status, code=code, headers={"Connection": "close", **headers})


def json_response(
    values: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer of JSON, in which there is no NaN."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json", headers=dict(headers or {}))
