// RATE calls a second for DURATION, however long they take: the objectives at a usual load.
import { anyTenant, number, steadily, usual } from './mesh.js';

export { setup, teardown } from './mesh.js';

export const options = steadily(number('RATE', 100), __ENV.DURATION || '1m');

export default function (data) {
  usual(anyTenant(data));
}
