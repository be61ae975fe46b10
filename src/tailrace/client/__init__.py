"""The Python client: calls the pipelines of one server or of several, inside a budget. It has nothing of the server.

from tailrace.client import AsyncClient, Client
"""

from tailrace.client.asynchronous import AsyncClient
from tailrace.client.options import Options
from tailrace.client.sync import Client
from tailrace.signature import SignatureError, verify_webhook

__all__ = ["AsyncClient", "Client", "Options", "SignatureError", "verify_webhook"]
