// The npm package oidc-provider as an issuer of opaque tokens, and of JWTs. Prints its URL, then mints what it is asked for:
//   POST /mint {"kind": "AccessToken" | "RefreshToken" | "ClientCredentials", "subject", "client", "audience", "scope",
//               "ttl", "format": "opaque" | "jwt"} → {"token"}
// The arguments are a JSON object with the public JWK of the client `gateway-key`.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const { jwk } = JSON.parse(process.argv[2]);
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const machine = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'] };
const provider = new Provider(issuer, {
  clients: [
    { client_id: 'gateway', client_secret: 'a secret: 100% & +/=', ...machine },
    { client_id: 'gateway-key', token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [jwk] }, ...machine },
    {
      client_id: 'web',
      client_secret: 'of the web client',
      redirect_uris: ['https://app.example.com/callback'],
      grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
  },
  clientAuthMethods: ['client_secret_basic', 'private_key_jwt'],
  scopes: ['openid', 'offline_access', 'orders:read'],
  findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'ES256', 'EdDSA', 'Ed25519'] },
});

async function mint({ kind, subject, client: clientId, audience, scope, ttl, format = 'opaque' }) {
  const client = await provider.Client.find(clientId);
  const grant = new provider.Grant({ accountId: subject, clientId });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const token = new provider[kind]({ accountId: subject, client, grantId, scope, expiresIn: ttl, gty: 'test' });
  if (audience && token.setAudience) {
    token.resourceServer = new provider.ResourceServer(audience, {
      audience, scope, accessTokenFormat: format, accessTokenTTL: ttl,
    });
  }
  return { token: await token.save(ttl) };
}

async function destroy({ token }) {
  const found = (await provider.AccessToken.find(token)) ?? (await provider.RefreshToken.find(token));
  await found?.destroy();
  return {};
}

const callback = provider.callback();
server.on('request', async (request, response) => {
  const own = { '/mint': mint, '/destroy': destroy }[request.url];
  if (!own) return callback(request, response);
  let body = '';
  for await (const chunk of request) body += chunk;
  try {
    response.end(JSON.stringify(await own(JSON.parse(body))));
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error.stack));
  }
});
process.stdin.resume().on('end', () => process.exit(0));
console.log(JSON.stringify({ issuer }));
