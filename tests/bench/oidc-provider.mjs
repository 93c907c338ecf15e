// The peer of `make bench-issuer`: oidc-provider with its in-memory adapter, minting the same kind of token for the same clients.
// Takes its settings as JSON: {port, keys: the public keys of the client with assertions, secret: that of the other}.
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const { port, keys, secret } = JSON.parse(process.argv[2]);
const signing = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' });
const common = { grant_types: ['client_credentials'], response_types: [], redirect_uris: [], scope: 'orders.read', id_token_signed_response_alg: 'EdDSA' };
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
    { ...common, client_id: 'secretive', client_secret: secret, token_endpoint_auth_method: 'client_secret_basic' },
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
