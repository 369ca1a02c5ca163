// A real OpenID provider for the tests: npm's certified `oidc-provider`.
// node provider.mjs DIRECTORY PORT SETTINGS: DIRECTORY has the package, SETTINGS is
// JSON: { clients, groups: { ACCOUNT: [GROUP] }, audience }. Prints "ready".
const [directory, port, text] = process.argv.slice(2);
const { default: Provider } = await import(`${directory}/node_modules/oidc-provider/lib/index.js`);
const settings = JSON.parse(text);

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: settings.clients,
  pkce: { methods: ['S256'], required: () => true },
  scopes: ['openid', 'profile', 'groups'],
  claims: { openid: ['sub'], profile: ['preferred_username'], groups: ['groups'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['of a test'] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: `${id}@acme.example`, groups: settings.groups[id] ?? [] }),
  }),
  extraTokenClaims: (_, token) => ({ groups: settings.groups[token.clientId] ?? [] }),
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (_, resource) => ({ scope: 'read', audience: resource, accessTokenFormat: 'jwt' }),
    },
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
