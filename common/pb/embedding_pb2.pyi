from common.pb import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_UNSPECIFIED: _ClassVar[Transport]
    ZMQ: _ClassVar[Transport]
    GRPC: _ClassVar[Transport]
    SHM: _ClassVar[Transport]
    LOCAL: _ClassVar[Transport]
TRANSPORT_UNSPECIFIED: Transport
ZMQ: Transport
GRPC: Transport
SHM: Transport
LOCAL: Transport

class EmbeddingLayout(_message.Message):
    __slots__ = ("rows", "hidden", "levels", "dtype")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    hidden: int
    levels: int
    dtype: _common_pb2.DType
    def __init__(self, rows: _Optional[int] = ..., hidden: _Optional[int] = ..., levels: _Optional[int] = ..., dtype: _Optional[_Union[_common_pb2.DType, str]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("id", "layout", "endpoints", "boot_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    layout: EmbeddingLayout
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    boot_id: bytes
    def __init__(self, id: _Optional[bytes] = ..., layout: _Optional[_Union[EmbeddingLayout, _Mapping]] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., boot_id: _Optional[bytes] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("transport", "address", "curve_server_key")
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CURVE_SERVER_KEY_FIELD_NUMBER: _ClassVar[int]
    transport: Transport
    address: str
    curve_server_key: bytes
    def __init__(self, transport: _Optional[_Union[Transport, str]] = ..., address: _Optional[str] = ..., curve_server_key: _Optional[bytes] = ...) -> None: ...

class FrameHeader(_message.Message):
    __slots__ = ("protocol", "grant_id", "tensor", "dtype", "shape", "offset", "length")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    grant_id: bytes
    tensor: str
    dtype: _common_pb2.DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    length: int
    def __init__(self, protocol: _Optional[int] = ..., grant_id: _Optional[bytes] = ..., tensor: _Optional[str] = ..., dtype: _Optional[_Union[_common_pb2.DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class SealedHeader(_message.Message):
    __slots__ = ("header", "checksum")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    checksum: int
    def __init__(self, header: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("sealed", "payload")
    SEALED_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    sealed: SealedHeader
    payload: bytes
    def __init__(self, sealed: _Optional[_Union[SealedHeader, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("grant_id", "outcome", "detail")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Receipt.Outcome]
        RECEIVED: _ClassVar[Receipt.Outcome]
        REVOKED: _ClassVar[Receipt.Outcome]
        UNKNOWN_GRANT: _ClassVar[Receipt.Outcome]
    OUTCOME_UNSPECIFIED: Receipt.Outcome
    RECEIVED: Receipt.Outcome
    REVOKED: Receipt.Outcome
    UNKNOWN_GRANT: Receipt.Outcome
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    grant_id: bytes
    outcome: Receipt.Outcome
    detail: str
    def __init__(self, grant_id: _Optional[bytes] = ..., outcome: _Optional[_Union[Receipt.Outcome, str]] = ..., detail: _Optional[str] = ...) -> None: ...
