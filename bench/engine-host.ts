/**
 * What the engine costs the host, by running request and step: scheduling, batches, work lists, the copies of them that a backend takes, bookkeeping, deltas.
 *
 * The backend is a fake: memory, and programs that do nothing, so what is left of a step is the host's: every token is 0. "waiting" does not run ahead, so each
 * step is settled before the next is scheduled. A request in two is greedy, the other draws. Cases take turns within a round; a figure is the median of a round's steps.
 *
 *   npm run bench -- engine-host [--requests N] [--rounds N] [--steps N] [--only TEXT]
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Backend } from "../src/backend/backend.ts";
import { openBackend } from "../src/backend/registry.ts";
import { stream } from "../src/core/random.ts";
import { Engine, type ForwardModel } from "../src/engine/engine.ts";
import { ProgramModel } from "../src/engine/forward.ts";
import { loadModel, openCheckpoint } from "../src/model/load.ts";
import { defaultSampling } from "../src/sampling/params.ts";
import { median, report } from "./row.ts";

const { values: flags } = parseArgs({
  options: { requests: { type: "string", default: "256" }, rounds: { type: "string", default: "7" }, steps: { type: "string", default: "100" }, only: { type: "string", default: "" }, help: { type: "boolean" } },
});
if (flags.help) {
  console.log("npm run bench -- engine-host [--requests N] [--rounds N] [--steps N] [--only TEXT]");
  process.exit(0);
}
const [numRequests, rounds, steps] = [flags.requests, flags.rounds, flags.steps].map(Number) as [number, number, number];
const pageSize = 16, warmUp = 100, newTokens = warmUp + rounds * steps + 100;

interface Case {
  readonly name: string;
  readonly context: number;
  readonly enablePrefixCaching: boolean;
  readonly vocabSize: number;
  readonly runsAhead: boolean;
}
const cases: readonly Case[] = [
  { name: "context 2048", context: 2048, enablePrefixCaching: true, vocabSize: 32_000, runsAhead: true },
  { name: "context 2048, no prefix caching", context: 2048, enablePrefixCaching: false, vocabSize: 32_000, runsAhead: true },
  { name: "context 128", context: 128, enablePrefixCaching: true, vocabSize: 32_000, runsAhead: true },
  { name: "context 2048, waiting", context: 2048, enablePrefixCaching: true, vocabSize: 8, runsAhead: false },
].filter(({ name }) => name.includes(flags.only));

/** A model of one layer that is never computed. */
async function open({ context, vocabSize, runsAhead, enablePrefixCaching }: Case): Promise<{ readonly engine: Engine; readonly close: () => Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), "tessera-host-"));
  try {
    writeFileSync(join(folder, "config.json"), JSON.stringify({
      architectures: ["LlamaForCausalLM"], model_type: "llama", hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 1, num_key_value_heads: 1, head_dim: 16,
      vocab_size: vocabSize, max_position_embeddings: 8192, rms_norm_eps: 1e-6, rope_theta: 10000, hidden_act: "silu", tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2,
    }));
    const maxModelLen = context + newTokens;
    const limits = { maxModelLen, pageSize, maxNumSeqs: numRequests, maxNumBatchedTokens: 8192, numPages: numRequests * Math.ceil(maxModelLen / pageSize) };
    const fake: Backend = Object.assign(await openBackend("reference"), { record: () => ({ run: () => {} }) });
    const { config, source } = openCheckpoint(folder, { loadFormat: "dummy" });
    const model = new ProgramModel(fake, await loadModel(fake, source, config, limits));
    source.close();
    const forward: ForwardModel = { vocabSize, runsAhead, launch: (batch, wanted) => model.launch(batch, wanted) };
    return { engine: new Engine(forward, { limits: { ...limits, enablePrefixCaching }, eosTokenIds: [2], now: () => performance.now() / 1000 }), close: () => fake.close() };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Takes steps that give every request a token; microseconds of each, by request. */
async function measure(engine: Engine, count: number): Promise<number[]> {
  const values: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    const deltas = await engine.step();
    values.push((1000 * (performance.now() - start)) / numRequests);
    if (deltas.length !== numRequests || deltas.some(({ finish, tokens }) => finish !== undefined || tokens.length !== 1)) throw new Error(`a step gave ${deltas.length} requests something, not each of ${numRequests} a token`);
  }
  return values;
}

const running = [];
for (const one of cases) {
  const { engine, close } = await open(one), random = stream(1);
  for (let i = 0; i < numRequests; i++) {
    const prompt = Int32Array.from({ length: one.context }, () => Math.floor(random() * one.vocabSize));
    engine.submit(String(i), prompt, { ...defaultSampling, temperature: i % 2, ignoreEos: true, maxTokens: newTokens });
  }
  const begun = new Set<string>();
  while (begun.size < numRequests) for (const { id } of await engine.step()) begun.add(id);
  await measure(engine, warmUp);
  running.push({ one, engine, close, values: [] as number[], slowest: [] as number[] });
}
for (let round = 0; round < rounds; round++) {
  for (const { engine, values, slowest } of running) {
    const taken = await measure(engine, steps);
    values.push(median(taken));
    slowest.push(Math.max(...taken));
  }
}
for (const { one: { name }, values, slowest, close } of running) {
  report(`host, ${numRequests} requests, ${name}`, values, "us", 1);
  console.log(`  slowest steps of the rounds: ${slowest.map((us) => us.toFixed(1)).join(", ")} us`);
  await close();
}
