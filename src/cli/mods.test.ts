import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { causal } from "../attention/mods/causal.ts";
import { loadAttention, loadMods } from "./mods.ts";
import { parseLengths } from "./options.ts";

const folder = mkdtempSync(join(tmpdir(), "tessera-mods-"));
after(() => rmSync(folder, { recursive: true }));
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const imports = 'import { and, maskMod, scoreMod } from "tessera-llm/attention";\n';
const near = "maskMod(({ n }: { n: number }) => (b: number, h: number, q: number, kv: number) => q >= kv && q - kv < n, { n: 8 })";
const tessera = (...args: readonly string[]): string => execFileSync(process.execPath, [new URL("../../bin/tessera.js", import.meta.url).pathname, ...args], { encoding: "utf8", stdio: "pipe" });

test("a file's mods are this package's, wherever it lies, by default export or by name or as one mod alone", async () => {
  const whole = await loadAttention(file("whole.ts", `${imports}export default { maskMod: ${near}, layers: { 1: { maskMod: (own) => and(own.maskMod, ${near}) } } };`));
  const named = await loadAttention(file("named.ts", `${imports}export const maskMod_ = 1, layers = { 0: { maskMod: ${near} } };\nconst mask = ${near};\nexport { mask as maskMod };`));
  const alone = await loadAttention(file("alone.ts", `${imports}export default scoreMod((score: number) => score * 2);`));
  assert.deepEqual([Object.keys(whole), Object.keys(named), Object.keys(alone)], [["maskMod", "layers"], ["maskMod", "layers"], ["scoreMod"]]);
  const { maskMod } = (whole.layers as { 1: { maskMod: (own: object) => typeof causal } })[1];
  assert.equal(maskMod({ maskMod: causal })(0, 0, 9, 1), false, "the file's `and` takes this process's mods");
});

test("what is not there, cannot run or exports no mods is refused by name", async () => {
  await assert.rejects(loadAttention(join(folder, "no.ts")), /no\.ts is not there/);
  await assert.rejects(loadAttention(file("broken.ts", "const = 1;")), /broken\.ts:1 cannot be loaded: SyntaxError/);
  await assert.rejects(loadAttention(file("other.ts", "export const a = 1;")), /other\.ts exports no attention \(a\); write export default/);
  await assert.rejects(loadMods(file("other2.ts", "export const a = 1;")), /exports no mods \(it exports a\)/);
  await assert.rejects(loadMods(file("two.ts", `${imports}export const a = ${near};`), "b"), /exports no mod called b \(it exports a\)/);
});

test("a file that cannot be loaded says what and where, and nothing of Node's own modules", async () => {
  for (const [name, text, said] of [
    ["syntax.js", "const a = 1;\nconst = 1;", /syntax\.js:2 cannot be loaded: SyntaxError: Unexpected token '='\nconst = 1;\n +\^$/],
    ["syntax.ts", "const a = 1;\nconst x: = 1;", /syntax\.ts:2 cannot be loaded: SyntaxError: .*`=`[^]*const x: = 1;\n +\^$/],
    ["throws.ts", "export const a = 1;\nexport const b = nope();", /throws\.ts:2:18 cannot be loaded: ReferenceError: nope is not defined$/],
    ["README.md", "# mods", /README\.md is no module; give a \.ts, \.mts, \.js or \.mjs file that exports mods$/],
  ] as const) {
    await assert.rejects(loadAttention(file(name, text)), (error: Error) => said.test(error.message) && !/node:internal|\n    at /.test(error.message) || assert.fail(error.message));
  }
});

test("inspect is told of each mod once, and of each layer of an override", async () => {
  const mods = await loadMods(file("many.ts", `${imports}export const mine = ${near};
    export const pair = { maskMod: mine, scoreMod: scoreMod((score: number) => score / 2) };
    export default { maskMod: mine, layers: [{ from: 1, to: 2, scoreMod: pair.scoreMod }, { from: 3, to: 3, maskMod: (own) => and(own.maskMod, mine) }] };`));
  assert.deepEqual(mods.map(({ name, mods }) => [name, Object.keys(mods)]), [
    ["default = mine", ["maskMod"]], ["default, layers 1 to 2 = pair", ["maskMod", "scoreMod"]], ["default, layer 3", ["maskMod"]],
  ]);
});

test("tessera inspect prints source, blocks, cost and time, and draws a picture", () => {
  const picture = join(folder, "near.svg");
  const text = tessera("inspect", file("near.ts", `${imports}export const near = ${near};`), "--lengths", "32x64", "--block-size", "16", "--heads", "2", "--head-dim", "32", "--svg", picture);
  for (const part of [/^== near =+\n\nMASK MOD: which keys a query may attend to\n/, /n: i32 = 8/, /\(q >= kv\) && \(\(q - kv\) < n:i32\)/, /░···\n  ░░··\n/, /FLOP in the tiles/, /measured here, on wasm, 1 thread/]) assert.match(text, part);
  assert.doesNotMatch(text, /the whole kernel/);
  assert.match(readFileSync(picture, "utf8"), /^<svg /);
});

test("tessera inspect says where a mod is wrong", () => {
  const path = file("wrong.ts", `${imports}const size = 4;\nexport const wrong = maskMod((b: number, h: number, q: number, kv: number) => q - kv < size);`);
  assert.throws(() => tessera("inspect", path), (error: { stderr: string }) => /tessera: .*wrong\.ts:3:\d+ 'size' is not a parameter\. Pass it as a capture/.test(error.stderr));
});

test("tessera run --attention answers under the file's mods", () => {
  const run = (...args: readonly string[]): string => tessera("run", "Tell me a story about a fox who finds a lantern.", "--temperature", "0", "--max-tokens", "24", ...args);
  const plain = run(), nearOnly = run("--attention", file("near4.ts", `${imports}export default ${near.replace("n: 8", "n: 2")};`));
  assert.notEqual(nearOnly, plain);
  assert.equal(run("--attention", file("same.ts", `${imports}export default { maskMod: (own) => own.maskMod };`)), plain);
});

test("lengths are one number, or queries x keys", () => {
  assert.deepEqual([parseLengths("1024"), parseLengths("128x4096")], [[1024, 1024], [128, 4096]]);
  assert.throws(() => parseLengths("1e3"), /queries x keys/);
});
