// Up to CONNECTIONS clients, each with a connection of its own that it keeps, most of them idle at any moment.
import { sleep } from 'k6';
import { anyTenant, getUser, number, optionsOf } from './mesh.js';

export { setup, teardown } from './mesh.js';

const CONNECTIONS = number('CONNECTIONS', 1000);
const PAUSE_SECONDS = number('PAUSE_SECONDS', 10);

export const options = optionsOf({
  executor: 'ramping-vus',
  stages: [
    { duration: '20s', target: CONNECTIONS },
    { duration: __ENV.DURATION || '40s', target: CONNECTIONS },
    { duration: '5s', target: 0 },
  ],
});

export default function (data) {
  getUser(anyTenant(data));
  sleep(PAUSE_SECONDS * (0.5 + Math.random()));
}
