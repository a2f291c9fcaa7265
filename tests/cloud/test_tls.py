"""TLS contexts say how old they may be, whatever the interpreter's default is."""

import ssl

import pytest

from cloud.tls import client_context, modern, no_authority


def test_a_context_is_modern_where_the_interpreter_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some distributions build Python so that a default context has no minimum."""
    real = ssl.create_default_context

    def ancient(*, cafile: object = None, cadata: object = None) -> ssl.SSLContext:
        assert (cafile, cadata) == (None, None)
        context = real()
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        return context

    monkeypatch.setattr(ssl, "create_default_context", ancient)
    context = client_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_server_is_made_modern() -> None:
    assert modern(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)).minimum_version is ssl.TLSVersion.TLSv1_2


def test_what_speaks_no_tls_trusts_nobody() -> None:
    context = no_authority()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats()["x509_ca"] == 0
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
