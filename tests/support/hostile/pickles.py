"""Records that are unpickled."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from retraced_server.errors import Reason
from tests.program.archives import records, zipped

from .route import CONSTANTS_CONFIG, MODEL, SAMPLE_INPUTS, WEIGHTS_CONFIG, Effect, Route, added, edited, plain


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def _saved(folder: Path) -> bytes:
    """What touches the marker when `torch.load` reads it."""
    buffer = io.BytesIO()
    torch.save(({"a": _Touch(folder / "marker")},), buffer)
    return buffer.getvalue()


def _weight(folder: Path) -> bytes:
    archive = edited(lambda config: next(iter(config["config"].values())).update(use_pickle=True), WEIGHTS_CONFIG)
    return zipped({**records(archive), "archive/data/weights/weight_0": _saved(folder)})


def _constant(folder: Path, path: str, data: bytes, *, use_pickle: bool = True) -> bytes:
    def edit(config: Any) -> None:
        next(iter(config["config"].values())).update(use_pickle=use_pickle, path_name=path)

    return zipped({**records(edited(edit, CONSTANTS_CONFIG)), f"archive/data/constants/{path}": data})


def _legacy_archive(folder: Path) -> bytes:
    model = records(plain())[MODEL]
    parts = {"version": b"8.8", "serialized_exported_program.json": model, "serialized_state_dict.pt": _saved(folder)}
    return zipped({**parts, "serialized_constants.pt": _saved(folder), "serialized_example_inputs.pt": b""})


_OBJECT = "is an object of a custom class"
ROUTES = (
    # Passed on unopened: the program is read, and nothing happens.
    Route("pickled-sample-inputs", lambda folder: added({SAMPLE_INPUTS: _saved(folder)}), ""),
    Route("pickled-weight", _weight, "which torch stores pickled", Reason.PROGRAM_UNSUPPORTED),
    Route(
        "pickled-constant",
        lambda folder: _constant(folder, "tensor_0", _saved(folder)),
        "which torch stores pickled",
        Reason.PROGRAM_UNSUPPORTED,
    ),
    Route(
        "opaque-object",
        lambda folder: _constant(folder, "opaque_obj_0", pickle.dumps(_Touch(folder / "marker"))),
        _OBJECT,
        Reason.PROGRAM_UNSUPPORTED,
    ),
    # TorchScript's own unpickler calls no function of Python.
    Route(
        "script-object",
        lambda folder: _constant(folder, "custom_obj_0", pickle.dumps(_Touch(folder / "marker"))),
        _OBJECT,
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.NONE,
        stock="RuntimeError|AssertionError",
    ),
    Route(
        "legacy-weights",
        lambda folder: added({"archive/data/weights/model.pt": _saved(folder)}),
        "holds pickled weights",
        Reason.SCHEMA_UNSUPPORTED,
    ),
    Route(
        "legacy-constants",
        lambda folder: added({"archive/data/constants/model.pt": _saved(folder)}),
        "holds pickled weights",
        Reason.SCHEMA_UNSUPPORTED,
    ),
    Route("legacy-archive", _legacy_archive, "format of torch 2.7", Reason.SCHEMA_UNSUPPORTED),
)
