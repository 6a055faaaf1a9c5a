/** The tarball as a user gets it: packed from a copy of the checkout, installed in an empty project, the README's examples run as printed, in Node and in a browser. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const root = new URL("..", import.meta.url).pathname;
const readme = readFileSync(`${root}README.md`, "utf8");
const folder = mkdtempSync(join(tmpdir(), "tessera-package-"));
const project = join(folder, "project");
const browser = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
let unavailable: string | undefined;

/** The README's code block behind `<!-- example: name -->`. */
function example(name: string): string {
  const found = new RegExp(`<!-- example: ${name} -->\n\`\`\`ts\n([\\s\\S]*?)\`\`\``).exec(readme)?.[1];
  assert.ok(found, `the README has an example named ${name}`);
  return found;
}

before(() => {
  const copy = join(folder, "checkout");
  const files = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: root, encoding: "utf8" }).split("\0").filter((f) => f && !f.startsWith("tests/") && existsSync(root + f));
  for (const file of files) cpSync(root + file, join(copy, file));
  symlinkSync(`${root}node_modules`, join(copy, "node_modules"));
  const npm = (args: readonly string[], cwd: string): string => execFileSync("npm", [...args, "--loglevel=error"], { cwd, encoding: "utf8" });
  const tarball = npm(["pack", "--pack-destination", folder], copy).trim().split("\n").at(-1)!;
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), '{ "name": "empty", "private": true, "type": "module" }');
  const installed = spawnSync("npm", ["install", join(folder, tarball), "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"], { cwd: project, encoding: "utf8" });
  // Without a registry there is nothing to install from: a reason to skip, where the package itself is not at fault.
  if (installed.status !== 0 && /ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ETIMEDOUT|network/.test(installed.stderr)) unavailable = `no npm registry to install from: ${installed.stderr.split("\n")[0]}`;
  else assert.equal(installed.status, 0, installed.stderr);
});
after(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a program of the project with this Node, from the project's folder. */
function run(...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: project, encoding: "utf8", timeout: 60_000 });
  assert.equal(status, 0, `${args.join(" ")} ended with ${status}:\n${stdout}\n${stderr}`);
  return stdout;
}

test("the package is small and carries neither tests nor sources", (t) => {
  if (unavailable) return t.skip(unavailable);
  const inside = join(project, "node_modules/tessera-llm");
  const files = execFileSync("find", [inside, "-type", "f", "-printf", "%P\n"], { encoding: "utf8" }).trim().split("\n");
  assert.ok(files.includes("dist/index.js") && files.includes("dist/index.d.ts") && files.includes("models/demo/model.safetensors"));
  assert.deepEqual(files.filter((f) => /\.test\.|^src\/|^tests\/|^bench\//.test(f)), []);
  const bytes = files.reduce((n, f) => n + statSync(join(inside, f)).size, 0);
  assert.ok(bytes < 40 * 2 ** 20, `${bytes} bytes`);
  assert.ok(!readFileSync(join(inside, "dist/package.json"), "utf8").includes("src/"), "imports point to what is published");
});

test("without koffi a GPU is refused with what to install, by attention and by an engine; the texts of its kernels are there", (t) => {
  if (unavailable) return t.skip(unavailable);
  assert.ok(!existsSync(join(project, "node_modules/koffi")), "koffi is optional");
  writeFileSync(join(project, "cuda.ts"), `
import { readFileSync, readdirSync } from "node:fs";
import { LLM } from "tessera-llm";
import { flexAttention, tensor } from "tessera-llm/attention";
const told = async (what: () => Promise<unknown>): Promise<void> => {
  try {
    await what();
    console.log("no error");
  } catch (error) {
    console.log((error as Error).name, (error as Error).message);
  }
};
const noise = tensor(new Uint16Array(64), [1, 1, 4, 16], "bf16");
await told(() => flexAttention(noise, noise, noise, { device: "cuda" }));
await told(() => LLM.load(undefined, { device: "cuda" }));
const dist = new URL("./node_modules/tessera-llm/dist/backend/cuda/", import.meta.url);
const { kernelText } = await import(new URL("sources.node.js", dist).href);
for (const file of readdirSync(new URL("kernels/", dist))) console.log("kernel", file, kernelText(file.replace(".cu", "")).length);
`);
  const printed = run("cuda.ts").trim().split("\n");
  for (const line of printed.slice(0, 2)) assert.match(line, /^UsageError .*koffi.* could not be loaded: `npm install koffi`/);
  const kernels = new URL("../src/backend/cuda/kernels/", import.meta.url);
  assert.deepEqual(printed.slice(2).toSorted(), readdirSync(kernels).map((file) => `kernel ${file} ${readFileSync(new URL(file, kernels), "utf8").length}`).toSorted());
});

test("packages are never installed through a link, which would empty another checkout's", () => {
  const other = join(folder, "other"), elsewhere = join(folder, "elsewhere");
  for (const path of [join(other, "scripts"), elsewhere]) mkdirSync(path, { recursive: true });
  cpSync(`${root}scripts/install.js`, join(other, "scripts/install.js"));
  writeFileSync(join(other, "package.json"), '{ "name": "other", "private": true, "type": "module" }');
  writeFileSync(join(other, "package-lock.json"), '{ "name": "other", "lockfileVersion": 3, "packages": {} }');
  writeFileSync(join(elsewhere, "kept"), "");
  symlinkSync(elsewhere, join(other, "node_modules"));
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", 'import { install } from "./scripts/install.js"; install();'], { cwd: other, encoding: "utf8" });
  assert.equal(status, 1);
  assert.match(stderr, /node_modules is a link to .*elsewhere, which another package-lock.json was installed to/);
  assert.ok(existsSync(join(elsewhere, "kept")));
});

test("the README's library example runs as printed", (t) => {
  if (unavailable) return t.skip(unavailable);
  writeFileSync(join(project, "library.ts"), example("library"));
  assert.match(run("library.ts"), /\S+[\s\S]*\[(length|stop), \d+ tokens\]/);
});

test("the README's example of functions that change the logits runs as printed, and ends by itself", (t) => {
  if (unavailable) return t.skip(unavailable);
  writeFileSync(join(project, "processors.ts"), example("processors"));
  assert.match(run("processors.ts"), /^0: .*\S[\s\S]*^1: .*\S[\s\S]*^2: .*\S/m);
});

test("the README's attention example runs as printed, and ends by itself", (t) => {
  if (unavailable) return t.skip(unavailable);
  writeFileSync(join(project, "attention.ts"), example("attention"));
  const started = performance.now();
  const printed = run("attention.ts");
  assert.match(printed, /\[ 1, 4, 512, 64 \]/);
  assert.match(printed, /8 x 8|64 x 64/);
  assert.ok(performance.now() - started < 20_000);
});

test("the examples type-check against the published types, strictly", (t) => {
  if (unavailable) return t.skip(unavailable);
  writeFileSync(join(project, "library.ts"), example("library"));
  writeFileSync(join(project, "attention.ts"), example("attention"));
  writeFileSync(join(project, "processors.ts"), example("processors"));
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions: {
    strict: true, noEmit: true, module: "nodenext", target: "es2024", lib: ["es2024", "esnext.disposable", "dom"], types: ["node"], typeRoots: [`${root}node_modules/@types`],
  }, include: ["*.ts"] }));
  run(`${root}node_modules/typescript/bin/tsc`, "-p", ".");
});

test("the installed command answers", (t) => {
  if (unavailable) return t.skip(unavailable);
  assert.match(run("node_modules/.bin/tessera", "run", "Tell me a story about a fox.", "--max-tokens", "8", "--temperature", "0"), /\w+/);
});

/** What a bundler would choose for package.json's imports in a browser, as rows of an import map. */
const { imports } = JSON.parse(readFileSync(`${root}package.json`, "utf8")) as { readonly imports: Readonly<Record<string, { readonly default: string }>> };
const browserImports = Object.entries(imports)
  .map(([name, { default: path }]) => `${JSON.stringify(name)}: ${JSON.stringify(path.replace("./src/", "/node_modules/tessera-llm/dist/").replace(/\.ts$/, ".js"))}`).join(", ");

const types: Readonly<Record<string, string>> = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json" };

for (const isolated of [true, false]) {
  test(`the attention example runs in a browser ${isolated ? "on several threads" : "without shared memory, on one"}`, async (t) => {
    if (unavailable) return t.skip(unavailable);
    if (!browser) return t.skip("no chromium on this machine; on Debian: apt-get install chromium");
    const page = `<!doctype html><script type="importmap">{"imports": {
      "tessera-llm/attention": "/node_modules/tessera-llm/dist/attention/index.js", "acorn": "/node_modules/acorn/dist/acorn.mjs", ${browserImports}
    }}</script><script type="module">
      const lines = [];
      console.log = (...values) => lines.push(values.join(" "));
      try { await (async () => {})(); ${"await import('/attention.js');"} document.title = "done"; } catch (e) { lines.push(String(e.stack ?? e)); document.title = "failed"; }
      document.body.textContent = lines.join("\\n");
    </script><body></body>`;
    const server = createServer((request, response) => {
      const path = new URL(request.url!, "http://x").pathname;
      const body = path === "/" ? page : path === "/attention.js" ? example("attention") : existsSync(project + path) ? readFileSync(project + path) : undefined;
      response.writeHead(body === undefined ? 404 : 200, {
        "content-type": types[path === "/" ? ".html" : extname(path)] ?? "application/octet-stream",
        ...(isolated ? { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" } : {}),
      }).end(body);
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const chrome = await chromium.launch({ executablePath: browser, args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"] });
    try {
      const tab = await chrome.newPage();
      await tab.goto(`http://127.0.0.1:${(server.address() as { port: number }).port}/`);
      await tab.waitForFunction(() => document.title !== "", undefined, { timeout: 30_000 });
      const text = await tab.evaluate(() => document.body.textContent);
      assert.match(text, /^1,4,512,64\n/, text);
      assert.equal(await tab.evaluate(() => crossOriginIsolated), isolated);
    } finally {
      await chrome.close();
      server.close();
    }
  });
}
