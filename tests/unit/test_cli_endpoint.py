"""The options with which a command reaches a service: what they amount to, and each mistake in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from airside.cli.endpoint import EndpointOptions, from_source, read_endpoint, to_source
from airside.cli.main import execute
from airside.model.redaction import redact

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN EC PRIVATE KEY-----\nMA==\n-----END EC PRIVATE KEY-----\n"
TOKEN = "a-token-of-some-length"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {"crt": CERTIFICATE, "key": KEY, "tokens": f"# ours\n\n{TOKEN}\nnext\n".encode()}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "wf.py").write_text("from airside import TaskTemplate\nt = TaskTemplate(name='t', task_type='echo')\n")
    return tmp_path


def test_nothing_is_plaintext_without_a_token() -> None:
    assert EndpointOptions(endpoint="h:1").access() == {"tls": None, "token": ""}


def test_any_of_the_files_means_tls(folder: Path) -> None:
    both = EndpointOptions(endpoint="h:1", tls_cert="crt", tls_key="key").access()["tls"]
    assert both is not None
    assert (both.roots, both.certificate, both.key) == (None, CERTIFICATE, KEY)
    for options in (EndpointOptions(tls=True), EndpointOptions(tls_ca="crt")):
        tls = options.access()["tls"]
        assert tls is not None
        assert tls.roots == (CERTIFICATE if options.tls_ca else None)


def test_the_first_token_is_sent_and_never_shown(folder: Path) -> None:
    assert EndpointOptions(token_file="tokens").access()["token"] == TOKEN
    assert redact(f"Bearer {TOKEN}") == "Bearer ***"


def test_what_a_detached_job_remembers_leads_to_the_same_files_from_anywhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = read_endpoint("h:1", {"tls": True, "tls_ca": "crt", "token_file": "tokens", "strict": True})
    source = to_source(options)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    again = from_source(EndpointOptions(), {"file": "wf.py", **source})
    assert again.access()["token"] == TOKEN
    assert (again.endpoint, again.tls, again.tls_ca) == ("h:1", True, str(folder / "crt"))
    assert from_source(EndpointOptions(), {"endpoint": "old:1"}) == EndpointOptions(endpoint="old:1")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tls-cert", "crt"], "--tls-cert needs --tls-key."),
        (["--tls-key", "key"], "--tls-key needs --tls-cert."),
        (["--tls-ca", "none"], "none cannot be read: No such file or directory."),
        (["--tls-ca", "tokens"], "tokens holds no certificate in PEM form."),
        (["--tls-cert", "crt", "--tls-key", "crt"], "crt holds no private key in PEM form."),
        (["--token-file", "crt"], "crt holds no token: put one on a line of its own, in letters, digits and signs."),
    ],
)
@pytest.mark.parametrize("command", [["agents"], ["run", "wf.py", "t"], ["run", "--detach", "wf.py", "t"]])
def test_a_mistake_is_told_in_one_sentence(
    folder: Path, command: list[str], flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute([*command, "--endpoint", "localhost:1", *flags]) == 2
    assert capsys.readouterr().err == f"Error: {sentence}\n"


@pytest.mark.parametrize("flags", [["--tls"], ["--tls-ca", "crt"], ["--token-file", "tokens"]])
@pytest.mark.parametrize("command", [["agents"], ["run", "wf.py", "t"]])
def test_the_options_need_an_endpoint(
    folder: Path, command: list[str], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute([*command, *flags]) == 2
    assert capsys.readouterr().err == f"Error: {flags[0]} is for calls to a service: say which, as HOST:PORT.\n"


def test_a_token_does_not_travel_in_clear_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["agents", "--endpoint", "example.org:1", "--token-file", "tokens"]) == 2
    assert "would travel in clear text: use TLS" in capsys.readouterr().err
