import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { demoFiles } from "../../tests/fixtures/tokenizers/load.ts";
import { BadRequest, UsageError } from "../core/errors.ts";
import { startText } from "./text.ts";

/** Takes for ever when the first message says "slow", in steps so long that few of them are counted. */
const slowTemplate = "{% if messages[0].content == 'slow' %}{% set ns = namespace(x='aa') %}{% for a in range(20) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{% for a in range(9999) %}{% set y = ns.x | replace('a', 'bb') | length %}{% endfor %}{% endif %}{{ messages[0].content }}";
const slowFiles = { ...demoFiles, "chat_template.jinja": slowTemplate };
const isBadRequest = (param: string, message: RegExp) => (error: unknown): boolean => error instanceof BadRequest && error.param === param && message.test(error.message);

test("the worker gives what the caller's thread gives, in order, many at a time", async () => {
  const worker = await startText(demoFiles), here = await startText(demoFiles, { inProcess: true });
  try {
    assert.ok(worker.hasChatTemplate && worker.vocabSize === here.vocabSize && worker.eosIds.length > 0);
    const jobs = Array.from({ length: 40 }, (_, i) => `A story about ${i} foxes <end_of_turn>`);
    const [theirs, ours] = await Promise.all([worker, here].map((service) => Promise.all(jobs.map(async (text, i) =>
      i % 2 === 0 ? [...(await service.encode(text))] : [...(await service.encodeChat([{ role: "user", content: text }])).ids]))));
    assert.deepEqual(theirs, ours);
    assert.equal(new Set(ours!.map(String)).size, jobs.length);
    assert.equal(worker.decode(ours![0]!), jobs[0]);
  } finally {
    worker.close();
  }
});

test("a render without end costs its own request only, and the caller's thread stays free", async () => {
  const service = await startText(slowFiles, { limitMs: 1500 });
  let ticks = 0;
  const clock = setInterval(() => ticks++, 20);
  try {
    const chat = (content: string): Promise<string> => service.encodeChat([{ role: "user", content }]).then(({ text }) => text);
    const [before, slow, after, encoded] = await Promise.allSettled([chat("before"), chat("slow"), chat("after"), service.encode("fox")]);
    assert.deepEqual(before, { status: "fulfilled", value: "before" });
    assert.ok(slow.status === "rejected" && isBadRequest("messages", /took longer than 1\.5 s/)(slow.reason));
    assert.deepEqual(after, { status: "fulfilled", value: "after" });
    assert.equal(encoded.status, "fulfilled");
    assert.ok(ticks > 20, `${ticks} ticks of 20 ms in more than 1500 ms`);
    assert.equal(await chat("again"), "again");
  } finally {
    clearInterval(clock);
    service.close();
  }
});

test("errors keep their kind and field across the thread", async () => {
  const service = await startText({ ...demoFiles, "chat_template.jinja": "{{ raise_exception('no ' + messages[0].content) }}" });
  try {
    await assert.rejects(service.encodeChat([{ role: "user", content: "<bos>" }]), isBadRequest("messages", /no <bos>/));
    await assert.rejects(service.encodeChat([{ role: "user", content: "a", call: () => 1 }]), /could not be cloned/);
    assert.ok((await service.encode("still alive")).length > 0);
  } finally {
    service.close();
  }
});

test("without a chat template a chat is a usage error that says what to use", async () => {
  const service = await startText({ "tokenizer.json": demoFiles["tokenizer.json"]! }, { inProcess: true });
  assert.equal(service.hasChatTemplate, false);
  await assert.rejects(service.encodeChat([{ role: "user", content: "a" }]), (error) => error instanceof UsageError && /\/v1\/completions/.test(error.message));
});

test("closing rejects what waits, and what comes later", async () => {
  const service = await startText(demoFiles);
  const waiting = service.encode("never");
  service.close();
  await assert.rejects(waiting, /closed/);
  await assert.rejects(service.encode("late"), /closed/);
});

test("a process that forgets to close the service gets its answer and ends by itself", async () => {
  const script = `
    import { startText } from ${JSON.stringify(new URL("./text.ts", import.meta.url).href)};
    import { demoFiles } from ${JSON.stringify(new URL("../../tests/fixtures/tokenizers/load.ts", import.meta.url).href)};
    const service = await startText(demoFiles);
    console.log(service.decode(await service.encode("a fox")));`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { timeout: 20_000 });
  assert.equal(stdout, "a fox\n");
});
