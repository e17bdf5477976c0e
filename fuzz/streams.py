"""Request streams for a server: mutated archives under several pipelines, and streams that break the protocol, each by a seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fuzz.hostile import INTEGERS, STRINGS
from fuzz.mutate import mutate
from retraced.v1 import graph_transform_pb2 as pb

PIPELINES: Final = (
    *(
        "retrace",
        "cse,dce",
        "decompose",
        "decompose{table=core-aten},cse,dce",
        "view-to-view-copy",
        "decompose{table=core-aten},view-to-view-copy",
    ),
    *("dce,cse,retrace,dce",),
)
_CHUNK: Final = 4 << 10
_LONGEST_CHUNK: Final = 1 << 20
_BROKEN: Final = 0.25
"""The part of the streams that break the protocol; the archives of the others are mutated."""


@dataclass
class Stream:
    """What is sent to a server in one call.

    Attributes:
        program: The test program whose archive it is.
        archive: The archive that was meant to be sent.
        spec: The spec.
        options: What was asked for, where the server can understand it.
        frames: The messages, serialized.
        steps: What was done to archive and messages.
        metadata: Metadata of the call beside the request id.
        cancel_after: Responses after which the caller cancels; None where it does not.
        beyond: Whether gRPC itself may end the call, so that there is no reason: a message over its limit, metadata that it refuses.
    """

    program: str
    archive: bytes
    spec: pb.TransformSpec
    options: pb.TransformOptions
    frames: list[bytes] = field(default_factory=list)
    steps: tuple[str, ...] = ()
    metadata: list[tuple[str, str]] = field(default_factory=list)
    cancel_after: int | None = None
    beyond: bool = False


StreamMutation = Callable[[Stream, random.Random], None]


def make_stream(archives: Mapping[str, bytes], seed: int) -> Stream:
    """Return the stream of a seed."""
    chance = random.Random(seed)
    program = chance.choice(sorted(archives))
    options = pb.TransformOptions(
        node_metadata=chance.randrange(4),  # type: ignore[arg-type]  # numbers of enums
        validate_only=chance.random() < 0.15,
        mode=chance.randrange(3),  # type: ignore[arg-type]
        output=chance.randrange(4),  # type: ignore[arg-type]
    )
    archive = archives[program]
    steps: tuple[str, ...] = ("protocol",)
    broken = chance.random() < _BROKEN
    if not broken:
        mutant = mutate(archive, seed)
        archive, steps = mutant.archive, mutant.steps
    spec = pb.TransformSpec(pipeline=chance.choice(PIPELINES), options=options, archive_size=len(archive))
    stream = Stream(program, archive, spec, options, steps=steps)
    chunks = [archive[start : start + _CHUNK] for start in range(0, len(archive), _CHUNK)]
    stream.frames = [frame(spec), *(_chunk(data) for data in chunks)]
    for _ in range(chance.choice((1, 1, 2)) if broken else 0):
        mutation = chance.choice(STREAM_MUTATIONS)
        mutation(stream, chance)
        stream.steps += (mutation.__name__,)
    return stream


def frame(spec: pb.TransformSpec) -> bytes:
    """Return a spec as a message of the stream."""
    return pb.TransformGraphRequest(spec=spec).SerializeToString()


def _chunk(data: bytes) -> bytes:
    return pb.TransformGraphRequest(archive_chunk=data).SerializeToString()


def garbage(stream: Stream, chance: random.Random) -> None:
    """A message that is no protobuf, or another message."""
    more = chance.choice(
        (b"\xff" * 9, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 200, chance.randbytes(30), b"", b"\x18\x01", b"\x12\x00")
    )
    stream.frames.insert(chance.randrange(len(stream.frames) + 1), more)


def cut(stream: Stream, chance: random.Random) -> None:
    """A message is cut short."""
    if stream.frames:
        index = chance.randrange(len(stream.frames))
        stream.frames[index] = stream.frames[index][: chance.randrange(len(stream.frames[index]) + 1)]


def reorder(stream: Stream, chance: random.Random) -> None:
    """The messages come in another order, a chunk before the spec for example."""
    chance.shuffle(stream.frames)


def repeat(stream: Stream, chance: random.Random) -> None:
    """A message comes several times."""
    if stream.frames:
        index = chance.randrange(len(stream.frames))
        stream.frames[index:index] = [stream.frames[index]] * chance.choice((1, 2, 50))


def leave_out(stream: Stream, chance: random.Random) -> None:
    """A message is missing, or all after it."""
    index = chance.randrange(len(stream.frames) + 1)
    del stream.frames[index : index + 1 if chance.random() < 0.5 else None]


def announce(stream: Stream, chance: random.Random) -> None:
    """The spec announces another size or digest."""
    size = len(stream.archive)
    sizes = [value for value in (*INTEGERS, size - 1, size + 1, 4 << 30) if 0 <= value < 1 << 64]
    if chance.random() < 0.6:
        stream.spec.archive_size = chance.choice(sizes)
    else:
        stream.spec.archive_sha256 = chance.choice((bytes(32), b"x", bytes(31), bytes(1_000)))
    _respecify(stream)


def large_chunk(stream: Stream, chance: random.Random) -> None:
    """A chunk is longer than the protocol allows, or than gRPC does."""
    size = chance.choice((_LONGEST_CHUNK, _LONGEST_CHUNK + 1, 3 << 20, 5 << 20))
    stream.spec.archive_size = size
    stream.frames = [frame(stream.spec), _chunk(bytes(size))]
    stream.beyond |= size > 4 << 20


def hostile_pipeline(stream: Stream, chance: random.Random) -> None:
    """The pipeline is hostile, long, or deep."""
    text = chance.choice(STRINGS).encode(errors="ignore").decode()
    name = chance.choice(PIPELINES)
    stream.spec.pipeline = chance.choice(
        (
            *(text, f"{name}{{x={text}}}", f"retrace{{{text}={text}}}", "retrace," * 5_000 + "retrace", "decompose" * 10_000),
            *(
                "a{" * 2_000,
                "decompose{table=" + '"' * 501,
                f'decompose{{table="{text}"}}',
                "retrace{=}",
                ",",
                "\0",
                name.upper(),
            ),
        )
    )
    _respecify(stream)


def not_utf8(stream: Stream, chance: random.Random) -> None:
    """The pipeline is no UTF-8."""
    stream.spec.pipeline = "QQQQ"
    _respecify(stream)
    stream.frames = [data.replace(b"QQQQ", chance.choice((b"\xff\xfe\xfd\xfc", b"\xed\xa0\x80Q"))) for data in stream.frames]


def unknown_options(stream: Stream, chance: random.Random) -> None:
    """Options have values that no version knows, or there are unknown fields."""
    fields = chance.choice(
        (b"\x08\x63", b"\x18\xff\xff\xff\xff\x0f", b"\xf2\x3f\x03abc", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
    )
    options = stream.spec.options.SerializeToString() + fields
    # Another mutation may come after this one.
    rest = pb.TransformSpec()
    rest.CopyFrom(stream.spec)
    rest.ClearField("options")
    spec = rest.SerializeToString() + b"\x12" + bytes([len(options)]) + options
    first = b"\x0a" + _varint(len(spec)) + spec
    stream.frames = [first, *stream.frames[1:]]


def leave(stream: Stream, chance: random.Random) -> None:
    """The caller cancels, at once or after some answers."""
    stream.cancel_after = chance.randrange(5)


def hostile_metadata(stream: Stream, chance: random.Random) -> None:
    """The call's metadata is hostile."""
    key = chance.choice(("x-request-id", "traceparent", "x-other", "grpc-timeout"))
    value = chance.choice(("x" * 129, "x" * 2_000, "a b", "%00", "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "-1S", "{}"))
    stream.metadata.append((key, value))
    # gRPC has a grammar of its own for it.
    stream.beyond |= key == "grpc-timeout"


STREAM_MUTATIONS: Final[tuple[StreamMutation, ...]] = (
    *(garbage, cut, reorder, repeat, leave_out, announce, announce, large_chunk, hostile_pipeline, hostile_pipeline),
    *(not_utf8, unknown_options, leave, hostile_metadata),
)


def _respecify(stream: Stream) -> None:
    """Put the spec, which was changed, in the place of the first message."""
    stream.frames[:1] = [frame(stream.spec)]


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
