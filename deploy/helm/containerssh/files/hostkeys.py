# Makes the host keys' Secret where it is not there yet. What is there stays, so clients never see another key.
import base64
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

name, labels = sys.argv[1], json.loads(sys.argv[2])
account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
host = os.environ["KUBERNETES_SERVICE_HOST"]
host = f"[{host}]" if ":" in host else host
namespace = (account / "namespace").read_text()
address = f"https://{host}:{os.environ['KUBERNETES_SERVICE_PORT']}/api/v1/namespaces/{namespace}/secrets"
trust = ssl.create_default_context(cafile=account / "ca.crt")


def ask(address, body=None):
    headers = {"Authorization": f"Bearer {(account / 'token').read_text()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(request, context=trust, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as failure:
        if failure.code in (404, 409):
            return failure.code
        sys.exit(f"{failure.code}: {failure.read(4096).decode(errors='replace')}")


if ask(f"{address}/{name}") == 200:
    print("The host keys are there already.")
    sys.exit()
keys = {"ed25519": Ed25519PrivateKey.generate(), "rsa": generate_private_key(65537, 3072)}
texts = {kind: key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()) for kind, key in keys.items()}
secret = {
    "apiVersion": "v1",
    "kind": "Secret",
    "type": "Opaque",
    "immutable": True,
    "metadata": {"name": name, "labels": labels},
    "data": {kind: base64.b64encode(text).decode() for kind, text in texts.items()},
}
# 409: somebody else was quicker, and those are the keys.
print("Host keys made." if ask(address, secret) == 201 else "The host keys are there already.")
