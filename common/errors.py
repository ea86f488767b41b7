"""Every error that crosses a process boundary, and how it is spelled there.

    EPDError
    ├── InvalidRequestError          the caller's fault: HTTP 400, gRPC INVALID_ARGUMENT
    │   ├── BadMediaError            a media item that can't be fetched, read or used
    │   └── ContextLengthError       prompt and answer do not fit the model's context
    ├── OverloadedError              a bounded queue is full, try again: 429, RESOURCE_EXHAUSTED
    ├── UnavailableError             no server can do it now: 503, UNAVAILABLE
    │   ├── MovedError               the server drains: the work goes on elsewhere
    │   └── MediaLostError           an item could not be delivered within the retry budget
    ├── DeadlineError                the request's time is up: 504, DEADLINE_EXCEEDED
    ├── CancelledError               the caller left: CANCELLED
    ├── ModelMismatchError           two servers hold different models: 503, FAILED_PRECONDITION
    └── InternalError                our fault: 500, INTERNAL

On the wire an error is an `Error` message (`to_wire`, `from_wire`); where gRPC allows only a status, `grpc_status`.
"""

from __future__ import annotations

import grpc

from common.pb import common_pb2 as pb


class EPDError(Exception):
    """Base of all; `message` is fit for the caller's eyes and never holds a path, an address or a stack."""

    code: pb.Error.Code = pb.Error.INTERNAL
    grpc_status: grpc.StatusCode = grpc.StatusCode.INTERNAL
    http_status: int = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def to_wire(self) -> pb.Error:
        return pb.Error(code=self.code, message=self.message)


class InvalidRequestError(EPDError):
    code = pb.Error.INVALID_REQUEST
    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


class BadMediaError(InvalidRequestError):
    code = pb.Error.BAD_MEDIA


class ContextLengthError(InvalidRequestError):
    code = pb.Error.CONTEXT_LENGTH_EXCEEDED


class OverloadedError(EPDError):
    code = pb.Error.OVERLOADED
    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429


class UnavailableError(EPDError):
    code = pb.Error.UNAVAILABLE
    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class MovedError(UnavailableError):
    code = pb.Error.MOVED


class MediaLostError(UnavailableError):
    code = pb.Error.MEDIA_LOST


class DeadlineError(EPDError):
    code = pb.Error.DEADLINE_EXCEEDED
    grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504


class CancelledError(EPDError):
    code = pb.Error.CANCELLED
    grpc_status = grpc.StatusCode.CANCELLED
    http_status = 499


class ModelMismatchError(EPDError):
    code = pb.Error.MODEL_MISMATCH
    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 503


class InternalError(EPDError):
    code = pb.Error.INTERNAL


_BY_CODE: dict[int, type[EPDError]] = {
    error.code: error
    for error in (
        InvalidRequestError,
        BadMediaError,
        ContextLengthError,
        OverloadedError,
        UnavailableError,
        MovedError,
        MediaLostError,
        DeadlineError,
        CancelledError,
        ModelMismatchError,
        InternalError,
    )
}

_BY_GRPC_STATUS: dict[grpc.StatusCode, type[EPDError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelMismatchError,
}


def from_wire(error: pb.Error) -> EPDError:
    """The exception that `error` stands for; a code of a newer version becomes `InternalError`."""
    return _BY_CODE.get(error.code, InternalError)(error.message)


def from_rpc_error(error: grpc.RpcError, peer: str) -> EPDError:
    """The one place where gRPC's exceptions become ours; `peer` says who failed ("encode server 10.0.0.1:9001")."""
    status = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)
    return _BY_GRPC_STATUS.get(status, InternalError)(f"{peer}: {details or status.name.lower()}")
