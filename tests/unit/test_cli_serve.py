"""What `airside serve` makes of its flags and settings before anything listens."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from airside.cli.main import execute
from airside.cli.serve import ServeOptions
from airside.cli.serve_security import listen_host, tls_files
from airside.model import UsageError

PLAIN = ServeOptions()
TLS = ServeOptions(tls_cert="a.crt", tls_key="a.key")


@pytest.mark.parametrize(
    ("options", "host"),
    [
        (PLAIN, "127.0.0.1"),
        (replace(PLAIN, insecure=True), "::"),
        (TLS, "::"),
        (replace(TLS, host="10.0.0.7"), "10.0.0.7"),
        (replace(TLS, insecure=True), "::"),
        (replace(PLAIN, host="[::1]"), "::1"),
        (replace(PLAIN, insecure=True, host="0.0.0.0"), "0.0.0.0"),
    ],
)
def test_it_listens_everywhere_only_with_tls_or_if_told(options: ServeOptions, host: str) -> None:
    assert listen_host(options) == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "10.0.0.7"])
def test_another_address_without_tls_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=r"without TLS needs --insecure.*--tls-cert and --tls-key encrypt it"):
        listen_host(replace(PLAIN, host=host))


def test_the_files_of_tls_come_together() -> None:
    assert tls_files(PLAIN) is None
    found = tls_files(replace(TLS, client_ca="ca.crt"))
    assert found is not None
    assert (found.certificate, found.key, found.client_ca) == (Path("a.crt"), Path("a.key"), Path("ca.crt"))
    for options, sentence in [
        (replace(PLAIN, tls_cert="a.crt"), "--tls-cert needs --tls-key"),
        (replace(PLAIN, tls_key="a.key"), "--tls-key needs --tls-cert"),
        (replace(PLAIN, client_ca="ca.crt"), "--client-ca needs TLS"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            tls_files(options)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tls-cert", "no.crt", "--tls-key", "no.key"], "no.key cannot be read: No such file or directory."),
        (["--token-file", "no-tokens"], "no-tokens cannot be read: No such file or directory."),
    ],
)
def test_a_missing_file_ends_the_start_with_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [])  # the command sets up logging; later tests keep theirs
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    assert execute(["serve", "--port", "0", "--metrics-port", "-1", *flags]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"Error: {sentence}"
