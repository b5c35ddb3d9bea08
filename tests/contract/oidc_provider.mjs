// A real OpenID Connect provider (npm: oidc-provider) with a public client, for one test.
//   node oidc_provider.mjs PORT CERTIFICATE KEY REDIRECT_URI
import https from 'node:https';
import fs from 'node:fs';
import Provider from 'oidc-provider';

const [port, certificate, key, redirect] = process.argv.slice(2);
const issuer = `https://localhost:${port}`;
const people = {
  ann: { email: 'ann@example.org', email_verified: true, groups: ['ml-team'] },
  eve: { email: 'ann@example.org', email_verified: false, groups: [] },
};
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'federation', token_endpoint_auth_method: 'none', redirect_uris: [redirect],
    grant_types: ['authorization_code'], response_types: ['code'],
  }],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['groups'] },
  features: { devInteractions: { enabled: true } },
  cookies: { keys: ['only for a test'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
});
https.createServer(
  { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, provider.callback(),
).listen(Number(port), '127.0.0.1', () => console.log('ready'));
