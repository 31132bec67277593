"""Signatures of records: a DSSE envelope under a local ed25519 key, through securesystemslib (the extra `record`)."""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError

PAYLOAD = "application/vnd.in-toto+json"
KIND = "ed25519"
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
"""How the public half of an ed25519 key begins in DER (RFC 8410); its 32 bytes follow."""
_MAKE = "openssl genpkey -algorithm ed25519 -out controller.pem"


class NoSigning(ExpungeError):
    """The packages for signatures are not installed."""

    def __init__(self) -> None:
        super().__init__("signatures need the extra `record`: pip install 'expunge[record]'")


class Signer:
    """A private key, loaded once."""

    def __init__(self, path: Path) -> None:
        """Load a private ed25519 key from a PEM file without a passphrase.

        Raises:
            ExpungeError: no such file, or another kind of key.
            NoSigning: the extra is not installed.
        """
        if not path.is_file():
            raise ExpungeError(f"no key at {path}. Make one: {_MAKE}")
        try:
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
            from securesystemslib.signer import CryptoSigner
        except ImportError as error:
            raise NoSigning from error
        try:
            self._signer = CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
        except (ValueError, TypeError) as error:
            raise ExpungeError(f"{path} is not a private key in PEM without a passphrase: {error}. {_MAKE}") from error
        if self._signer.public_key.keytype != KIND:
            raise ExpungeError(f"{path} must be a private {KIND} key; got {self._signer.public_key.keytype}. {_MAKE}")

    @property
    def public(self) -> dict[str, str]:
        """What a record says of who signed it."""
        key = self._signer.public_key
        return {"scheme": KIND, "keyid": key.keyid, "public": key.keyval["public"]}

    def envelope(self, payload: bytes) -> str:
        """The text of the DSSE envelope around a payload."""
        from securesystemslib.dsse import Envelope

        made = Envelope(payload, PAYLOAD, {})
        made.sign(self._signer)
        return _text(made.to_dict())


def _text(envelope: Mapping[str, Any]) -> str:
    return json.dumps(envelope, indent=1) + "\n"


def fault_of(envelope: str, payload: bytes, signer: Mapping[str, str]) -> str:
    """What is wrong with a signature; empty where it is right.

    Args:
        envelope: text of the DSSE envelope.
        payload: what it must hold, byte by byte.
        signer: scheme, key id and public key, as the record names them.

    Raises:
        NoSigning: securesystemslib is not installed.
    """
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import Error
        from securesystemslib.signer import SSlibKey
    except ImportError as error:
        raise NoSigning from error
    try:
        read = Envelope.from_dict(json.loads(envelope))
        if _text(read.to_dict()) != envelope or read.payload_type != PAYLOAD:
            return "the envelope is not as it was written"
        if read.payload != payload:
            return "the envelope holds another record"
        key = SSlibKey(signer["keyid"], KIND, signer["scheme"], {"public": signer["public"]})
        read.verify([key], 1)
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"the signature does not hold: {' '.join(str(error).split())[:120]}"
    return ""


def public_key(path: Path) -> str:
    """The 32 bytes of a public ed25519 key in a PEM file, as hex digits.

    Raises:
        ExpungeError: no such file, or another kind of key.
    """
    if not path.is_file():
        raise ExpungeError(f"no public key at {path}. Make it: openssl pkey -in controller.pem -pubout -out {path}")
    lines = path.read_text(encoding="ascii", errors="replace").split("\n")
    try:
        found = base64.b64decode("".join(line.strip() for line in lines if "-----" not in line), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not found.startswith(_PUBLIC) or len(found) != len(_PUBLIC) + 32:
        raise ExpungeError(
            f"{path} is not a public ed25519 key in PEM. Make it of the private one: openssl pkey -in controller.pem "
            f"-pubout -out {path}"
        )
    return found[len(_PUBLIC) :].hex()
