"""Azure OpenAI: the OpenAI wire format under deployment names. Maps no deployment to a model; `models:` of the policy does."""

from __future__ import annotations

import re
from dataclasses import replace

from proxy.dialect.fields import plain_path
from proxy.dialect.openai import OpenAI
from proxy.dialect.wire import Operation

DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)(?:/extensions)?(/.+)", re.IGNORECASE)


class AzureOpenAI(OpenAI):
    name = "azure-openai"

    def operation(self, method: str, path: str, query: str) -> Operation:
        found = DEPLOYMENT.fullmatch(plain_path(path))
        if found is None:
            return super().operation(method, path, query)
        return replace(super().operation(method, found[2], query), model=found[1])

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return b"api-key", secret.encode()


AZURE = AzureOpenAI()
