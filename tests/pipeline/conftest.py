"""The data path in this process, for each test one of its own."""

import pytest
from support.inside import inside


@pytest.fixture
async def path(tmp_path):
    async with inside(tmp_path) as one:
        yield one


@pytest.fixture
async def path_with(tmp_path):
    """text → the data path under a policy with more in it."""
    opened = []

    async def open_one(more):
        context = inside(tmp_path, more)
        opened.append(context)
        return await context.__aenter__()

    yield open_one
    for context in opened:
        await context.__aexit__(None, None, None)
