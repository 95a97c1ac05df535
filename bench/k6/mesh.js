// What all scenarios share: who calls, what there is to call, and what must hold. k6 runs the other files of this folder.
import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';

export const URL = (__ENV.URL || 'http://127.0.0.1:8080').replace(/\/$/, '');

// One tenant each, separated by blanks; several share the work, so that no tenant's rate limit ends it.
const TOKENS = (__ENV.TOKENS || '').split(/\s+/).filter(Boolean);

const USERS = 100; // of each tenant

// The objectives: 99.9 % of calls succeed, and a p95 for simple and for complex calls, in milliseconds.
export const SIMPLE = { threshold: 'p(95)<100' };
export const COMPLEX = { threshold: 'p(95)<500' };
export const OBJECTIVES = {
  http_req_failed: ['rate<0.001'],
  checks: ['rate>0.999'],
  'http_req_duration{kind:simple}': [SIMPLE.threshold],
  'http_req_duration{kind:complex}': [COMPLEX.threshold],
};

/** Returns k6's options of one scenario; an open one fails, too, where k6 could not keep up with its rate. */
export function optionsOf(scenario, thresholds = {}) {
  const open = scenario.executor.endsWith('arrival-rate');
  return {
    scenarios: { main: { gracefulStop: '30s', ...scenario } },
    thresholds: { ...OBJECTIVES, ...(open ? { dropped_iterations: ['count==0'] } : {}), ...thresholds },
    insecureSkipTLSVerify: __ENV.INSECURE === '1',
    setupTimeout: '2m',
    teardownTimeout: '2m',
    summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max', 'count'],
    userAgent: 'ameide-load',
  };
}

/** Returns the options of `rate` iterations a second: they begin when they are due, whatever became of those before. */
export function steadily(rate, duration) {
  return optionsOf({ executor: 'constant-arrival-rate', rate, duration, preAllocatedVUs: 50, maxVUs: 1000 });
}

/** Returns a number from the environment. */
export function number(name, otherwise) {
  return Number(__ENV[name] || otherwise);
}

/** Stores users in every tenant: what the calls of the scenarios are about. */
export function setup() {
  if (TOKENS.length === 0) {
    throw new Error('TOKENS is empty: make load makes tokens for the local mesh, for another one give TOKENS="…"');
  }
  const run = `${Date.now()}`;
  const tenants = TOKENS.map((token, tenant) => {
    const requests = Array.from({ length: USERS }, (_, n) => ({ user: aUser(`${run}-${tenant}-${n}`) }));
    const stored = call({ token }, 'POST', '/v1/users:batchCreate', { requests }, { kind: 'setup' });
    if (stored.status !== 200) {
      throw new Error(`no users to work with: ${stored.status} ${stored.body}`);
    }
    return { token, ids: stored.json('users.#.id') };
  });
  return { tenants };
}

/** Deletes what `setup` has stored. */
export function teardown({ tenants }) {
  for (const tenant of tenants) {
    call(tenant, 'POST', '/v1/users:batchDelete', { requests: tenant.ids.map((id) => ({ id })) }, { kind: 'setup' });
  }
}

/** Returns the tenant in whose name this iteration calls. */
export function anyTenant({ tenants }) {
  return tenants[exec.scenario.iterationInTest % tenants.length];
}

/** Makes one of the calls, as often as a usual day has them: reads mostly. */
export function usual(tenant) {
  const chance = Math.random();
  if (chance < 0.7) {
    getUser(tenant);
  } else if (chance < 0.85) {
    listUsers(tenant);
  } else if (chance < 0.95) {
    renameUser(tenant);
  } else {
    comeAndGo(tenant);
  }
}

export function getUser(tenant) {
  const id = anyOf(tenant.ids);
  const got = call(tenant, 'GET', `/v1/users/${id}`, null, { name: 'get', kind: 'simple' });
  check(got, { 'the user that was asked for': (r) => r.status === 200 && r.json('id') === id });
}

export function listUsers(tenant) {
  const query = 'pageSize=50&orderBy=display_name&filter=state%20%3D%20ACTIVE';
  const listed = call(tenant, 'GET', `/v1/users?${query}`, null, { name: 'list', kind: 'complex' });
  check(listed, { 'a full page': (r) => r.status === 200 && r.json('users.#') === 50 });
  return listed;
}

export function renameUser(tenant) {
  const id = anyOf(tenant.ids);
  const displayName = `Renamed ${Math.random()}`;
  const tags = { name: 'update', kind: 'simple' };
  const renamed = call(tenant, 'PATCH', `/v1/users/${id}?updateMask=displayName`, { displayName }, tags);
  check(renamed, { 'the new name': (r) => r.status === 200 && r.json('displayName') === displayName });
}

/** Creates a user with an idempotency key, twice, and deletes it. */
export function comeAndGo(tenant) {
  const key = `${Date.now()}-${Math.random()}`;
  const user = aUser(key);
  const [first, again] = [0, 1].map(() =>
    call(tenant, 'POST', '/v1/users', user, { name: 'create', kind: 'simple' }, { 'Idempotency-Key': key }),
  );
  check(again, { 'created once': (r) => r.status === 200 && r.json('id') === first.json('id') });
  const gone = call(tenant, 'DELETE', `/v1/users/${first.json('id')}`, null, { name: 'delete', kind: 'simple' });
  check(gone, { deleted: (r) => r.status === 200 });
}

/** Calls as `tenant`; a refusal with the status `refused` is what was wanted. */
export function call(tenant, method, path, body, tags, headers = {}, refused = 0) {
  const responseCallback = http.expectedStatuses(refused || { min: 200, max: 299 });
  return http.request(method, URL + path, body && JSON.stringify(body), {
    headers: { Authorization: `Bearer ${tenant.token}`, 'Content-Type': 'application/json', ...headers },
    tags: { name: path, ...tags },
    responseCallback,
  });
}

function aUser(key) {
  return { displayName: `Load ${key}`, email: `load-${key}@example.com` };
}

function anyOf(items) {
  return items[Math.floor(Math.random() * items.length)];
}
