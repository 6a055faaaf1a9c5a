/**
 * A thread beside the engine's that carries its pulse to where others can see it: copies words of the backend's memory into a few of its own.
 *
 * Whoever watches the engine must not hold the backend's memory, which is the model's: an engine that has died would keep it, beside its successor's, until
 * the watcher's garbage is collected. This thread ends with the engine's.
 */
import { parent } from "#thread";

export interface Pulse {
  readonly from: readonly Int32Array[];
  readonly to: readonly Int32Array[];
}

const everyMs = 100;
const { from, to } = parent().data as Pulse;

setInterval(() => {
  for (const [i, word] of from.entries()) Atomics.store(to[i]!, 0, Atomics.load(word, 0));
}, everyMs);
