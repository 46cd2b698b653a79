from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("robot_id",)
    ROBOT_ID_FIELD_NUMBER: _ClassVar[int]
    robot_id: str
    def __init__(self, robot_id: _Optional[str] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("model", "decoders", "embedding_width", "keyframes", "max_keyframes", "max_sentences", "max_bytes", "queue_length", "draining", "plurals")
    class DecodersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DECODERS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_WIDTH_FIELD_NUMBER: _ClassVar[int]
    KEYFRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_KEYFRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    PLURALS_FIELD_NUMBER: _ClassVar[int]
    model: str
    decoders: _containers.ScalarMap[str, str]
    embedding_width: int
    keyframes: int
    max_keyframes: int
    max_sentences: int
    max_bytes: int
    queue_length: int
    draining: bool
    plurals: bool
    def __init__(self, model: _Optional[str] = ..., decoders: _Optional[_Mapping[str, str]] = ..., embedding_width: _Optional[int] = ..., keyframes: _Optional[int] = ..., max_keyframes: _Optional[int] = ..., max_sentences: _Optional[int] = ..., max_bytes: _Optional[int] = ..., queue_length: _Optional[int] = ..., draining: bool = ..., plurals: bool = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("robot_id", "request_id", "adapter", "decoder", "deadline_ms")
    ROBOT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    robot_id: str
    request_id: str
    adapter: str
    decoder: str
    deadline_ms: int
    def __init__(self, robot_id: _Optional[str] = ..., request_id: _Optional[str] = ..., adapter: _Optional[str] = ..., decoder: _Optional[str] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class Keyframe(_message.Message):
    __slots__ = ("image", "stamp_ns")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    STAMP_NS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    stamp_ns: int
    def __init__(self, image: _Optional[bytes] = ..., stamp_ns: _Optional[int] = ...) -> None: ...

class GroundRequest(_message.Message):
    __slots__ = ("header", "keyframes", "sentences")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    KEYFRAMES_FIELD_NUMBER: _ClassVar[int]
    SENTENCES_FIELD_NUMBER: _ClassVar[int]
    header: Header
    keyframes: _containers.RepeatedCompositeFieldContainer[Keyframe]
    sentences: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., keyframes: _Optional[_Iterable[_Union[Keyframe, _Mapping]]] = ..., sentences: _Optional[_Iterable[str]] = ...) -> None: ...

class Embeddings(_message.Message):
    __slots__ = ("count", "width", "fp16")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    FP16_FIELD_NUMBER: _ClassVar[int]
    count: int
    width: int
    fp16: bytes
    def __init__(self, count: _Optional[int] = ..., width: _Optional[int] = ..., fp16: _Optional[bytes] = ...) -> None: ...

class Phrase(_message.Message):
    __slots__ = ("text", "begin", "end", "mask")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    text: str
    begin: int
    end: int
    mask: int
    def __init__(self, text: _Optional[str] = ..., begin: _Optional[int] = ..., end: _Optional[int] = ..., mask: _Optional[int] = ...) -> None: ...

class Likeness(_message.Message):
    __slots__ = ("word", "kinds", "side", "fp16", "floor", "rivals", "odds")
    WORD_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    FP16_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    RIVALS_FIELD_NUMBER: _ClassVar[int]
    ODDS_FIELD_NUMBER: _ClassVar[int]
    word: str
    kinds: int
    side: int
    fp16: bytes
    floor: float
    rivals: bytes
    odds: float
    def __init__(self, word: _Optional[str] = ..., kinds: _Optional[int] = ..., side: _Optional[int] = ..., fp16: _Optional[bytes] = ..., floor: _Optional[float] = ..., rivals: _Optional[bytes] = ..., odds: _Optional[float] = ...) -> None: ...

class Meaning(_message.Message):
    __slots__ = ("found", "text", "phrases", "embeddings", "scores", "unknown", "note", "written", "error", "likeness")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PHRASES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LIKENESS_FIELD_NUMBER: _ClassVar[int]
    found: bool
    text: str
    phrases: _containers.RepeatedCompositeFieldContainer[Phrase]
    embeddings: Embeddings
    scores: _containers.RepeatedScalarFieldContainer[float]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    note: str
    written: str
    error: str
    likeness: Likeness
    def __init__(self, found: bool = ..., text: _Optional[str] = ..., phrases: _Optional[_Iterable[_Union[Phrase, _Mapping]]] = ..., embeddings: _Optional[_Union[Embeddings, _Mapping]] = ..., scores: _Optional[_Iterable[float]] = ..., unknown: _Optional[_Iterable[str]] = ..., note: _Optional[str] = ..., written: _Optional[str] = ..., error: _Optional[str] = ..., likeness: _Optional[_Union[Likeness, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "decode_ms", "model_ms", "queue_length", "together")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOGETHER_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decode_ms: float
    model_ms: float
    queue_length: int
    together: int
    def __init__(self, queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., model_ms: _Optional[float] = ..., queue_length: _Optional[int] = ..., together: _Optional[int] = ...) -> None: ...

class GroundReply(_message.Message):
    __slots__ = ("request_id", "stamp_ns", "meanings", "adapter", "decoder", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STAMP_NS_FIELD_NUMBER: _ClassVar[int]
    MEANINGS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    stamp_ns: int
    meanings: _containers.RepeatedCompositeFieldContainer[Meaning]
    adapter: str
    decoder: str
    timings: Timings
    def __init__(self, request_id: _Optional[str] = ..., stamp_ns: _Optional[int] = ..., meanings: _Optional[_Iterable[_Union[Meaning, _Mapping]]] = ..., adapter: _Optional[str] = ..., decoder: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("question", "written")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    question: str
    written: str
    def __init__(self, question: _Optional[str] = ..., written: _Optional[str] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("header", "keyframes", "question", "history", "max_tokens")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    KEYFRAMES_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    keyframes: _containers.RepeatedCompositeFieldContainer[Keyframe]
    question: str
    history: _containers.RepeatedCompositeFieldContainer[Turn]
    max_tokens: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., keyframes: _Optional[_Iterable[_Union[Keyframe, _Mapping]]] = ..., question: _Optional[str] = ..., history: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class AskReply(_message.Message):
    __slots__ = ("request_id", "delta", "whole", "decoder", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    delta: str
    whole: Meaning
    decoder: str
    timings: Timings
    def __init__(self, request_id: _Optional[str] = ..., delta: _Optional[str] = ..., whole: _Optional[_Union[Meaning, _Mapping]] = ..., decoder: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...
