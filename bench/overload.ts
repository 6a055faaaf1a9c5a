/**
 * Ten times more than the server can do, in open loop, over loopback: what it still gets done of its best, how soon it refuses the rest, whether a request
 * is lost, and whether memory stays.
 *
 * The engine's speed is known and fixed (overload/server.ts): 16 sequences, a step of 20 ms, answers of 16 tokens, which makes 50 requests a second. The
 * server is the real one with its defaults, in a process of its own; the best is what it does in closed loop right before.
 *
 *   npm run bench -- overload [--seconds N] [--times N]
 */
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { closedLoop, createClient, openLoop, outcomes, percentile, perSecond, startServer } from "./overload/load.ts";
import { report } from "./row.ts";

const { values: flags } = parseArgs({ options: { seconds: { type: "string", default: "60" }, times: { type: "string", default: "10" }, help: { type: "boolean" } } });
if (flags.help) {
  console.log("npm run bench -- overload [--seconds N] [--times N]");
  process.exit(0);
}
const seconds = Number(flags.seconds), times = Number(flags.times);
const stepMs = 20, maxNumSeqs = 16, tokens = 16;
const capacity = (maxNumSeqs * 1000) / (tokens * stepMs);

const server = await startServer({ stepMs, maxNumSeqs });
const warm = createClient(server.port, tokens);
const peak = await closedLoop(warm, 2 * maxNumSeqs, 8);
warm.close();
const client = createClient(server.port, tokens);
const from = performance.now();
const measuring = openLoop(client, times * capacity, seconds);
// A third of the time for V8 to settle at the size that this load needs, then what is added.
await sleep((1000 * seconds) / 3);
const settled = await server.memory();
await sleep((1000 * seconds * 2) / 3 - 500);
const last = await server.memory();
const entries = await measuring;
// The first seconds fill the queue.
const goodput = perSecond(entries, from + 100 * seconds, from + 1000 * seconds);
client.close();
server.close();

const name = `${times} times capacity (${capacity} requests/s), open loop, ${seconds} s`;
const counts = outcomes(entries), { done = 0, refused = 0 } = counts;
report(`${name}: peak, closed loop`, [peak], "req/s", availableParallelism());
report(`${name}: goodput`, [goodput], "req/s", availableParallelism());
report(`${name}: goodput of peak`, [(100 * goodput) / peak], "%", availableParallelism());
report(`${name}: refusal, median`, [percentile(entries, "refused", 50)], "ms", availableParallelism());
report(`${name}: refusal, 99th percentile`, [percentile(entries, "refused", 99)], "ms", availableParallelism());
report(`${name}: neither done nor refused`, [entries.length - done - refused], "requests", availableParallelism());
for (const [what, field] of [["heap in use", "heapBytes"], ["resident memory", "residentBytes"]] as const) {
  report(`${name}: ${what}, at the end`, [last[field] / 2 ** 20], "MiB", availableParallelism());
  report(`${name}: ${what}, more than at a third of the time`, [(last[field] - settled[field]) / 2 ** 20], "MiB", availableParallelism());
}
console.log(`${entries.length} sent: ${Object.entries(counts).map(([outcome, count]) => `${count} ${outcome}`).join(", ")}`);
process.exit(0);
