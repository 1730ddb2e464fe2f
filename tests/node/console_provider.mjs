// The npm package oidc-provider as the provider at which people sign in to the console. Prints its URL.
//   POST /as {"sub", "name", "groups"} → who signs in from now on, without a form.
// The arguments are a JSON object with the client's `redirect_uri`, and the `port` to listen on.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const { redirect_uri: redirectUri, port } = JSON.parse(process.argv[2]);
const server = createServer();
await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

let person = { sub: 'ada', name: 'Ada Lovelace', groups: ['gateway-operators'] };
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'gateway-console',
    client_secret: 'the secret of the console: 100 %',
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code'],
    application_type: 'web',
  }],
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false } },
  scopes: ['openid', 'profile'],
  claims: { openid: ['sub'], profile: ['name', 'groups'] },
  // The console reads the ID token alone, as it does of the providers whose ID tokens have the roles.
  conformIdTokenClaims: false,
  findAccount: (_, accountId) => ({ accountId, claims: () => ({ ...person, sub: accountId }) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
});

/** What a person would do in forms: log in as `person`, and agree. */
async function interact(request, response) {
  const { prompt, params } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: person.sub } }, { mergeWithLastSubmission: false });
  }
  const grant = new provider.Grant({ accountId: person.sub, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

const callback = provider.callback();
server.on('request', async (request, response) => {
  if (request.url.startsWith('/interaction/')) return interact(request, response);
  if (request.url !== '/as') return callback(request, response);
  let body = '';
  for await (const chunk of request) body += chunk;
  person = JSON.parse(body);
  response.end('{}');
});
process.stdin.resume().on('end', () => process.exit(0));
console.log(JSON.stringify({ issuer }));
