/** The map of the code, as a test: imports run downhill only, never in circles, in files one can read. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";

/** Low to high. A file imports from its own folder and from folders to its left. */
const layers = ["core", "ir", "backend", "attention", "weights", "model", "sampling", "tokenizer", "engine", "llm", "server", "cli", "index"];
/** Neighbours that never meet: one backend and another; files, text and sampling. */
const strangers = [/^backend\/(\w+)\//, /^(weights|tokenizer|sampling)\//];
/** What backend/ itself (the contract and the registry) may reach: the registry names each backend's door. */
const doors = /^backend\/registry\.ts$/;
/** Where `node:` may stand, besides files that a condition of package.json's imports chooses. */
const nodeFiles = /^(cli\/|server\/node\.ts$)/;
/** Longer than 500 lines on purpose. Say why. */
const long: Readonly<Record<string, string>> = {};

const src = new URL("../src/", import.meta.url).pathname;
const conditional = new Set(
  Object.values((JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { imports: Record<string, Record<string, string>> }).imports)
    .flatMap((byCondition) => Object.values(byCondition)).map((path) => path.replace("./src/", "")),
);

function layerOf(file: string): number {
  const layer = layers.indexOf(file.split("/")[0]!.replace(/\.ts$/, ""));
  assert.ok(layer >= 0, `${file} is in no layer`);
  return layer;
}

/** What is wrong with a tree of sources given as text by path. */
function problems(files: ReadonlyMap<string, string>): string[] {
  const found: string[] = [];
  const edges = new Map<string, string[]>();
  for (const [file, text] of files) {
    const lines = text.split("\n").length - 1;
    if (lines > 500 && !long[file]) found.push(`${file}: ${lines} lines, over 500`);
    if (!text.startsWith("/**")) found.push(`${file}: does not open with its one idea`);
    if (/(?:from |import\(|import )"node:/.test(text) && !nodeFiles.test(file) && !conditional.has(file)) found.push(`${file}: imports from node:`);
    const targets = [...text.matchAll(/(?:from |import\(|import )"(\.[^"]+)"/g)].map((m) => normalize(join(dirname(file), m[1]!)));
    edges.set(file, targets);
    for (const to of targets) {
      if (!files.has(to)) found.push(`${file} imports ${to}, which is not there`);
      if (layerOf(to) > layerOf(file)) found.push(`${file} imports uphill: ${to}`);
      for (const pattern of strangers) {
        const [a, b] = [pattern.exec(file)?.[1], pattern.exec(to)?.[1]];
        if (a && b && a !== b) found.push(`${file} imports a stranger: ${to}`);
        if (!a && b && /^backend\/\w+\//.test(to) && file.startsWith("backend/") && !doors.test(file)) found.push(`${file} is the contract, and imports ${to}`);
      }
    }
  }
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) found.push(`circle: ${[...path.slice(path.indexOf(file)), file].join(" -> ")}`);
    if (path.includes(file) || done.has(file)) return;
    for (const to of edges.get(file) ?? []) visit(to, [...path, file]);
    done.add(file);
  };
  for (const file of edges.keys()) visit(file, []);
  return found;
}

test("imports run downhill, never in circles, and no file is too long to read", () => {
  const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".ts") && !f.endsWith(".test.ts"));
  assert.ok(files.length > 40, "the sources were found");
  assert.deepEqual(problems(new Map(files.map((f) => [f, readFileSync(src + f, "utf8")]))), []);
});

test("the map test sees an uphill import, a circle, a stranger, a long file and a stray node: import", () => {
  const found = problems(new Map([
    ["core/a.ts", '/** */\nimport { b } from "../engine/b.ts";'],
    ["engine/b.ts", '/** */\nimport "../core/a.ts";\nimport "node:fs";'],
    ["backend/wasm/x.ts", '/** */\nimport "../cuda/y.ts";'],
    ["backend/cuda/y.ts", "/** */\n" + "\n".repeat(500)],
    ["ir/plain.ts", "export {};"],
  ]));
  for (const expected of [/uphill: engine\/b/, /circle: core\/a.ts -> engine\/b.ts -> core\/a.ts/, /stranger: backend\/cuda\/y/, /over 500/, /imports from node:/, /one idea/]) {
    assert.ok(found.some((f) => expected.test(f)), `${expected} in ${found.join("\n")}`);
  }
});
