/**
 * The emitted kernels of known mods, as files that review like code. A refactoring leaves them as they are; `npm run kernels` writes
 * them again after a change that is meant.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { planAttention } from "../../src/attention/index.ts";
import { attentionSource } from "../../src/backend/cuda/attention.ts";
import { kernelText } from "../../src/backend/cuda/sources.node.ts";
import { attentionModule } from "../../src/backend/wasm/attention.ts";
import { print } from "../../src/ir/print.ts";
import { snapshotMods } from "./snapshot-mods.ts";

const folder = new URL("snapshots/", import.meta.url);
const shape = { numQueryHeads: 4, numKvHeads: 2, headDimQk: 64, headDimV: 64 } as const;

const machines: Readonly<Record<string, (name: string) => string>> = {
  wasm: (name) => {
    const { plan } = planAttention({ ...snapshotMods[name]!, ...shape }), text = attentionModule(plan).text();
    // Causal's is whole. Of the others what the mods are written into: the function for one row, as those for two and four are its like.
    const head = [`;; ${name}`, `;; score  ${print(plan.scoreMod)}`, `;; mask   ${plan.maskMod ? print(plan.maskMod) : "every key"}`].join("\n");
    return `${head}\n${name === "causal" ? text : `${/^func tile1[\s\S]*?^}$/m.exec(text)![0]}\n`}`;
  },
  cuda: (name) => {
    const { plan } = planAttention({ ...snapshotMods[name]!, ...shape, queryTile: 128, kvTile: 64, queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16" });
    const { general, decode } = attentionSource(plan, { maxSharedBytes: 227 * 1024, deterministic: false });
    // What is written for the plan, which its key describes. What it stands between are the texts of kernels/, the same for every plan.
    const generated = (text: string, kernel: string): string => ["arithmetic", "tensor", "paged", kernel].reduce((rest, part) => {
      assert.equal(rest.split(kernelText(part)).length, 2, `kernels/${part}.cu stands in the text once, as it is`);
      return rest.replace(kernelText(part), () => `// ... kernels/${part}.cu\n`);
    }, text);
    const shapes = [general, decode!].map(({ name, threads, sharedBytes }) => `// ${name}: ${threads} threads, ${sharedBytes} bytes of shared memory`);
    const [of, ofDecode] = [generated(general.text, "attention"), generated(decode!.text, "decode")];
    assert.equal(of.replace("attention.cu", "decode.cu"), ofDecode, "both kernels stand behind the same text");
    return `${[`// ${name}`, ...shapes].join("\n")}\n${of.replace("attention.cu", "attention.cu, or kernels/decode.cu")}`;
  },
};

for (const [machine, emitted] of Object.entries(machines)) for (const name of Object.keys(snapshotMods)) {
  test(`the ${machine} kernel of ${name} is the one checked in`, () => {
    const file = new URL(`${name}.${machine}.txt`, folder);
    const text = emitted(name);
    assert.equal(emitted(name), text, "the same plan gives the same text");
    if (process.env["TESSERA_WRITE_KERNELS"]) {
      mkdirSync(folder, { recursive: true });
      writeFileSync(file, text);
    }
    assert.ok(existsSync(file), `${name} has no snapshot; npm run kernels writes it`);
    assert.ok(readFileSync(file, "utf8") === text, `the emitted kernel of ${name} changed; npm run kernels, then look at git diff`);
  });
}

test("no snapshot is left of a mod or a machine that is gone", () => {
  const wanted = Object.keys(machines).flatMap((machine) => Object.keys(snapshotMods).map((name) => `${name}.${machine}.txt`));
  assert.deepEqual(readdirSync(folder).sort(), wanted.sort());
});
