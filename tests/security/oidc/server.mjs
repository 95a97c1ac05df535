// The certified oidc-provider as an access-token issuer: client_credentials gives RS256 JWTs whose claims each client chooses.
// Prints its issuer's URL, then serves until stdin ends: it cannot outlive the test that started it.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

// Tenant and roles where each kind of issuer puts them (api_common.authn.CLAIM_MAPS).
const CLAIMS = {
  generic: { tenant_id: 'acme', roles: ['admin'] },
  keycloak: { tenant_id: 'acme', realm_access: { roles: ['admin'] } },
  auth0: { org_id: 'acme', 'https://ameide.dev/roles': ['admin'] },
};
const RESOURCE = 'urn:ameide:api';

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'real', use: 'sig', alg: 'RS256' }] },
  clients: Object.keys(CLAIMS).map((kind) => ({
    client_id: kind,
    client_secret: 'secret',
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  })),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => RESOURCE,
      getResourceServerInfo: () => ({
        scope: '',
        audience: 'ameide-api',
        accessTokenTTL: 600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  // A token of client credentials has the client's id as its client_id only: the subject is ours to say (RFC 9068, section 2.2).
  extraTokenClaims: (_context, token) => ({ sub: token.clientId, ...CLAIMS[token.clientId] }),
});
server.on('request', provider.callback());
console.log(issuer);
process.stdin.resume().on('end', () => process.exit());
