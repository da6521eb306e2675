"""One house for the session: the fake provider, a sidecar per policy, the SDK clients."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sdk.clients import Clients
from support.sdk.house import House
from support.sdk.ways import Ways

OF_THE_SDKS = (  # both of google-genai's async client
    "ignore:Inheritance class AiohttpClientSession from ClientSession is discouraged:DeprecationWarning",
    "ignore:Unclosed connection Connection<ConnectionKey:ResourceWarning",  # an answer that raised is left to the collector
)
FOREIGN = ("OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "CO_API_", "COHERE_", "MISTRAL_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in OF_THE_SDKS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session", autouse=True)
def _no_foreign_environment() -> Iterator[None]:
    """A proxy or a base URL of this machine would lead the SDKs elsewhere (ecosystem.md, 12.8)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith(FOREIGN):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, _no_foreign_environment: None) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture(scope="session")
def ways(house: House) -> Ways:
    return Ways(house, Clients(house))


@pytest.fixture(scope="module", autouse=True)
def _collected_where_they_ran(house: House) -> Iterator[None]:
    """What the SDKs leave open is collected here, under the filters above, and not in another folder's test.

    In the loop's own thread: CPython 3.11.2 raises "async generator already executing" out of a collection in any other.
    """

    async def collect() -> None:
        gc.collect()

    gc.disable()
    yield
    house.run(collect())
    gc.enable()
