"""Either client, for tests of what both do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from retraced import AsyncClient, Client
from retraced.results import TransformResult


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Any:
    """`transform` of one client or the other, as a function that blocks."""

    def sync_call(address: str, *args: Any, **kwargs: Any) -> TransformResult:
        with Client(address) as client:
            return client.transform(*args, **kwargs)

    def async_call(address: str, *args: Any, **kwargs: Any) -> TransformResult:
        async def run() -> TransformResult:
            async with AsyncClient(address) as client:
                return await client.transform(*args, **kwargs)

        return asyncio.run(run())

    return sync_call if request.param == "sync" else async_call
