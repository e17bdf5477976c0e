"""Programs of a newer minor version of the schema are read by a server that is told to."""

from __future__ import annotations

import pytest
from torch._export.serde.schema import SCHEMA_VERSION

from retraced import Client, EmbeddedServer, errors
from tests.program.archives import edited
from tests.support.models import by_name

pytestmark = pytest.mark.slow


def _newer() -> bytes:
    return edited(by_name("input_and_id").archive, lambda model: model["schema_version"].update(minor=SCHEMA_VERSION[1] + 1))


def test_newer_minor_version_is_refused_with_the_option_that_reads_it(client: Client) -> None:
    with pytest.raises(errors.SchemaUnsupported, match="--accept-newer-schema"):
        client.transform(_newer(), "retrace")


def test_server_that_accepts_newer_minor_versions_reads_them_as_far_as_it_knows_every_field(allowing: EmbeddedServer) -> None:
    with Client(allowing.address) as client:
        newer = _newer()
        assert client.transform(newer, "retrace").to_bytes() == newer
        with pytest.raises(errors.ProgramUnsupported, match="unknown field"):
            client.transform(edited(newer, lambda model: model.update(invented=1)), "retrace")
