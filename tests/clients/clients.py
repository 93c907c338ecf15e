"""Runs Authlib and PyJWT against an issuer: python clients.py ISSUER KEY-FILE."""

import json
import os
import sys
import time

# The issuer listens on loopback, without TLS.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import jwt
import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from authlib.oidc.discovery import OpenIDProviderMetadata
from joserfc.jwk import ECKey

issuer, key_file = sys.argv[1:]
SECRET = "mss_checkout-of-the-client-tests"
with open(key_file, encoding="utf-8") as file:
    key = ECKey.import_key(json.load(file))

metadata = {}
for name, kind in [
    ("oauth-authorization-server", AuthorizationServerMetadata),
    ("openid-configuration", OpenIDProviderMetadata),
]:
    metadata = requests.get(f"{issuer}/.well-known/{name}", timeout=10).json()
    kind(metadata).validate()
endpoint = metadata["token_endpoint"]


def session(client, secret, method):
    return OAuth2Session(
        client,
        secret,
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        scope="orders.read",
    )


class ShortLived(PrivateKeyJWT):
    """Assertions that live one minute.

    Authlib's default is an hour, which exceeds the issuer's limit of 5 minutes.
    """

    def sign(self, auth, token_endpoint):
        self.claims = {"exp": int(time.time()) + 60}
        return super().sign(auth, token_endpoint)


signing = ShortLived(token_endpoint=issuer, alg="ES256", headers={"kid": key.kid})
sessions = [
    session("checkout", SECRET, "client_secret_basic"),
    session("checkout", SECRET, "client_secret_post"),
    session("signer", key, signing),
]
keys = jwt.PyJWKClient(metadata["jwks_uri"])
for current in sessions:
    answer = current.fetch_token(endpoint, grant_type="client_credentials", resource="orders")
    token = answer["access_token"]
    # PyJWT allows no clock skew here, so `iat` must not lie in the future.
    claims = jwt.decode(
        token,
        keys.get_signing_key_from_jwt(token),
        algorithms=["EdDSA"],
        audience="orders",
        issuer=issuer,
        options={"require": ["exp", "iat", "sub", "jti", "client_id"]},
    )
    assert claims["sub"] == current.client_id, claims
    introspection, revocation = metadata["introspection_endpoint"], metadata["revocation_endpoint"]
    assert current.introspect_token(introspection, token=token).json()["active"] is True
    assert current.revoke_token(revocation, token=token).json()["revoked"] is True
    assert current.introspect_token(introspection, token=token).json()["active"] is False
print("PyJWT: ok")

for method in ("client_secret_basic", "client_secret_post"):
    try:
        session("checkout", "wrong", method).fetch_token(endpoint, grant_type="client_credentials")
        raise AssertionError("the issuer accepted a wrong secret")
    except OAuthError as error:
        assert error.error == "invalid_client", error
print("Authlib: ok")
