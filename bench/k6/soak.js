// Steady for SOAK instead of DURATION, to see what adds up; `make soak` looks into the processes, too.
import { number, steadily } from './mesh.js';

export { default, setup, teardown } from './steady.js';

export const options = steadily(number('RATE', 50), __ENV.SOAK || '5m');
