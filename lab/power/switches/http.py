"""HTTP GET to a plug: JSON answers, basic and digest authentication (RFC 7616, MD5 and SHA-256).

Passwords are in no message: of a request only its path is ever told, and of an answer only its first words where none
of them is a secret.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import secrets
from collections.abc import Mapping
from urllib.parse import urlencode

from pydantic import SecretStr

from lab.errors import InfrastructureError

_ANSWER_S = 5.0
_LONGEST_ANSWER = 1 << 16
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


class Plug:
    """A plug by its host.

    Args:
        host: name or address, with a port where it is not 80.
        user, password: for plugs that ask for them.
    """

    def __init__(self, host: str, user: str = "", password: SecretStr | None = None) -> None:
        self.host = host
        self._user = user
        self._password = password

    def get(
        self, path: str, query: Mapping[str, str], login: Mapping[str, SecretStr] | None = None
    ) -> Mapping[str, object]:
        """The JSON object that a path answers with.

        A traceback may show the variables of every frame, so what holds a secret is a ``SecretStr`` up to the call that
        sends it.

        Args:
            path, query: what is asked for.
            login: more of the query, for plugs that take user and password there.

        Raises:
            InfrastructureError: no answer, a refusal, or something that is no JSON object.
        """
        asked = f"{path}?{urlencode(query)}" if query else path
        target = _with_login(path, query, login or {})
        status, challenge, body = self._request(path, target, None)
        if status == http.client.UNAUTHORIZED and challenge and self._password is not None:
            status, _, body = self._request(path, target, SecretStr(self._answer(challenge, asked)))
        if status == http.client.UNAUTHORIZED:
            given = "the one given was refused" if self._password is not None else "none is given"
            raise InfrastructureError(
                f"http://{self.host}{path} asks for a password; {given}",
                hint="user: and password: !env NAME of the switch in the bench file",
            )
        if status != http.client.OK:
            raise InfrastructureError(
                f"http://{self.host}{path} answered with status {status}",
                hint="is it the right kind and generation of plug, and has it that outlet?",
            )
        return self._parsed(path, body)

    def _request(self, path: str, target: SecretStr, authorization: SecretStr | None) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=_ANSWER_S)
        try:
            connection.request("GET", target.get_secret_value(), headers=_headers(authorization))
            answer = connection.getresponse()
            return answer.status, answer.getheader("WWW-Authenticate", ""), answer.read(_LONGEST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise InfrastructureError(
                f"http://{self.host}{path}: no answer: {type(error).__name__}: {error}",
                hint="is the plug in this network, and its address right?",
                transient=True,
            ) from None
        finally:
            connection.close()

    def _parsed(self, path: str, body: bytes) -> Mapping[str, object]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise InfrastructureError(
                f"http://{self.host}{path} answered with {len(body)} bytes that are no JSON object",
                hint="is it the right kind and generation of plug?",
            )
        return answer

    def _answer(self, challenge: str, target: str) -> str:
        password = "" if self._password is None else self._password.get_secret_value()
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            return "Basic " + base64.b64encode(f"{self._user}:{password}".encode()).decode()
        told = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest)}
        name = told.get("algorithm", "MD5").upper()
        if kind.lower() != "digest" or name not in _HASHES:
            raise InfrastructureError(
                f"http://{self.host} asks for authentication by {kind} {name}", hint="known: Basic, Digest MD5, SHA-256"
            )
        return "Digest " + _digest(_HASHES[name], told, self._user, password, target, name)


def _headers(authorization: SecretStr | None) -> dict[str, str]:
    return {} if authorization is None else {"Authorization": authorization.get_secret_value()}


def _with_login(path: str, query: Mapping[str, str], login: Mapping[str, SecretStr]) -> SecretStr:
    every = {**{name: value.get_secret_value() for name, value in login.items()}, **query}
    return SecretStr(f"{path}?{urlencode(every)}" if every else path)


def _digest(method: str, told: Mapping[str, str], user: str, password: str, target: str, name: str) -> str:
    def hashed(text: str) -> str:
        return hashlib.new(method, text.encode(), usedforsecurity=False).hexdigest()

    realm, nonce = told.get("realm", ""), told.get("nonce", "")
    count, own = "00000001", secrets.token_hex(8)
    identity = hashed(f"{user}:{realm}:{password}")
    response = hashed(f"{identity}:{nonce}:{count}:{own}:auth:{hashed(f'GET:{target}')}")
    return (
        f'username="{user}", realm="{realm}", nonce="{nonce}", uri="{target}", algorithm={name}, '
        f'response="{response}", qop=auth, nc={count}, cnonce="{own}"'
    )
