"""Why a download failed: a proxy that intercepts TLS is the cause that its error hides best."""

UNTRUSTED = "the server's certificate is not trusted, as where a proxy intercepts TLS"
UNTRUSTED_HINT = (
    "set REQUESTS_CA_BUNDLE and SSL_CERT_FILE to a file with the proxy's CA certificate (PEM), besides those of the "
    "system, and run it again"
)
_SIGNS = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "x509: ", "unable to get local issuer")


def is_untrusted(error: BaseException | str) -> bool:
    """Return whether an error, one of its causes, or a program's output says that a certificate is not trusted."""
    if isinstance(error, str):
        return any(sign in error for sign in _SIGNS)
    cause: BaseException | None = error
    while cause is not None:
        if any(sign in str(cause) for sign in _SIGNS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
