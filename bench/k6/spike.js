// RATE calls a second, then SPIKE for a moment, then RATE again. Meanwhile calls may be slow, or refused with a hint when to
// come back; afterwards everything must be as before.
import exec from 'k6/execution';
import { check } from 'k6';
import { anyTenant, call, number, optionsOf, SIMPLE } from './mesh.js';

export { setup, teardown } from './mesh.js';

const RATE = number('RATE', 50);
const SPIKE = number('SPIKE', 1000);
const PHASES = { before: 10, spike: 10, recovery: 5, after: 15 }; // seconds
const STAGES = [
  { duration: `${PHASES.before}s`, target: RATE },
  { duration: '0s', target: SPIKE },
  { duration: `${PHASES.spike}s`, target: SPIKE },
  { duration: '0s', target: RATE },
  { duration: `${PHASES.recovery + PHASES.after}s`, target: RATE },
];

export const options = optionsOf(
  { executor: 'ramping-arrival-rate', startRate: RATE, stages: STAGES, preAllocatedVUs: 200, maxVUs: 2000 },
  {
    // More is asked for than there may be machine for: k6 itself may be late, and refusals are an answer.
    dropped_iterations: [],
    http_req_failed: [],
    'http_req_duration{kind:simple}': [],
    'http_req_duration{kind:complex}': [],
    'http_req_failed{phase:before}': ['rate<0.001'],
    'http_req_duration{phase:before}': [SIMPLE.threshold],
    'http_req_failed{phase:after}': ['rate<0.001'],
    'http_req_duration{phase:after}': [SIMPLE.threshold],
  },
);

export default function (data) {
  const tenant = anyTenant(data);
  const id = tenant.ids[0];
  const got = call(tenant, 'GET', `/v1/users/${id}`, null, { name: 'get', kind: 'simple', phase: phase() });
  check(got, {
    'answered, or refused in our shape': (r) =>
      (r.status === 200 && r.json('id') === id) || ([429, 503, 504].includes(r.status) && r.json('details.0.reason')),
  });
}

function phase() {
  const seconds = (Date.now() - exec.scenario.startTime) / 1000;
  let end = 0;
  return Object.keys(PHASES).find((name) => seconds < (end += PHASES[name])) || 'after';
}
