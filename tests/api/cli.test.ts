/** The command as users start it: in processes of its own, over the demo model that comes with the package. */
import assert from "node:assert/strict";
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { version } from "../../src/core/version.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const launcher = `${root}bin/tessera.js`;
const demo = existsSync(`${root}models/demo/model.safetensors`);
const skip = demo ? false : "models/demo has no weights";

/** A Node older than Tessera needs, where this machine has one. */
const oldNode = ["/usr/bin/node", "/usr/local/bin/node"].find((path) => {
  try {
    return Number(execFileSync(path, ["-p", "process.versions.node.split('.')[0]"], { encoding: "utf8" })) < 24;
  } catch {
    return false;
  }
});

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

async function run(args: readonly string[], input = "", node = process.execPath): Promise<Ended> {
  const child = spawn(node, [launcher, ...args], { cwd: root, stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.end(input);
  const exit = new Promise<number | null>((resolve) => child.on("exit", resolve));
  const [out, err, code] = await Promise.all([text(child.stdout), text(child.stderr), exit]);
  return { code, out, err };
}

interface Listening {
  readonly child: ChildProcess;
  readonly url: string;
  readonly curl: string;
  readonly banner: string;
}

/** Starts a server on a free port; resolves with what it printed once it listens. */
const start = (node: string, ...args: readonly string[]): Promise<Listening> => listening(spawn(node, [launcher, "serve", "--port", "0", ...args], { stdio: ["ignore", "pipe", "pipe"] }));

async function listening(child: ChildProcess & { readonly stdout: Readable; readonly stderr: Readable }): Promise<Listening> {
  const errors: string[] = [];
  child.stderr.on("data", (data) => errors.push(String(data)));
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line.trim());
    if (!line.trim().startsWith("curl ")) continue;
    return { child, url: lines.find((other) => other.startsWith("http://"))!.split(" ")[0]!, curl: line.trim(), banner: lines.join("\n") };
  }
  throw new Error(`it ended before it listened: ${errors.join("")}`);
}

async function ended(child: ChildProcess, seconds: number): Promise<number | null> {
  const exit = new Promise<number | null>((resolve) => (child.exitCode !== null ? resolve(child.exitCode) : child.on("exit", resolve)));
  return Promise.race([exit, sleep(seconds * 1000).then(() => assert.fail(`it still runs ${seconds} s later`))]);
}

const answers = (url: string) => fetch(`${url}/health`).then(({ ok }) => ok, () => false);

async function gone(url: string): Promise<void> {
  for (let i = 0; i < 100 && (await answers(url)); i++) await sleep(50);
  assert.equal(await answers(url), false);
}

test("the version it says is the package's", async () => {
  assert.equal(version, (JSON.parse(readFileSync(`${root}package.json`, "utf8")) as { version: string }).version);
  assert.equal((await run(["--version"])).out.trim(), version);
});

test("help shows the commands, their flags and examples", async () => {
  assert.match((await run(["--help"])).out, /serve[^]*chat[^]*run[^]*Examples:/);
  const { out } = await run(["serve", "--help"]);
  for (const flag of ["--host", "--port", "--api-key", "--served-model-name", "--dtype", "--max-model-len", "--max-num-seqs", "--max-num-batched-tokens",
    "--block-size", "--kv-cache-memory-bytes", "--device", "--threads", "--skip-tokenizer-init", "--seed", "--shutdown-timeout", "--max-num-queued-reqs", "--max-num-queued-tokens"]) assert.ok(out.includes(flag), flag);
  const bench = await run(["bench", "serve", "--help"]);
  for (const flag of ["--base-url", "--host", "--port", "--endpoint", "--dataset-name", "--random-input-len", "--random-output-len", "--random-prefix-len", "--num-prompts",
    "--request-rate", "--burstiness", "--max-concurrency", "--seed", "--save-result", "--percentile-metrics", "--goodput"]) assert.ok(bench.out.includes(flag), flag);
});

test("a device that is not here is told as what is missing and what to do, with exit code 1, and nothing is left running", { skip: skip || (existsSync("/dev/nvidiactl") && "this machine has a GPU") }, async () => {
  for (const args of [["serve", "--port", "0"], ["run", "Hello"]]) {
    const { code, out, err } = await run([...args, "--device", "cuda"]);
    assert.deepEqual([code, out], [1, ""]);
    assert.match(err, /^tessera: .*NVIDIA's driver.*nvidia-smi/);
    assert.doesNotMatch(err, /\n\s+at /, "no stack");
  }
});

test("wrong flags and models are told in one line, with exit code 1", async () => {
  for (const [args, message] of [
    [["serve", "--port", "x"], /--port.*integer/], [["serve", "--dtype", "int3"], /float32/], [["serve", "no-such-folder"], /no-such-folder/],
    [["serve", "--max-model-len", "0"], /^tessera: --max-model-len is 0; /], [["dance"], /there is no command dance\. \(tessera --help/],
    [["serve", "--port", "99999"], /^tessera: --port is 99999; it must be a port, from 0 .* to 65535\. \(tessera serve --help shows its flags\)$/],
    [["serve", "--port", "-1"], /^tessera: --port is -1; /], [["serve", "--shutdown-timeout", "-1"], /^tessera: --shutdown-timeout is -1; /],
    [["serve", "--prt", "1"], /^tessera: there is no flag --prt\. Did you mean --port\? \(tessera serve --help/],
    [["run", "hi", "--max-tokens", "-1"], /^tessera: --max-tokens is -1; it must be an integer/],
    [["serve", "src"], /^tessera: model "src" has no config\.json/], [["serve", "README.md"], /^tessera: model "README\.md" is neither a folder nor a \.gguf file/],
    [["bench", "serve", "--request-rate", "0"], /^tessera: --request-rate is 0; it must be requests per second above 0, or inf\. \(tessera bench serve --help/],
    [["bench", "serve", "--port", "1"], /^tessera: http:\/\/127\.0\.0\.1:1 does not answer .*--base-url/],
    [["inspect", "README.md"], /^tessera: README\.md is no module/],
  ] as const) {
    const { code, err } = await run(args);
    assert.equal(code, 1);
    assert.match(err.trimEnd(), message);
    assert.equal(err.trimEnd().split("\n").length, 1, err);
    assert.ok(!err.includes("    at "), err);
  }
});

test("serve prints a curl line that works, answers, and ends in order at SIGTERM", { skip }, async () => {
  const { child, url, curl, banner } = await start(process.execPath);
  try {
    assert.match(banner, /model .*parameters.*context[^]*backend [^]*memory .*weights.*KV cache.*tokens/);
    const answer = JSON.parse(execFileSync("sh", ["-c", curl.replace("curl ", "curl -s ")], { encoding: "utf8" })) as { choices: { message: { content: string } }[] };
    assert.ok(answer.choices[0]!.message.content.length > 20);
    child.kill("SIGTERM");
    assert.equal(await ended(child, 10), 0);
    await gone(url);
  } finally {
    child.kill("SIGKILL");
  }
});

test("bench serve measures a server of its own kind", { skip }, async () => {
  const { child, url } = await start(process.execPath, "--max-model-len", "128", "--threads", "1");
  try {
    const { code, out, err } = await run(["bench", "serve", "--base-url", url, "--num-prompts", "4", "--random-input-len", "8", "--random-output-len", "5", "--ignore-eos", "--goodput", "ttft:60000", "e2el:60000"]);
    assert.equal(code, 0, err);
    assert.match(out, /^=+ Serving Benchmark Result =+\nSuccessful requests: +4\nFailed requests: +0\n[^]*\nTotal generated tokens: +20\n[^]*Request goodput[^]*\nP99 ITL \(ms\): +\d+\.\d\d\n=+\n$/);
  } finally {
    child.kill("SIGKILL");
  }
});

test("a port in use is told before the model is looked at", async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = other.address() as AddressInfo;
    const { code, err } = await run(["serve", "no-such-folder", "--port", String(port)]);
    assert.equal(code, 1);
    assert.match(err, new RegExp(`^tessera: 127\\.0\\.0\\.1:${port} is in use already`));
  } finally {
    other.close();
  }
});

test("the banner says the name that is served, and with a key from a flag the curl line works once the shell has it", { skip }, async () => {
  const { child, curl, banner } = await start(process.execPath, "--served-model-name", "fox", "--api-key", "secret", "--max-model-len", "128", "--seed", "5");
  try {
    assert.match(banner, /serves fox\n[^]*seed +5,[^]*With your key .*TESSERA_API_KEY=[^]*curl/);
    assert.ok(!banner.includes("secret"));
    const ask = (key: string) => execFileSync("sh", ["-c", curl.replace("curl ", "curl -s ").replace('"max_tokens":200', '"max_tokens":2')], { encoding: "utf8", env: { ...process.env, TESSERA_API_KEY: key } });
    assert.match(ask("secret"), /"model":"fox"/);
    assert.match(ask("wrong"), /AuthenticationError/);
  } finally {
    child.kill("SIGKILL");
  }
});

test("two quick Ctrl-C stop the server at once while a request runs; one says how long it may run", { skip }, async () => {
  const { child, url } = await start(process.execPath, "--shutdown-timeout", "60");
  try {
    let log = "";
    child.stderr!.on("data", (data) => (log += String(data)));
    const body = JSON.stringify({ prompt: "Once", max_tokens: 900, ignore_eos: true, stream: true });
    const answer = await fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
    const broken = answer.text().then(() => assert.fail("the answer ended before the server"), () => {});
    child.kill("SIGINT");
    child.kill("SIGINT");
    await sleep(300);
    assert.equal(child.exitCode, null, "two at one time are one");
    child.kill("SIGINT");
    assert.equal(await ended(child, 2), 130, "as a shell gives it");
    await broken;
    assert.match(log, /SIGINT: the running request may finish within 60 s/);
  } finally {
    child.kill("SIGKILL");
  }
});

test("SIGTERM under load: nothing new is let in, streams past the deadline end in an error event, and the exit code is 0 within a second of it", { skip }, async () => {
  const { child, url } = await start(process.execPath, "--shutdown-timeout", "1", "--max-num-seqs", "2", "--threads", "1");
  try {
    const ask = (max_tokens: number) => fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ prompt: "Once", max_tokens, ignore_eos: true, stream: true }) });
    // Two run, six wait: there is more to do than a second's worth, however fast the machine.
    const answers = await Promise.all(Array.from({ length: 8 }, () => ask(1000)));
    const from = performance.now();
    child.kill("SIGTERM");
    await gone(url);
    const texts = await Promise.all(answers.map((answer) => answer.text()));
    assert.equal(await ended(child, 5), 0);
    assert.ok(performance.now() - from < 3000, `${performance.now() - from} ms`);
    const cut = texts.filter((text) => !text.includes('"finish_reason":"length"'));
    assert.ok(cut.length > 0);
    for (const text of cut) assert.match(text, /data: \{"error":\{"message":"the server is shutting down"[^\n]*\n\ndata: \[DONE\]\n\n$/);
  } finally {
    child.kill("SIGKILL");
  }
});

test("npm start: where npm and its shell are ended, what runs may finish", { skip: skip || process.platform === "win32" }, async () => {
  // As npm does: a shell between, which passes no signal on.
  const { child, url } = await listening(spawn("/bin/sh", ["-c", `"${process.execPath}" scripts/start.js --port 0 --threads 1; true`], { cwd: root, stdio: ["ignore", "pipe", "pipe"] }));
  const body = JSON.stringify({ prompt: "Once", max_tokens: 1000, ignore_eos: true, stream: true });
  const answers = await Promise.all(Array.from({ length: 6 }, () => fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body })));
  child.kill("SIGTERM");
  for (const answer of answers) {
    const said = await answer.text();
    assert.match(said, /"finish_reason":"length"/);
    assert.match(said, /data: \[DONE\]\n\n$/);
  }
  await gone(url);
});

test("a second SIGTERM stops at once, whatever is still running, with the code that a shell gives for it", { skip }, async () => {
  const { child, url } = await start(process.execPath, "--shutdown-timeout", "60", "--max-num-seqs", "1", "--threads", "1");
  try {
    const body = JSON.stringify({ prompt: "Once", max_tokens: 1000, ignore_eos: true, stream: true });
    const answers = await Promise.all(Array.from({ length: 12 }, () => fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body })));
    child.kill("SIGTERM");
    await gone(url);
    // What npm passes on comes twice: a repeat within a moment is no second signal.
    await sleep(300);
    assert.equal(child.exitCode, null, "it drains");
    child.kill("SIGTERM");
    assert.equal(await ended(child, 2), 143);
    await Promise.all(answers.map((answer) => answer.text().catch(() => {})));
  } finally {
    child.kill("SIGKILL");
  }
});

test("serve --attention serves the model under the file's mods, and says so", { skip }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "tessera-cli-"));
  const file = join(folder, "near.ts");
  writeFileSync(file, 'import { and, maskMod } from "tessera-llm/attention";\nconst near = maskMod(({ size }) => (b, h, q, kv) => q - kv < size, { size: 3 });\nexport default { maskMod: (own) => and(own.maskMod, near) };\n');
  const told = async (...flags: readonly string[]): Promise<{ readonly banner: string; readonly text: string }> => {
    const { child, url, banner } = await start(process.execPath, ...flags);
    try {
      const { data } = await (await fetch(`${url}/v1/models`)).json() as { data: { id: string }[] };
      const response = await fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ model: data[0]!.id, prompt: "Once upon a time there was", max_tokens: 24, temperature: 0 }) });
      return { banner, text: (await response.json() as { choices: { text: string }[] }).choices[0]!.text };
    } finally {
      child.kill("SIGTERM");
      await ended(child, 10);
    }
  };
  try {
    const plain = await told(), modded = await told("--attention", file), again = await told("--attention", file);
    assert.match(modded.banner, /near\.ts/);
    assert.ok(modded.text.length > 0);
    assert.notEqual(modded.text, plain.text, "three tokens of context are not all of them");
    assert.equal(modded.text, again.text);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a mod that fails while it runs ends the answer and is told on a line of its own", { skip }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "tessera-cli-"));
  try {
    const file = join(folder, "short.ts");
    writeFileSync(file, 'import { scoreMod } from "tessera-llm/attention";\nexport default scoreMod(({ t }) => (s, b, h, q, kv) => s + t[q], { t: new Float32Array(9) });\n');
    const { code, out, err } = await run(["run", "Once upon a time", "--attention", file, "--raw", "--max-tokens", "60", "--temperature", "0"]);
    assert.equal(code, 1);
    assert.ok(out.endsWith("\n"));
    assert.match(err.trimEnd(), /^tessera: index 9 is outside dimension 0 of the captured table 't'.*$/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("an older Node hands over to the one that npm brought: exit codes and signals pass, and nothing is left behind", { skip: skip || !oldNode && "no Node older than 24 here" }, async () => {
  assert.equal((await run(["serve", "no-such-folder"], "", oldNode)).code, 1);
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    const { child, url } = await start(oldNode!, "--shutdown-timeout", "0");
    assert.equal(await answers(url), true);
    child.kill(signal);
    assert.equal(await ended(child, 10), signal === "SIGTERM" ? 0 : null);
    await gone(url);
  }
});

test("run answers one prompt on stdout, the same every time at temperature 0", { skip }, async () => {
  const ask = ["run", "Tell me a story about a fox who finds a lantern.", "--temperature", "0", "--max-tokens", "12"];
  const [one, two] = [await run(ask), await run(ask)];
  assert.equal(one.code, 0, one.err);
  assert.ok(one.out.trim().length > 10);
  assert.equal(one.out, two.out);
  const raw = await run(["run", `${root}models/demo`, "-", "--raw", "--temperature", "0", "--max-tokens", "4"], "Once upon a time\n");
  assert.ok(raw.code === 0 && raw.out.trim().length > 0, raw.err);
});

test("chat reads lines where there is no terminal, and answers each", { skip }, async () => {
  const { code, out, err } = await run(["chat", "--temperature", "0", "--max-tokens", "8"], "Hello!\n/reset\n/nothing\nHello!\n/exit\nnever read\n");
  assert.equal(code, 0, err);
  const [first, second, ...rest] = out.trim().split("\n");
  assert.ok(first!.length > 0);
  assert.equal(second, first, "after /reset the same question gets the same answer");
  assert.deepEqual(rest, []);
  assert.match(err, /no command \/nothing/);
  assert.match(err, /\d+ tokens/);
});
