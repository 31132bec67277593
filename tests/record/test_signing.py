"""Signatures under a local key, where the extra `record` is installed."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from expunge.core.checks import ExpungeError
from expunge.record.signing import Signer, fault_of, public_key
from made_run import keys

pytest.importorskip("securesystemslib", reason="needs the extra `record`")
pytest.importorskip("cryptography", reason="needs the extra `record`")

PAYLOAD = b'{"_type": "statement"}\n'


def test_a_signature_holds_for_its_payload_and_key_alone(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    signer = Signer(private)
    envelope = signer.envelope(PAYLOAD)
    assert fault_of(envelope, PAYLOAD, signer.public) == ""
    assert fault_of(envelope, PAYLOAD + b" ", signer.public) == "the envelope holds another record"
    assert public_key(public) == signer.public["public"]
    other = Signer(keys(tmp_path, name="other")[0])
    assert "does not hold" in fault_of(envelope, PAYLOAD, other.public)
    assert "does not hold" in fault_of(envelope, PAYLOAD, {**other.public, "keyid": signer.public["keyid"]})


def test_the_signature_is_dsse_s(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    envelope = json.loads(Signer(private).envelope(PAYLOAD))
    assert envelope["payloadType"] == "application/vnd.in-toto+json" and len(envelope["signatures"]) == 1
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(PAYLOAD), PAYLOAD)
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key: Any = load_pem_public_key(public.read_bytes())
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)  # raises where it does not hold


def test_one_changed_byte_of_the_envelope_is_found(tmp_path: Path) -> None:
    signer = Signer(keys(tmp_path)[0])
    whole = signer.envelope(PAYLOAD).encode()
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert fault_of(changed.decode("utf-8", "replace"), PAYLOAD, signer.public), at


def test_keys_of_openssl_are_read(tmp_path: Path) -> None:
    private, public = tmp_path / "c.pem", tmp_path / "c.pub.pem"
    try:
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True
        )
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl with ed25519")
    assert public_key(public) == Signer(private).public["public"]


def test_what_is_no_such_key_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    private, public = keys(tmp_path, rsa.generate_private_key(65537, 2048))
    with pytest.raises(ExpungeError, match="must be a private ed25519 key; got rsa"):
        Signer(private)
    with pytest.raises(ExpungeError, match="is not a public ed25519 key"):
        public_key(public)
    with pytest.raises(ExpungeError, match=r"no key at .* Make one: openssl genpkey"):
        Signer(tmp_path / "none.pem")
    with pytest.raises(ExpungeError, match="no public key at"):
        public_key(tmp_path / "none.pem")
    public.write_text("nothing")
    for path in (public, keys(tmp_path, name="a")[1]):
        with pytest.raises(ExpungeError, match="is not a private key in PEM without a passphrase"):
            Signer(path)
    with pytest.raises(ExpungeError, match="is not a public ed25519 key"):
        public_key(keys(tmp_path, name="b")[0])
