"""Keys and certificates of the control plane, and the token of its one user. New with each cluster."""

from __future__ import annotations

import secrets
from pathlib import Path

from testbed import places
from testbed.commands import run

DAYS = "3650"
_NAMES = [
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:localhost",
    "IP:127.0.0.1",
    f"IP:{places.MACHINE}",
    f"IP:{places.KUBERNETES_SERVICE}",
]


def folder() -> Path:
    """Where they are."""
    return places.run() / "pki"


def token() -> str:
    """What the administrator shows."""
    return (folder() / "tokens.csv").read_text().partition(",")[0]


def make() -> None:
    """Make them, and the kubeconfig that goes with them."""
    here = folder()
    here.mkdir(parents=True, mode=0o700)

    def openssl(*words: str) -> None:
        run(["openssl", *words], cwd=here)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl(
        "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-days", DAYS, "-subj", "/CN=testbed-ca"
    )
    openssl("req", *new, "-keyout", "api.key", "-out", "api.csr", "-subj", "/CN=kube-apiserver")
    (here / "names").write_text(f"subjectAltName={','.join(_NAMES)}")
    signed_by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS, "-extfile", "names")
    openssl("x509", "-req", "-in", "api.csr", "-out", "api.crt", *signed_by)
    openssl("genrsa", "-out", "accounts.key", "2048")
    openssl("rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    (here / "tokens.csv").write_text(f"{secrets.token_hex(16)},admin,admin,system:masters\n")
    path = places.kubeconfig()
    path.touch(mode=0o600)
    path.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: testbed, cluster: {{server: "{places.API_URL}", certificate-authority: {here}/ca.crt}}}}]
users: [{{name: admin, user: {{token: {token()}}}}}]
contexts: [{{name: testbed, context: {{cluster: testbed, user: admin}}}}]
current-context: testbed
"""
    )
