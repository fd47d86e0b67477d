"""Servers of the Model Context Protocol, whose tools an arm may offer: described, started or reached, called, ended."""

from testbed.mcp.description import McpServer
from testbed.mcp.servers import Servers
from testbed.mcp.session import Listing, ServerTool

__all__ = ["Listing", "McpServer", "ServerTool", "Servers"]
