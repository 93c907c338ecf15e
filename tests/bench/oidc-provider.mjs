// Peer of `make bench-issuer`: oidc-provider with its in-memory adapter. It issues the same kind of
// token to the same clients as the issuer.
//
// Its argument is a JSON object: {port, keys, secret}. `keys` are the public keys of the client
// with assertions, `secret` is that of the other client.
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const { port, keys, secret } = JSON.parse(process.argv[2]);
const signing = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' });
const common = {
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
  scope: 'orders.read',
  id_token_signed_response_alg: 'EdDSA',
};
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [
    {
      ...common,
      client_id: 'assertive',
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'EdDSA',
      jwks: { keys },
    },
    {
      ...common,
      client_id: 'secretive',
      client_secret: secret,
      token_endpoint_auth_method: 'client_secret_basic',
    },
  ],
  clientAuthMethods: ['private_key_jwt', 'client_secret_basic'],
  jwks: { keys: [{ ...signing, alg: 'EdDSA', use: 'sig', kid: 'signing' }] },
  scopes: ['orders.read'],
  enabledJWA: { clientAuthSigningAlgValues: ['EdDSA'] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        scope: 'orders.read',
        audience: 'orders',
        accessTokenTTL: 300,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'EdDSA' } },
      }),
    },
  },
});
provider.listen(port, '127.0.0.1');
