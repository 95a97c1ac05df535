// Does everything work that the other scenarios call? A few seconds; nothing is said about speed.
import { check } from 'k6';
import { anyTenant, call, comeAndGo, getUser, listUsers, optionsOf, renameUser } from './mesh.js';

export { setup, teardown } from './mesh.js';

export const options = optionsOf(
  { executor: 'shared-iterations', vus: 2, iterations: 6, maxDuration: '30s' },
  { 'http_req_duration{kind:simple}': [], 'http_req_duration{kind:complex}': [] },
);

export default function (data) {
  const tenant = anyTenant(data);
  getUser(tenant);
  listUsers(tenant);
  renameUser(tenant);
  comeAndGo(tenant);
  const nobody = '/v1/users/00000000-0000-7000-8000-000000000000';
  const missing = call(tenant, 'GET', nobody, null, { name: 'get nobody', kind: 'simple' }, {}, 404);
  check(missing, { 'one shape of errors': (r) => r.status === 404 && r.json('code') === 5 });
}
