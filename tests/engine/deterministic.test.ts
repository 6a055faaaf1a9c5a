import assert from "node:assert/strict";
import { test } from "node:test";
import { Command } from "commander";
import { addEngineFlags, loadOptions } from "../../src/cli/options.ts";
import { UsageError } from "../../src/core/errors.ts";
import { machineOf } from "../../src/engine/start.ts";
import { type EngineOptions, openMachine } from "../../src/engine/open.ts";
import { LLM } from "../../src/index.ts";
import { fixture } from "./tiny-model.ts";

const tiny = { maxModelLen: 64, maxNumSeqs: 2, threads: 1, skipTokenizerInit: true, seed: 3 } as const;

test("--deterministic is an option of the library and of the machine, and nothing where it is not given", () => {
  const options = (...args: readonly string[]) => loadOptions(addEngineFlags(new Command()).parse(args, { from: "user" }).opts(), {}).deterministic;
  assert.deepEqual([options(), options("--deterministic")], [undefined, true]);
  const engine: EngineOptions = { model: "nowhere", device: "cuda", deterministic: true };
  assert.deepEqual(machineOf(engine), { device: "cuda", deterministic: true });
  assert.deepEqual(machineOf({ device: "cuda" }), { device: "cuda" });
});

test("on the cpu, where it is always so, it changes nothing; it must be true or false", async () => {
  const answers: (readonly number[])[] = [];
  for (const deterministic of [undefined, true, false]) {
    await using llm = await LLM.load(fixture("llama"), { ...tiny, ...(deterministic !== undefined && { deterministic }) });
    const { tokenIds } = await llm.generate([1, 5, 9], { temperature: 1, seed: 7, maxTokens: 8, ignoreEos: true });
    answers.push(tokenIds);
  }
  assert.equal(answers[0]!.length, 8);
  assert.deepEqual(answers.slice(1), [answers[0], answers[0]]);
  await assert.rejects(LLM.load(fixture("llama"), { ...tiny, deterministic: "yes" as unknown as boolean }),
    (error) => error instanceof UsageError && /deterministic \(--deterministic\) is "yes"; it must be true or false/.test(error.message));
});

test("on a GPU the machine is opened so, and start-up says it", async (t) => {
  const opened = await openMachine({ device: "cuda", deterministic: true }).catch((error: unknown) => {
    if (error instanceof UsageError) return error;
    throw error;
  });
  if (opened instanceof UsageError) return t.skip(opened.message.split("\n")[0]!);
  await opened.close();
  assert.match(opened.description, /in one order of sums \(deterministic\)/);
  await using llm = await LLM.load(fixture("llama"), { maxModelLen: 64, maxNumSeqs: 2, skipTokenizerInit: true, device: "cuda", deterministic: true });
  assert.match(llm.info.backend, /in one order of sums \(deterministic\)/);
  const other = await openMachine({ device: "cuda" });
  await other.close();
  assert.doesNotMatch(other.description, /deterministic/);
});
