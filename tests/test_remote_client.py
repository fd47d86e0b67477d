from __future__ import annotations

import pytest

from testbed.envs.remote import Remote
from testbed.errors import UsageError
from testbed.remote_client import RemoteClient, check_encrypted

ELSEWHERE = ("http://example.org", "http://127.0.0.2:8000", "http://localhost.example.org", "http://[::2]:80")


@pytest.mark.parametrize(
    "url", ["https://example.org", "http://127.0.0.1:8000/", "http://localhost", "http://[::1]:80"]
)
def test_a_token_goes_to_this_machine_or_encrypted(url: str) -> None:
    check_encrypted(url)


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_token_goes_nowhere_else_by_the_client_or_the_environment(url: str) -> None:
    with pytest.raises(UsageError, match="not sent without encryption"):
        RemoteClient(url, "tb_x")
    with pytest.raises(UsageError, match="not sent without encryption"):
        Remote(url=url, token="tb_x", board="sums", arm="bare", model="m")


@pytest.mark.parametrize("url", ["", "example.org", "ftp://example.org", "http://", "https://[", "http://:80"])
def test_what_is_no_address_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError, match="no server's address"):
        RemoteClient(url, "tb_x")
