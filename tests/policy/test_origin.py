import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.origin import origin_of


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "header"),
    [
        ("https://api.openai.com", "https", "api.openai.com", 443, b"api.openai.com"),
        ("https://API.example.com/", "https", "api.example.com", 443, b"api.example.com"),
        ("https://h.example:8443", "https", "h.example", 8443, b"h.example:8443"),
        ("https://h.example:443", "https", "h.example", 443, b"h.example"),
        ("http://127.0.0.1:9999", "http", "127.0.0.1", 9999, b"127.0.0.1:9999"),
        ("http://localhost", "http", "localhost", 80, b"localhost"),
        ("http://[::1]:80", "http", "::1", 80, b"[::1]"),
        ("https://8.8.8.8", "https", "8.8.8.8", 443, b"8.8.8.8"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, scheme, host, port, header):
    origin = origin_of(url, allow_private=False)
    assert (origin.scheme, origin.host, origin.port, origin.host_header) == (scheme, host, port, header)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://api.openai.com/v1", "stop before /v1"),
        ("https://h.example/?x", "stop before /v1"),
        ("https://h.example#x", "stop before /v1"),
        ("ftp://h.example", "stop before /v1"),
        ("h.example", "stop before /v1"),
        ("https://h.example:99999", "stop before /v1"),
        ("https://h.example:0", "stop before /v1"),
        ("https://u:p@h.example", "user info"),
        ("https://u@h.example", "user info"),
        ("http://h.example", "https://"),
        ("https://10.0.0.7", "allow_private"),
        ("https://192.168.1.1:8000", "allow_private"),
        ("https://169.254.169.254", "allow_private"),
        ("https://[fe80::1]", "allow_private"),
        ("https://[::ffff:10.0.0.1]", "allow_private"),
        ("https://0.0.0.0", "allow_private"),
        ("https://2130706433", "usual form"),
        ("https://0x7f.1", "usual form"),
        ("https://127.1", "usual form"),
        ("https://10.0.0.0x1", "usual form"),
        ("https://-bad.example", "host name"),
        ("https://", "host name"),
        ("https://h.example\\@evil", "plain ASCII"),
        ("https://h%2eexample", "plain ASCII"),
        ("https://exämple.org", "plain ASCII"),
        ("https://h.example /", "plain ASCII"),
    ],
)
def test_a_url_that_is_no_safe_origin_is_refused(url, says):
    with pytest.raises(ValueError, match=says):
        origin_of(url, allow_private=False)


@pytest.mark.parametrize("url", ["http://10.0.0.7:8000", "https://192.168.1.1", "http://vllm.internal:8000", "http://169.254.1.1"])
def test_private_origins_want_leave(url):
    assert origin_of(url, allow_private=True).host in url


@given(st.text(max_size=40))
def test_no_url_leads_to_another_host_than_it_shows(tail):
    try:
        origin = origin_of("https://h.example" + tail, allow_private=True)
    except ValueError:
        return
    assert origin.host.startswith("h.example") and origin.host_header.startswith(b"h.example")
