"""Hosts that may be sent credentials: what a pattern means, and the tricks that it must not fall for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airside.model import Fail, UsageError
from airside.sdk.hosts import HostAllowList, address_of, normal

HOSTS = HostAllowList(
    [
        "api.example.org",
        "*.vendor.example",
        "proxy.example.org:8443",
        "10.0.0.7",
        "[fd00::7]:9443",
        "http://10.0.0.8:8080",
        "Bücher.example",
    ]
)

ALLOWED = [
    "https://api.example.org/v1",
    "https://API.EXAMPLE.ORG./v1",
    "https://api.example.org:8443/",
    "https://eu.vendor.example/",
    "https://a.b.vendor.example/",
    "https://proxy.example.org:8443/",
    "https://10.0.0.7/",
    "https://[fd00::7]:9443/",
    "https://[fd00:0:0::7]:9443/",
    "http://10.0.0.8:8080/",
    "https://10.0.0.8:8080/",
    "https://bücher.example/",
    "https://xn--bcher-kva.example/",
]

REFUSED = [
    "https://example.org/",
    "https://vendor.example/",  # the domain itself is not one of its hosts
    "https://evilvendor.example/",
    "https://vendor.example.evil.net/",
    "https://api.example.org.evil.net/",
    "https://api-example.org/",
    "https://proxy.example.org/",
    "https://proxy.example.org:443/",
    "https://[fd00::7]/",
    "https://[::ffff:10.0.0.7]/",
    "https://10.0.0.007/",
    "https://10.7/",
    "https://167772167/",
    "https://0x0a000007/",
    "https://012.0.0.7/",
    "https://10.0.0.9/",
    "http://10.0.0.8/",
    "http://10.0.0.7/",  # in clear
    "http://api.example.org/",
    "https://api.example.org@evil.net/",
    "https://evil.net#@api.example.org/",
    "https://evil.net?@api.example.org/",
    "https://evil.net\\@api.example.org/",
    "https://evil.net\t.vendor.example/",
    "https://evil.net%00.vendor.example/",
    "https://evil.net/.vendor.example/",
    "ftp://api.example.org/",
    "//api.example.org/",
    "api.example.org",
    "https://",
    "https://./",
    "https://.vendor.example/",
    "https://api.example.org:99999/",
    "https://\uff41pi.example.org.evil.net/",
    "",
]


@pytest.mark.parametrize("url", ALLOWED)
def test_what_is_listed_is_allowed(url: str) -> None:
    HOSTS.check(url)


@pytest.mark.parametrize("url", REFUSED)
def test_no_trick_gets_a_credential_elsewhere(url: str) -> None:
    with pytest.raises(Fail) as refused:
        HOSTS.check(url)
    assert refused.value.code == "HostNotAllowed"
    assert str(refused.value).startswith("Credentials are not sent ")
    assert str(refused.value).endswith(".")


@given(st.text(max_size=60))
def test_an_empty_list_allows_nothing_and_nothing_raises_anything_else(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}.vendor.example"):
        with pytest.raises(Fail):
            HostAllowList([]).check(url)


@given(st.text(alphabet="abc.:/@#?\\%[]*-_0 \u3002\uff0e\u00ad\u200d", max_size=12))
def test_a_domain_is_matched_by_its_hosts_only(text: str) -> None:
    """Whatever stands before it: if the URL passes, the host it leads to ends with the domain."""
    url = f"https://{text}.vendor.example/"
    try:
        HOSTS.check(url)
    except Fail:
        return
    host = address_of(url).host
    assert host.endswith(".vendor.example")
    assert not set(host) & set("/@#?\\[]% ")


@pytest.mark.parametrize(
    "pattern",
    [
        "*", "", "*.", "*.com", "*example.org", "api.*.org", "a*.example.org", "*.10.0.0.7", "10.0.0.0/8", "127.1",
        "0x7f000001", "example.org/path", "example.org:", "example.org:0", "example.org:65536", "example.org:https",
        "user@example.org", "exa mple.org", "ftp://example.org", "-a.example.org", "http://", "*.*.example.org",
    ],
)  # fmt: skip
def test_a_pattern_that_means_too_much_or_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"is no host for a list of hosts: write api\.example\.org"):
        HostAllowList([pattern])


def test_every_host_is_meant_only_where_no_credential_is_at_stake() -> None:
    assert HostAllowList(["*"], may_be_every=True).includes("example.org", 443)


@given(st.text(max_size=40))
def test_a_host_has_one_spelling(text: str) -> None:
    try:
        once = normal(text)
    except ValueError:
        return
    assert normal(once) == once
