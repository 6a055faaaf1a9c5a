/**
 * Attention on a GPU: whole sequences under six mods and four shapes, and decode over paged caches, beside what PyTorch does with the same problems on the same
 * GPU in the same run (bench/peers/attention.py: FlexAttention, cuDNN, FlashAttention-2). Rates of decode stand beside what a plain kernel reads.
 * A time counts only where sampled rows are what an oracle in float64 says. Then, in fresh processes, how long a new mod takes to its first result.
 *
 * Rows go to bench/results/<gpu>.csv, and to the folder given by --out; a case that fails is a row that says why. `npm run bench -- cuda-page` makes the page of them.
 * BENCH_COMMIT names the commit where the sources are a copy without git.
 *
 *   npm run bench -- cuda-attention [--only TEXT] [--runs N] [--out FOLDER] [--python PROGRAM] [--peers cudnn,fa2,flex | none] [--seconds N] [--first-result-rounds N]
 */
import { parseArgs } from "node:util";
import { Calls } from "./cuda/calls.ts";
import { type Case, cases, nameOf, type Peer, peerNamesOf, peers, rateOf, unitOf } from "./cuda/cases.ts";
import { firstResults } from "./cuda/first-result.ts";
import { openGpu } from "./cuda/open.ts";
import { type PeerRow, runPeers } from "./cuda/python.ts";
import { readRate } from "./cuda/read.ts";
import { Rows, through, timesAsFast } from "./cuda/rows.ts";
import { type Spread, spreadOf } from "./row.ts";

const usage = "npm run bench -- cuda-attention [--only TEXT] [--runs N] [--out FOLDER] [--python PROGRAM] [--peers cudnn,fa2,flex | none] [--seconds N] [--first-result-rounds N]";
const { values: flags } = parseArgs({
  options: {
    only: { type: "string", default: "" }, runs: { type: "string", default: "25" }, out: { type: "string" }, python: { type: "string", default: "python3" },
    peers: { type: "string", default: "cudnn,fa2,flex" }, seconds: { type: "string", default: "150" }, "first-result-rounds": { type: "string", default: "3" }, help: { type: "boolean" },
  },
});
const runs = Number(flags.runs), seconds = Number(flags.seconds), rounds = Number(flags["first-result-rounds"]);
const chosen = cases.filter((one) => nameOf(one).includes(flags.only)), askedPeers = flags.peers === "none" ? [] : flags.peers.split(",");
const wrong = !(runs >= 1) || !(seconds >= 0) || !(rounds >= 0) || chosen.length === 0 || askedPeers.some((peer) => !/^(cudnn|fa2|flex(-\w+)?)$/.test(peer));
if (flags.help || wrong) {
  console.log(`${usage}\n--only: cases whose name has this in it\n--seconds: no peer is started after so many (150)\n--first-result-rounds: processes with nothing on disk, and as many with everything (3; 0: none)\ncases: ${cases.map(nameOf).join(", ")}`);
  process.exit(flags.help ? 0 : 2);
}

/** Milliseconds of ours, by case. */
const ours = new Map<Case, Spread>();

async function measureOurs(): Promise<Rows> {
  const { device, compiler } = await openGpu(), rows = new Rows(device.name, flags.out);
  try {
    rows.put(`card: ${device.name}, NVRTC ${compiler.version}`, [device.numSms], "multiprocessors");
    const read = await rows.try("memory, read by the GPU", () => readRate(device, compiler));
    if (read) rows.put("memory, read by the GPU", through(read, (rate) => rate / 1e9), "GB/s");
    const calls = new Calls(device, compiler);
    for (const one of chosen) {
      const name = nameOf(one), found = await rows.try(`${name}: Tessera`, () => calls.measure(one, runs));
      if (!found) continue;
      const ms = spreadOf(found.ms), rate = through(ms, (x) => rateOf(one, x));
      ours.set(one, ms);
      rows.put(`${name}: Tessera`, rate, unitOf(one));
      rows.put(`${name}: Tessera, error of sampled rows`, [found.error], "relative");
      if (found.planningMs) rows.put(`${name}: Tessera, work cut anew`, through(spreadOf(found.planningMs), (x) => rateOf(one, x)), unitOf(one));
      if (read && one.kind === "decode") rows.put(`${name}: Tessera, of memory's rate`, through(rate, (x) => (100 * x * 1e9) / read.median), "%");
    }
  } finally {
    device.close();
  }
  return rows;
}

const isMeasured = (row: PeerRow): row is PeerRow & { readonly ms: number; readonly low_ms: number; readonly high_ms: number; readonly runs: number } => typeof row["ms"] === "number";

async function measurePeers(rows: Rows): Promise<void> {
  const found = await rows.try("peers", () =>
    runPeers(flags.python, "attention.py", ["--peers", askedPeers.join(","), "--runs", String(runs), "--seconds", String(seconds), "--cases", chosen.map(nameOf).join(",")]));
  if (!found) return;
  const machine = found.find((row) => row.case === "machine");
  if (machine) rows.put(`peers: ${machine.peer}, CUDA ${String(machine["cuda"])}, cuDNN ${String(machine["cudnn"])}, ${String(machine["gpu"])}`, [Number(machine["sms"])], "multiprocessors");
  for (const one of chosen) {
    const name = nameOf(one);
    for (const [peer, title] of Object.entries(peers) as [Peer, string][]) {
      // FlexAttention may be there in several ways; the fastest counts.
      const rowsOf = found.filter((row) => peerNamesOf(one).includes(row.case) && (row.peer === peer || row.peer.startsWith(`${peer}-`)));
      for (const row of rowsOf) if (!isMeasured(row)) rows.fail(`${row.case}: ${title} (${row.peer})`, row.error);
      const best = rowsOf.filter(isMeasured).toSorted((a, b) => a.ms - b.ms)[0];
      if (!best) continue;
      const ms: Spread = { median: best.ms, low: best.low_ms, high: best.high_ms, runs: best.runs }, our = ours.get(one);
      rows.put(`${name}: ${title}`, through(ms, (x) => rateOf(one, x)), unitOf(one));
      if (our) rows.put(`${name}: times ${title}'s`, timesAsFast(our, ms), "times");
    }
  }
}

async function measureFirstResults(rows: Rows): Promise<void> {
  const found = await rows.try("first result of a new mod", () => firstResults(rounds));
  if (!found) return;
  for (const [of, title] of [["cold", "nothing on disk"], ["warm", "kernels on disk"]] as const) {
    rows.put(`first result of a new mod, ${title}, first call of its process`, found[of].first, "ms");
    rows.put(`first result of a new mod, ${title}, later calls`, found[of].later, "ms");
  }
}

const rows = await measureOurs();
if (askedPeers.length > 0) await measurePeers(rows);
if (rounds > 0) await measureFirstResults(rows);
if (rows.numFailed > 0) console.log(`${rows.numFailed} of the cases were not measured`);
process.exitCode = rows.numFailed > 0 ? 1 : 0;
