// One tenant asks for as much as it can, the others go about their day: they are served as if it were not there, and nobody
// sees what is somebody else's.
import { check } from 'k6';
import { call, getUser, listUsers, number, OBJECTIVES, steadily, usual } from './mesh.js';

export { setup, teardown } from './mesh.js';

const DURATION = __ENV.DURATION || '30s';
const quiet = steadily(number('RATE', 50), DURATION);

export const options = {
  ...quiet,
  scenarios: {
    ...quiet.scenarios,
    // Closed: it waits for its answers, so it takes what is left and no more.
    noisy: { executor: 'constant-vus', exec: 'noisy', vus: number('NOISY', 4), duration: DURATION },
  },
  thresholds: {
    checks: OBJECTIVES.checks,
    'http_req_failed{scenario:main}': OBJECTIVES.http_req_failed,
    'http_req_duration{scenario:main,kind:simple}': OBJECTIVES['http_req_duration{kind:simple}'],
    'http_req_duration{scenario:main,kind:complex}': OBJECTIVES['http_req_duration{kind:complex}'],
  },
};

export function noisy({ tenants }) {
  getUser(tenants[0]);
}

export default function ({ tenants }) {
  if (tenants.length < 3) {
    throw new Error('this needs the tokens of three tenants: TOKENS="… … …"');
  }
  const own = 1 + Math.floor(Math.random() * (tenants.length - 1));
  const tenant = tenants[own];
  if (Math.random() < 0.8) {
    usual(tenant);
    return;
  }
  const theirs = tenants[own === 1 ? 2 : 1].ids;
  const hidden = call(tenant, 'GET', `/v1/users/${theirs[0]}`, null, { name: 'get theirs', kind: 'simple' }, {}, 404);
  check(hidden, { 'somebody else’s is not there': (r) => r.status === 404 });
  const listed = listUsers(tenant).json('users.#.id') || [];
  check(listed, { 'nobody else’s in the list': (ids) => !ids.some((id) => theirs.includes(id)) });
}
