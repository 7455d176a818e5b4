"""The solution without a runner: a FastMCP server over streamable HTTP, for n8n's own MCP Client Tool node.

FastMCP is `MCPServer` since version 2 of the official SDK.

`python -m tests.benchmarks.contestants.mcp_server PORT`
"""

from __future__ import annotations

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("measured", log_level="WARNING")


@server.tool()
def double(number: float) -> float:
    """Twice the number."""
    return 2 * number


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
