from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    BFLOAT16: _ClassVar[DType]
    FLOAT32: _ClassVar[DType]

class MediaKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEDIA_KIND_UNSPECIFIED: _ClassVar[MediaKind]
    IMAGE: _ClassVar[MediaKind]
    VIDEO: _ClassVar[MediaKind]
    FRAMES: _ClassVar[MediaKind]
DTYPE_UNSPECIFIED: DType
BFLOAT16: DType
FLOAT32: DType
MEDIA_KIND_UNSPECIFIED: MediaKind
IMAGE: MediaKind
VIDEO: MediaKind
FRAMES: MediaKind

class MediaOptions(_message.Message):
    __slots__ = ("min_pixels", "max_pixels", "fps", "num_frames", "min_frames", "max_frames")
    MIN_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MIN_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    min_pixels: int
    max_pixels: int
    fps: float
    num_frames: int
    min_frames: int
    max_frames: int
    def __init__(self, min_pixels: _Optional[int] = ..., max_pixels: _Optional[int] = ..., fps: _Optional[float] = ..., num_frames: _Optional[int] = ..., min_frames: _Optional[int] = ..., max_frames: _Optional[int] = ...) -> None: ...

class Grid(_message.Message):
    __slots__ = ("t", "h", "w")
    T_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    W_FIELD_NUMBER: _ClassVar[int]
    t: int
    h: int
    w: int
    def __init__(self, t: _Optional[int] = ..., h: _Optional[int] = ..., w: _Optional[int] = ...) -> None: ...

class MediaMetadata(_message.Message):
    __slots__ = ("grid", "rows", "timestamps")
    GRID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    grid: Grid
    rows: int
    timestamps: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, grid: _Optional[_Union[Grid, _Mapping]] = ..., rows: _Optional[int] = ..., timestamps: _Optional[_Iterable[float]] = ...) -> None: ...

class StageTime(_message.Message):
    __slots__ = ("stage", "milliseconds")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    milliseconds: float
    def __init__(self, stage: _Optional[str] = ..., milliseconds: _Optional[float] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Error.Code]
        INTERNAL: _ClassVar[Error.Code]
        INVALID_REQUEST: _ClassVar[Error.Code]
        BAD_MEDIA: _ClassVar[Error.Code]
        CONTEXT_LENGTH_EXCEEDED: _ClassVar[Error.Code]
        OVERLOADED: _ClassVar[Error.Code]
        UNAVAILABLE: _ClassVar[Error.Code]
        DEADLINE_EXCEEDED: _ClassVar[Error.Code]
        CANCELLED: _ClassVar[Error.Code]
        MODEL_MISMATCH: _ClassVar[Error.Code]
        MEDIA_LOST: _ClassVar[Error.Code]
        MOVED: _ClassVar[Error.Code]
    CODE_UNSPECIFIED: Error.Code
    INTERNAL: Error.Code
    INVALID_REQUEST: Error.Code
    BAD_MEDIA: Error.Code
    CONTEXT_LENGTH_EXCEEDED: Error.Code
    OVERLOADED: Error.Code
    UNAVAILABLE: Error.Code
    DEADLINE_EXCEEDED: Error.Code
    CANCELLED: Error.Code
    MODEL_MISMATCH: Error.Code
    MEDIA_LOST: Error.Code
    MOVED: Error.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: Error.Code
    message: str
    def __init__(self, code: _Optional[_Union[Error.Code, str]] = ..., message: _Optional[str] = ...) -> None: ...

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("fingerprint", "architecture", "hidden", "levels", "dtype", "protocol", "merge_size", "vision", "max_model_len", "max_item_rows", "vocab_size", "name", "processor_version", "fake")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    MERGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    VISION_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEM_ROWS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    FAKE_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    architecture: str
    hidden: int
    levels: int
    dtype: DType
    protocol: int
    merge_size: int
    vision: bool
    max_model_len: int
    max_item_rows: int
    vocab_size: int
    name: str
    processor_version: int
    fake: bool
    def __init__(self, fingerprint: _Optional[bytes] = ..., architecture: _Optional[str] = ..., hidden: _Optional[int] = ..., levels: _Optional[int] = ..., dtype: _Optional[_Union[DType, str]] = ..., protocol: _Optional[int] = ..., merge_size: _Optional[int] = ..., vision: bool = ..., max_model_len: _Optional[int] = ..., max_item_rows: _Optional[int] = ..., vocab_size: _Optional[int] = ..., name: _Optional[str] = ..., processor_version: _Optional[int] = ..., fake: bool = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Load(_message.Message):
    __slots__ = ("queue_seconds", "running", "waiting", "draining")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    running: int
    waiting: int
    draining: bool
    def __init__(self, queue_seconds: _Optional[float] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., draining: bool = ...) -> None: ...

class ServerInfo(_message.Message):
    __slots__ = ("version", "boot_id", "load")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    version: str
    boot_id: bytes
    load: Load
    def __init__(self, version: _Optional[str] = ..., boot_id: _Optional[bytes] = ..., load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...
