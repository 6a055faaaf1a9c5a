/**
 * The emitted kernels of known mods, as files that review like code. A refactoring leaves them as they are; `npm run kernels` writes
 * them again after a change that is meant.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { alibi, alibiSlopes, and, causal, document, type MaskMod, maskMod, planAttention, prefixLm, type ScoreMod, scoreMod, slidingWindow, softCap } from "../../src/attention/index.ts";
import { attentionModule } from "../../src/backend/wasm/attention.ts";
import { print } from "../../src/ir/print.ts";

const folder = new URL("snapshots/", import.meta.url);
const documents = Int32Array.from({ length: 64 }, (_, i) => Math.floor(i / 10));

const mods: Readonly<Record<string, { readonly scoreMod?: ScoreMod; readonly maskMod?: MaskMod }>> = {
  none: {},
  causal: { maskMod: causal },
  "sliding-window": { maskMod: and(causal, slidingWindow(64)) },
  "soft-cap": { maskMod: causal, scoreMod: softCap(50) },
  alibi: { maskMod: causal, scoreMod: alibi(alibiSlopes(4)) },
  "prefix-lm": { maskMod: prefixLm(Int32Array.of(16)) },
  document: { maskMod: and(causal, document(documents)) },
  "chunked-local": { maskMod: maskMod(({ chunk }) => (_b, _h, q, kv) => q >= kv && Math.floor(q / chunk) === Math.floor(kv / chunk), { chunk: 32 }) },
  "relative-table": { scoreMod: scoreMod(({ bias }) => (score, _b, _h, q, kv) => score + bias[Math.min(Math.max(q - kv, -8), 8) + 8]!, { bias: new Float32Array(17) }) },
  "branches": { scoreMod: scoreMod((score, _b, h, q, kv) => { if (h === 0) return score; const d = Math.abs(q - kv); return d <= 8 ? 2 * score : score - Math.log1p(d); }) },
  "bits": { maskMod: maskMod((_b, _h, q, kv) => ((q ^ kv) & 3) !== 1) },
  "per-head-window": { maskMod: maskMod(({ widths }) => (_b, h, q, kv) => q >= kv && q - kv < widths[h]!, { widths: new Int32Array([4, 8, 16, 32]) }) },
};

function emitted(name: string): string {
  const { plan } = planAttention({ ...mods[name]!, numQueryHeads: 4, numKvHeads: 2, headDimQk: 64, headDimV: 64 });
  const head = [`;; ${name}`, `;; score  ${print(plan.scoreMod)}`, `;; mask   ${plan.maskMod ? print(plan.maskMod) : "every key"}`].join("\n");
  const text = attentionModule(plan).text();
  // Causal's is whole. Of the others what the mods are written into: the function for one row, as those for two and four are its like.
  return `${head}\n${name === "causal" ? text : `${/^func tile1[\s\S]*?^}$/m.exec(text)![0]}\n`}`;
}

for (const name of Object.keys(mods)) {
  test(`the kernel of ${name} is the one checked in`, () => {
    const file = new URL(`${name}.wasm.txt`, folder);
    const text = emitted(name);
    assert.equal(emitted(name), text, "the same plan gives the same text");
    if (process.env.TESSERA_WRITE_KERNELS) {
      mkdirSync(folder, { recursive: true });
      writeFileSync(file, text);
    }
    assert.ok(existsSync(file), `${name} has no snapshot; npm run kernels writes it`);
    assert.ok(readFileSync(file, "utf8") === text, `the emitted kernel of ${name} changed; npm run kernels, then look at git diff`);
  });
}

test("no snapshot is left of a mod that is gone", () => {
  assert.deepEqual(readdirSync(folder).sort(), Object.keys(mods).map((name) => `${name}.wasm.txt`).sort());
});
