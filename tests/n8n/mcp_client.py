"""n8n's MCP Server Trigger, and the official MCP client for Python, which needs Python 3.10."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import requests

from .model import ToolCall
from .n8n import N8n, Workflow
from .processes import poll


def mcp_server(
    n8n: N8n, name: str, tools: dict[str, Any], authentication: str = "none", **trigger: Any
) -> Workflow:
    """Create a workflow with an MCP Server Trigger that has these tools; its URL is the MCP endpoint."""
    node = {
        "name": "MCP Server Trigger",
        "type": "@n8n/n8n-nodes-langchain.mcpTrigger",
        "typeVersion": 2,
        "webhookId": name,
        "parameters": {"path": name, "authentication": authentication},
        **trigger,
    }
    saved = n8n.save_workflow(name, [node], ai_tool=[tools])
    n8n.rest("POST", f"/rest/workflows/{saved['id']}/activate", {"versionId": saved["versionId"]})
    workflow = Workflow(n8n, saved["id"], name)
    workflow.url = f"{n8n.url}/mcp/{name}"
    # Nothing runs by asking: the end of no session is refused.
    poll(lambda: requests.delete(workflow.url).status_code != 404 or None, "the MCP endpoint is active", 60.0)
    return workflow


class McpClient:
    """The official client for Python, which is asynchronous."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        import httpx2
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        async with contextlib.AsyncExitStack() as stack:
            http = httpx2.AsyncClient(timeout=60.0, trust_env=False)
            await stack.enter_async_context(http)
            transport = streamable_http_client(self._url, http_client=http)
            yield await stack.enter_async_context(Client(transport))

    def tools(self) -> dict[str, Any]:
        async def listed() -> Any:
            async with self._connected() as client:
                return (await client.list_tools()).tools

        return {tool.name: tool for tool in asyncio.run(listed())}

    def call(self, *calls: ToolCall) -> list[tuple[bool, str]]:
        """Call tools on one connection. Return whether each failed, and its text."""

        async def called() -> list[Any]:
            async with self._connected() as client:
                return [await client.call_tool(call.name, call.arguments) for call in calls]

        return [(bool(result.is_error), result.content[0].text) for result in asyncio.run(called())]
