from common.pb import common_pb2 as _common_pb2
from common.pb import embedding_pb2 as _embedding_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncodeCommand(_message.Message):
    __slots__ = ("open", "chunk", "grant")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    open: OpenEncode
    chunk: MediaChunk
    grant: _embedding_pb2.Grant
    def __init__(self, open: _Optional[_Union[OpenEncode, _Mapping]] = ..., chunk: _Optional[_Union[MediaChunk, _Mapping]] = ..., grant: _Optional[_Union[_embedding_pb2.Grant, _Mapping]] = ...) -> None: ...

class OpenEncode(_message.Message):
    __slots__ = ("key", "kind", "options", "fingerprint", "sizes", "media_digest", "request_id", "deadline_seconds", "is_probe")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IS_PROBE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    kind: _common_pb2.MediaKind
    options: _common_pb2.MediaOptions
    fingerprint: bytes
    sizes: _containers.RepeatedScalarFieldContainer[int]
    media_digest: bytes
    request_id: str
    deadline_seconds: float
    is_probe: bool
    def __init__(self, key: _Optional[bytes] = ..., kind: _Optional[_Union[_common_pb2.MediaKind, str]] = ..., options: _Optional[_Union[_common_pb2.MediaOptions, _Mapping]] = ..., fingerprint: _Optional[bytes] = ..., sizes: _Optional[_Iterable[int]] = ..., media_digest: _Optional[bytes] = ..., request_id: _Optional[str] = ..., deadline_seconds: _Optional[float] = ..., is_probe: bool = ...) -> None: ...

class MediaChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class EncodeEvent(_message.Message):
    __slots__ = ("accepted", "metadata", "shipped", "ship_failed", "error", "load")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SHIPPED_FIELD_NUMBER: _ClassVar[int]
    SHIP_FAILED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    accepted: EncodeAccepted
    metadata: _common_pb2.MediaMetadata
    shipped: Shipped
    ship_failed: ShipFailed
    error: _common_pb2.Error
    load: _common_pb2.Load
    def __init__(self, accepted: _Optional[_Union[EncodeAccepted, _Mapping]] = ..., metadata: _Optional[_Union[_common_pb2.MediaMetadata, _Mapping]] = ..., shipped: _Optional[_Union[Shipped, _Mapping]] = ..., ship_failed: _Optional[_Union[ShipFailed, _Mapping]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., load: _Optional[_Union[_common_pb2.Load, _Mapping]] = ...) -> None: ...

class EncodeAccepted(_message.Message):
    __slots__ = ("send_media",)
    SEND_MEDIA_FIELD_NUMBER: _ClassVar[int]
    send_media: bool
    def __init__(self, send_media: bool = ...) -> None: ...

class Shipped(_message.Message):
    __slots__ = ("grant_id", "bytes", "transport", "times")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    grant_id: bytes
    bytes: int
    transport: _embedding_pb2.Transport
    times: _containers.RepeatedCompositeFieldContainer[_common_pb2.StageTime]
    def __init__(self, grant_id: _Optional[bytes] = ..., bytes: _Optional[int] = ..., transport: _Optional[_Union[_embedding_pb2.Transport, str]] = ..., times: _Optional[_Iterable[_Union[_common_pb2.StageTime, _Mapping]]] = ...) -> None: ...

class ShipFailed(_message.Message):
    __slots__ = ("grant_id", "revoked", "detail")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    grant_id: bytes
    revoked: bool
    detail: str
    def __init__(self, grant_id: _Optional[bytes] = ..., revoked: bool = ..., detail: _Optional[str] = ...) -> None: ...
