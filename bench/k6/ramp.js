// CONNECTIONS clients that hardly ever ask, each with a connection that it keeps, and ACTIVE ones that ask all the time.
import { sleep } from 'k6';
import { anyTenant, getUser, number, optionsOf } from './mesh.js';

export { setup, teardown } from './mesh.js';

const RAMP_SECONDS = 20;
const HOLD_SECONDS = number('HOLD_SECONDS', 40);
const base = optionsOf({
  executor: 'per-vu-iterations',
  vus: number('CONNECTIONS', 1000),
  iterations: 1,
  maxDuration: `${2 * (RAMP_SECONDS + HOLD_SECONDS)}s`,
});

export const options = {
  ...base,
  scenarios: {
    ...base.scenarios,
    active: {
      executor: 'constant-vus',
      exec: 'active',
      vus: number('ACTIVE', 200),
      startTime: `${RAMP_SECONDS}s`,
      duration: `${HOLD_SECONDS}s`,
      gracefulStop: '30s',
    },
  },
};

/** Connects some time during the ramp, is idle while the others are active, and asks once more: not all at once. */
export default function (data) {
  const tenant = anyTenant(data);
  const late = Math.random() * RAMP_SECONDS;
  sleep(late);
  getUser(tenant);
  sleep(RAMP_SECONDS - late + HOLD_SECONDS + Math.random() * RAMP_SECONDS);
  getUser(tenant);
}

export function active(data) {
  sleep(0.5 + Math.random());
  getUser(anyTenant(data));
}
