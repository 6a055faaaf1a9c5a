/** A .gguf file wherever a model's folder may stand: the demo model as llama.cpp's converter would write it, by library and command line. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { UsageError } from "../../src/core/errors.ts";
import { LLM } from "../../src/llm.ts";
import { ggufEntries, ggufMetadata } from "../fixtures/tokenizers/gguf-metadata.ts";
import { convertToGguf } from "../gguf-model.ts";
import { type Entry, writeGguf } from "../gguf-writer.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const demo = join(root, "models/demo");
const skip = existsSync(join(demo, "model.safetensors")) ? false : "models/demo has no weights";
const folder = mkdtempSync(join(tmpdir(), "tessera-gguf-"));
after(() => rmSync(folder, { recursive: true }));

const json = (name: string) => JSON.parse(readFileSync(join(demo, name), "utf8"));

/** The demo model; its words are cut as SmolLM's, which differ from its own at apostrophes only. */
function write(name: string, more: Readonly<Record<string, Entry>> = {}): string {
  const path = join(folder, name);
  const tokenizer = ggufEntries(ggufMetadata(json("tokenizer.json"), "smollm", false));
  const named: Record<string, Entry> = {
    "tokenizer.ggml.bos_token_id": ["u32", 2], "tokenizer.ggml.eos_token_id": ["u32", 1], "tokenizer.chat_template": ["string", json("tokenizer_config.json").chat_template],
    "general.sampling.temp": ["f32", 0.5],
  };
  writeFileSync(path, writeGguf(convertToGguf(demo, "BF16", { ...tokenizer, ...named, ...more })));
  return path;
}

const question = "Tell me a story about a fox who finds a lantern.";
const messages = [{ role: "user", content: question }];

test("a GGUF file answers a chat as the folder that it was made from", { skip }, async () => {
  await using plain = await LLM.load(demo, { threads: 1 });
  await using llm = await LLM.load(write("story-BF16.gguf"), { threads: 1 });
  const params = { temperature: 0, maxTokens: 40 };
  const [expected, found] = await Promise.all([plain.chat(messages, params), llm.chat(messages, params)]);
  assert.equal(found.text, expected.text);
  assert.deepEqual(found.usage, expected.usage);
  assert.equal(llm.name, "story-BF16");
  assert.deepEqual([...llm.info.eosTokenIds].sort((a, b) => a - b), [1, 4], "the end of a turn, too, which the file does not name");
  assert.equal(llm.check({}).sampling.temperature, 0.5, "the file's own default");
});

test("without its tokenizer a GGUF file answers token ids, whatever its tokenizer is", { skip }, async () => {
  const path = write("story.gguf", { "tokenizer.ggml.pre": ["string", "nonesuch"] });
  await assert.rejects(LLM.load(path), (error) => error instanceof UsageError && /story\.gguf: tokenizer\.ggml\.pre is "nonesuch".*--skip-tokenizer-init/.test(error.message));
  await using llm = await LLM.load(path, { threads: 1, skipTokenizerInit: true });
  assert.equal((await llm.generate([2, 5, 6], { maxTokens: 3, temperature: 0 })).tokenIds.length, 3);
});

test("a chat template that is given goes before the file's own, which may be missing or broken", { skip }, async () => {
  const path = write("mute.gguf", { "tokenizer.chat_template": ["string", "{% if %}"] });
  await assert.rejects(LLM.load(path), (error) => error instanceof UsageError && /the chat template cannot be parsed .*--chat-template/.test(error.message));
  // Longer than any path.
  const template = `{# ${"-".repeat(5000)} #}{{ bos_token }}Once {% for message in messages %}{{ message.content }}{% endfor %}`, file = join(folder, "my.jinja");
  writeFileSync(file, template);
  for (const chatTemplate of [template, file]) {
    await using llm = await LLM.load(path, { threads: 1, chatTemplate });
    const [chat, plain] = await Promise.all([llm.chat([{ role: "user", content: "upon" }], { maxTokens: 3, temperature: 0 }), llm.generate("Once upon", { maxTokens: 3, temperature: 0 })]);
    assert.deepEqual([chat.text, chat.usage], [plain.text, plain.usage]);
  }
  for (const [options, message] of [
    [{ chatTemplate: "no-such.jinja" }, /chatTemplate \(--chat-template\) is "no-such\.jinja", which is neither a file nor/], [{ chatTemplate: 5 as unknown as string }, /is 5, which is neither/],
    [{ chatTemplate: template, skipTokenizerInit: true }, /leave one of them out/],
  ] as const) await assert.rejects(LLM.load(path, options), (error) => error instanceof UsageError && message.test(error.message));
});

test("the command line runs and serves a GGUF file, under its name without the ending", { skip }, async () => {
  const path = write("fable-00001-of-00001.gguf");
  const run = await promisify(execFile)(process.execPath, [`${root}bin/tessera.js`, "run", path, question, "--temperature", "0", "--max-tokens", "10", "--threads", "1"]);
  assert.ok(run.stdout.trim().length > 10, run.stdout);
  const server = spawn(process.execPath, [`${root}bin/tessera.js`, "serve", path, "--port", "0", "--threads", "1"], { stdio: ["ignore", "pipe", "ignore"] });
  try {
    for await (const line of createInterface({ input: server.stdout })) {
      const [url] = /http:\/\/\S+/.exec(line) ?? [];
      if (url === undefined) continue;
      const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { readonly data: readonly { readonly id: string }[] };
      assert.deepEqual(data.map(({ id }) => id), ["fable"]);
      return;
    }
    assert.fail("it ended before it listened");
  } finally {
    server.kill();
  }
});

test("inspect tells what a GGUF file holds, and why a part of it cannot be used", { skip }, async () => {
  const inspect = async (path: string): Promise<string> => (await promisify(execFile)(process.execPath, [`${root}bin/tessera.js`, "inspect", path])).stdout;
  const told = await inspect(write("told.gguf"));
  assert.match(told, /^file +"tiny", 4\.14 MiB in 46 tensors: 29 of BF16 /m);
  assert.match(told, /^model +Gemma2ForCausalLM, 2\.2 M parameters, 4 layers of 192, 4 query heads of 64 over 2 /m);
  assert.match(told, /^attention +a sliding window of 128 in 2 layers \(0, 2\), causal in 2 layers \(1, 3\); scores capped at 50$/m);
  assert.match(told, /^tokenizer +byte-level, words cut as smollm, 2048 tokens, 5 of them special, a text begins with <bos>, an answer ends at <eos>, <end_of_turn>$/m);
  assert.match(told, /^chat +a template of \d+ characters$/m);
  const other = await inspect(write("other.gguf", { "general.architecture": ["string", "mamba"], "tokenizer.ggml.pre": ["string", "nonesuch"] }));
  assert.match(other, /^model +cannot be used here: .*mamba/m);
  assert.match(other, /^tokenizer +cannot be used here: .*nonesuch/m);
});

test("what is no GGUF file, not there, or beside other files is told in a sentence", async () => {
  const text = join(folder, "text.gguf");
  writeFileSync(text, "this is no model");
  for (const [model, message] of [
    [text, /text\.gguf is not a usable GGUF file: at byte 0/], [join(folder, "nowhere.gguf"), /nowhere\.gguf": there is no such folder or \.gguf file/],
    [folder, /has no config\.json; it holds .*text\.gguf.*: give the path of one/],
  ] as const) await assert.rejects(LLM.load(model), (error) => error instanceof UsageError && message.test(error.message));
});
