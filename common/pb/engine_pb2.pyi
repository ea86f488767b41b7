from common.pb import common_pb2 as _common_pb2
from common.pb import embedding_pb2 as _embedding_pb2
from common.pb import language_pb2 as _language_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineCommands(_message.Message):
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[EngineCommand]
    def __init__(self, commands: _Optional[_Iterable[_Union[EngineCommand, _Mapping]]] = ...) -> None: ...

class EngineCommand(_message.Message):
    __slots__ = ("generate", "abort", "filled", "closed", "grant_lost", "stop")
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    FILLED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    GRANT_LOST_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    generate: _language_pb2.Generate
    abort: _language_pb2.Abort
    filled: bytes
    closed: GrantClosed
    grant_lost: _language_pb2.GrantLost
    stop: bool
    def __init__(self, generate: _Optional[_Union[_language_pb2.Generate, _Mapping]] = ..., abort: _Optional[_Union[_language_pb2.Abort, _Mapping]] = ..., filled: _Optional[bytes] = ..., closed: _Optional[_Union[GrantClosed, _Mapping]] = ..., grant_lost: _Optional[_Union[_language_pb2.GrantLost, _Mapping]] = ..., stop: bool = ...) -> None: ...

class GrantClosed(_message.Message):
    __slots__ = ("grant_id", "reason")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    grant_id: bytes
    reason: str
    def __init__(self, grant_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class EngineEvents(_message.Message):
    __slots__ = ("events", "opened", "revoked", "stats", "ready", "failed", "idle", "commands", "step", "timelines")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIMELINES_FIELD_NUMBER: _ClassVar[int]
    events: _language_pb2.SessionEvent
    opened: _containers.RepeatedCompositeFieldContainer[GrantRegion]
    revoked: _containers.RepeatedScalarFieldContainer[bytes]
    stats: EngineStats
    ready: _common_pb2.ModelInfo
    failed: str
    idle: bool
    commands: int
    step: Step
    timelines: _containers.RepeatedCompositeFieldContainer[Timeline]
    def __init__(self, events: _Optional[_Union[_language_pb2.SessionEvent, _Mapping]] = ..., opened: _Optional[_Iterable[_Union[GrantRegion, _Mapping]]] = ..., revoked: _Optional[_Iterable[bytes]] = ..., stats: _Optional[_Union[EngineStats, _Mapping]] = ..., ready: _Optional[_Union[_common_pb2.ModelInfo, _Mapping]] = ..., failed: _Optional[str] = ..., idle: bool = ..., commands: _Optional[int] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., timelines: _Optional[_Iterable[_Union[Timeline, _Mapping]]] = ...) -> None: ...

class Timeline(_message.Message):
    __slots__ = ("handle", "stages")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    handle: int
    stages: _containers.RepeatedCompositeFieldContainer[TimedStage]
    def __init__(self, handle: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[TimedStage, _Mapping]]] = ...) -> None: ...

class TimedStage(_message.Message):
    __slots__ = ("name", "start", "end")
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    name: str
    start: float
    end: float
    def __init__(self, name: _Optional[str] = ..., start: _Optional[float] = ..., end: _Optional[float] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("tokens", "seconds")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    seconds: float
    def __init__(self, tokens: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class GrantRegion(_message.Message):
    __slots__ = ("grant_id", "offset", "layout")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    grant_id: bytes
    offset: int
    layout: _embedding_pb2.EmbeddingLayout
    def __init__(self, grant_id: _Optional[bytes] = ..., offset: _Optional[int] = ..., layout: _Optional[_Union[_embedding_pb2.EmbeddingLayout, _Mapping]] = ...) -> None: ...

class EngineStats(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, float]
    def __init__(self, values: _Optional[_Mapping[str, float]] = ...) -> None: ...
