"""Pages of other sites get no answer, and of Gradio there is only what the page needs."""

import json

import pytest

SEARCH = "/api/search?query=a+dog"


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "localhost", "[::1]:80"])
def test_names_of_this_machine(site, host):
    answer, _ = site.ask(SEARCH, Host=host.format(port=site.port))
    assert answer.status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost@evil", "", "[x", "]"]
)
@pytest.mark.parametrize("path", [SEARCH, "/", "/config"])
def test_a_rebound_name_is_refused(site, host, path):
    answer, content = site.ask(path, Host=host)
    assert answer.status == 403
    assert b"no name of this machine" in content


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
    ],
)
def test_other_sites_are_refused(site, headers, status):
    told = {name: value.format(port=site.port) for name, value in headers.items()}
    answer, _ = site.ask(SEARCH, **told)
    assert answer.status == status
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/predict"),
        ("GET", "/gradio_api/info"),
        ("GET", "/monitoring"),
        ("GET", "/static/../../../../../etc/passwd"),
        ("GET", "/assets/%2e%2e/%2e%2e/%2e%2e/config.py"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(site, method, path):
    answer, content = site.ask(path, method=method, body=b"{}" if method == "POST" else None)
    assert answer.status in (403, 404)
    assert b"root:" not in content


def join(site, **event):
    body = json.dumps({"fn_index": 1, "session_hash": "x", **event})
    path = "/gradio_api/queue/join"
    return site.ask(path, method="POST", body=body, Content_Type="application/json")[0].status


def test_events_carry_plain_values(site):
    plain = ["a dog", "", "", 3, False]
    file = {"path": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}
    assert join(site, data=plain) == 200
    assert join(site, data=[file, *plain[1:]]) == 400
    assert join(site, data=[[file], *plain[1:]]) == 400
    assert join(site, data=plain, event_data={"key": file}) == 400
    assert join(site, data=["a" * 100_000, *plain[1:]]) == 400


def test_the_browser_is_told_to_ask_nobody_else(site):
    answer, _ = site.ask("/")
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in answer.headers["Content-Security-Policy"]
