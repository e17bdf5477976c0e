"""Mutates a server's answers, message by message: what a lie is made of depends on a seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from fuzz.hostile import INTEGERS, STRINGS
from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import Reason
from retraced_server.service.statuses import DOMAIN

_FLOATS: Final = (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 5e-324, 1e308)
_TEXTS: Final = (
    *(text for text in STRINGS if text.isascii() or text.isprintable()),
    *("\x1b]0;title\x07\x1b[31mred", "a\r\nb", "\x9b31m", "x" * 100_000, "\u202e" * 9, "[/red][bold]", "\t\v\f\x7f"),
    *(
        "[" * 200_000 + "]" * 200_000,
        '{"a": 1e999}',
        "1" * 6_000,
        '"\\ud800"',
        "NaN",
        '{"a": NaN}',
        "[" * 90 + "]" * 90,
        "null",
    ),
)
_BYTES: Final = (b"", b"\0", b"\xff" * 32, b"x" * 100_000)
_ENUMS: Final = (0, 1, 2, 3, 9, 99, -1, (1 << 31) - 1)
_LARGE: Final = 96 << 20
"""Bytes of the messages that one lie repeats, at most."""


@dataclass
class Lie:
    """How a server answers a call.

    Attributes:
        frames: The messages, serialized.
        code: The status behind them.
        message: The status's text.
        trailers: The metadata behind them.
        early: Whether it answers before it has read the request.
        steps: What was done to a true answer.
    """

    frames: list[bytes]
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    trailers: tuple[tuple[str, bytes], ...] = ()
    early: bool = False
    steps: list[str] = field(default_factory=list)


def lie(answers: Sequence[Sequence[bytes]], kind: type[Message], seed: int) -> Lie:
    """Make a lie.

    Args:
        answers: True answers, of one call each. The first is the one that is asked for.
        kind: What the messages are.
        seed: What the lie depends on.
    """
    chance = random.Random(seed)
    made = Lie(list(answers[0]), early=chance.random() < 0.05)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if made.frames and chance.random() < 0.6:
            at = chance.randrange(len(made.frames))
            made.frames[at] = _mutated(made.frames[at], kind, chance, made.steps)
        else:
            step = chance.choice(_STREAM_LIES)
            step(made, answers, chance)
            made.steps.append(step.__name__)
    return made


def _mutated(frame: bytes, kind: type[Message], chance: random.Random, steps: list[str]) -> bytes:
    """Mutate one message: a field of it, or its bytes."""
    if chance.random() < 0.12:
        steps.append("bytes")
        at = chance.randrange(len(frame) + 1)
        return chance.choice((frame[:at], frame[:at] + chance.randbytes(3) + frame[at + 3 :], frame + frame[at:]))
    try:
        message = kind.FromString(frame)
    # Its bytes were mutated before.
    except Exception:  # noqa: BLE001
        return frame
    holder, found = chance.choice(_places(message))
    steps.append(f"{holder.DESCRIPTOR.name}.{found.name}")
    # What a field does not take stays out: a number out of its range, a text that is none.
    try:
        _change(holder, found, chance)
        return bytes(message.SerializeToString())
    except (ValueError, TypeError):
        return frame


def _places(message: Message) -> list[tuple[Message, Any]]:
    """Return every field, set or not, of a message and of those in it. Descriptors are of a class without published types."""
    places: list[tuple[Message, Any]] = []
    waiting = [message]
    while waiting:
        holder = waiting.pop()
        places += [(holder, found) for found in holder.DESCRIPTOR.fields]
        for found, value in holder.ListFields():
            if found.message_type is not None:
                waiting += value if found.is_repeated else [value]
    return places


def _change(holder: Message, found: FieldDescriptor, chance: random.Random) -> None:
    name = found.name
    if not found.is_repeated:
        if found.message_type is None:
            setattr(holder, name, _value(found, chance))
        elif holder.HasField(name) and chance.random() < 0.3:
            holder.ClearField(name)
        else:
            _deepen(getattr(holder, name), chance.choice((0, 1, 5, 40)))
        return
    items: Any = getattr(holder, name)
    match chance.randrange(4):
        case 0:
            del items[chance.randrange(len(items) + 1) :]
        case 1:
            copies = list(items) * chance.choice((1, 2, 300))
            items.extend(copies[:20_000])
        case 2 if found.message_type is None:
            items.extend(_value(found, chance) for _ in range(chance.choice((1, 3, 50))))
        case _ if found.message_type is None and items:
            items[chance.randrange(len(items))] = _value(found, chance)
        case _ if found.message_type is not None:
            _deepen(items.add(), chance.choice((0, 1, 5, 40)))


def _deepen(message: Message, depth: int) -> None:
    """Have a message be there, and hold one of its own kind, many deep, where it can."""
    message.SetInParent()
    for _ in range(depth):
        inner = next((found for found in message.DESCRIPTOR.fields if found.message_type is not None), None)
        if inner is None:
            return
        value: Any = getattr(message, inner.name)
        message = value.add() if inner.is_repeated else value
        message.SetInParent()


def _value(found: FieldDescriptor, chance: random.Random) -> Any:
    match found.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice(_ENUMS)
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(_BYTES if found.type == FieldDescriptor.TYPE_BYTES else _TEXTS)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice(_FLOATS)
        case _:
            return chance.choice((*INTEGERS, (1 << 32) - 1, (1 << 64) - 1))


def drop(made: Lie, _: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """A message is missing."""
    if made.frames:
        del made.frames[chance.randrange(len(made.frames))]


def cut(made: Lie, _: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """The stream ends early, well."""
    del made.frames[chance.randrange(len(made.frames) + 1) :]


def repeat(made: Lie, _: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """A message comes again, and again."""
    if made.frames:
        at = chance.randrange(len(made.frames))
        count = min(chance.choice((1, 1, 30, 3_000)), _LARGE // max(1, len(made.frames[at])))
        made.frames[at:at] = [made.frames[at]] * count


def move(made: Lie, _: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """A message comes earlier or later."""
    if made.frames:
        frame = made.frames.pop(chance.randrange(len(made.frames)))
        made.frames.insert(chance.randrange(len(made.frames) + 1), frame)


def answer_another(made: Lie, answers: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """It answers what somebody else asked."""
    made.frames = list(chance.choice(answers))


def add_of_another(made: Lie, answers: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """Messages of another answer come in between: output, or metadata, that nobody asked for."""
    other = chance.choice(answers)
    if other:
        at, start = chance.randrange(len(made.frames) + 1), chance.randrange(len(other))
        made.frames[at:at] = other[start : start + chance.randint(1, 5)]


def flood_output(made: Lie, _: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """Much output comes in between."""
    chunk = pb.TransformGraphResponse(output_chunk=bytes(1 << 20)).SerializeToString()
    at = chance.randrange(len(made.frames) + 1)
    made.frames[at:at] = [chunk] * chance.choice((1, 90))


def fail(made: Lie, _: Sequence[Sequence[bytes]], chance: random.Random) -> None:
    """The stream ends with an error, whose details are of the same kind."""
    codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
    made.code, made.message = chance.choice(codes), _text(chance)
    status = status_pb2.Status(code=chance.choice((made.code.value[0], 0, 99, -1)), message=_text(chance))
    for _number in range(chance.choice((0, 1, 1, 2, 3, 20))):
        status.details.add().Pack(chance.choice(_DETAILS)(chance))
    data = bytes(status.SerializeToString())
    if chance.random() < 0.15:
        data = data[: chance.randrange(len(data) + 1)] + chance.randbytes(4)
    made.trailers = (("grpc-status-details-bin", data[:7_000]),)
    del made.frames[chance.randrange(len(made.frames) + 1) :]


def _text(chance: random.Random) -> str:
    return chance.choice(_TEXTS)[:2_000]


def _error_info(chance: random.Random) -> Any:
    reason = chance.choice((*Reason, _text(chance)))
    metadata = {_text(chance)[:99]: _text(chance) for _ in range(chance.choice((0, 1, 3)))}
    metadata |= {
        chance.choice(("request_id", "pass", "node", "target", "source", "pass_index", "limit", "stage")): _text(chance)
    }
    domain = chance.choice((DOMAIN, DOMAIN, DOMAIN, _text(chance)))
    return error_details_pb2.ErrorInfo(reason=str(reason), domain=domain, metadata=metadata)


def _retry(chance: random.Random) -> Any:
    numbers = (0, 1, -1, -5, 1 << 31, 1 << 62, -(1 << 63), (1 << 63) - 1)
    delay = Duration(seconds=chance.choice(numbers), nanos=chance.choice((0, 1, -1, -(1 << 31), (1 << 31) - 1)))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _violations(chance: random.Random) -> Any:
    violation = error_details_pb2.BadRequest.FieldViolation(field=_text(chance), description=_text(chance))
    return error_details_pb2.BadRequest(field_violations=[violation] * chance.choice((0, 1, 50)))


def _debug(chance: random.Random) -> Any:
    return error_details_pb2.DebugInfo(detail=_text(chance), stack_entries=[_text(chance)])


# Any: messages without types.
_DETAILS: Final[tuple[Callable[[random.Random], Any], ...]] = (_error_info, _error_info, _retry, _violations, _debug)
_STREAM_LIES: Final = (drop, cut, repeat, move, answer_another, add_of_another, flood_output, fail, fail, fail)
