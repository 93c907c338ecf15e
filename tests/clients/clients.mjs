// Runs openid-client and oauth4webapi against an issuer: node clients.mjs ISSUER KEY-FILE
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import * as oauth from 'oauth4webapi';
import * as client from 'openid-client';

const [issuer, keyFile] = process.argv.slice(2);
const secret = 'mss_checkout-of-the-client-tests';
const jwk = JSON.parse(readFileSync(keyFile, 'utf8'));
const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
const key = await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign']);
const signer = { key, kid: jwk.kid };
const grant = { resource: 'orders', scope: 'orders.read' };

// openid-client: discovery by both documents, each authentication method, introspection and
// revocation.
for (const algorithm of ['oidc', 'oauth2']) {
  for (const [id, authentication] of [
    ['checkout', client.ClientSecretBasic(secret)],
    ['checkout', client.ClientSecretPost(secret)],
    ['signer', client.PrivateKeyJwt(signer)],
  ]) {
    const config = await client.discovery(new URL(issuer), id, undefined, authentication, {
      algorithm, execute: [client.allowInsecureRequests],
    });
    const tokens = await client.clientCredentialsGrant(config, grant);
    assert.equal(tokens.token_type, 'bearer');
    assert.equal((await client.tokenIntrospection(config, tokens.access_token)).active, true);
    await client.tokenRevocation(config, tokens.access_token);
    assert.equal((await client.tokenIntrospection(config, tokens.access_token)).active, false);
  }
}
const wrongSecret = client.ClientSecretPost('wrong');
const wrong = await client.discovery(new URL(issuer), 'checkout', undefined, wrongSecret, {
  execute: [client.allowInsecureRequests],
});
await assert.rejects(client.clientCredentialsGrant(wrong, grant), error => error.status === 401);
console.log('openid-client: ok');

// oauth4webapi: the same steps one by one, and validation of the access token (RFC 9068).
const insecure = { [oauth.allowInsecureRequests]: true };
const url = new URL(issuer);
for (const algorithm of ['oidc', 'oauth2']) {
  const discovered = await oauth.discoveryRequest(url, { algorithm, ...insecure });
  const server = await oauth.processDiscoveryResponse(url, discovered);
  const self = { client_id: 'checkout' };
  const basic = oauth.ClientSecretBasic(secret);
  const answer = await oauth.clientCredentialsGrantRequest(server, self, basic, grant, insecure);
  const tokens = await oauth.processClientCredentialsResponse(server, self, answer);
  const request = new Request('http://orders.example/', {
    headers: { authorization: `Bearer ${tokens.access_token}` },
  });
  const claims = await oauth.validateJwtAccessToken(server, request, 'orders', insecure);
  assert.equal(claims.client_id, 'checkout');
  const token = tokens.access_token;
  const introspected = await oauth.introspectionRequest(server, self, basic, token, insecure);
  assert.equal((await oauth.processIntrospectionResponse(server, self, introspected)).active, true);
  const revoked = await oauth.revocationRequest(server, self, basic, token, insecure);
  await oauth.processRevocationResponse(revoked);
  const post = oauth.ClientSecretPost('wrong');
  const refused = await oauth.clientCredentialsGrantRequest(server, self, post, grant, insecure);
  await assert.rejects(
    oauth.processClientCredentialsResponse(server, self, refused),
    error => error instanceof oauth.WWWAuthenticateChallengeError || error.status === 401,
  );
}
console.log('oauth4webapi: ok');
