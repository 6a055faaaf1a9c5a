import assert from "node:assert/strict";
import { test } from "node:test";
import type { WeightDType } from "../backend/backend.ts";
import { capsOf } from "../backend/registry.ts";
import type { StoredTensor, WeightSource } from "../weights/source.ts";
import { chooseWeightFormats, convertedFrom, type Quantization, type WeightDTypeOption } from "./weight-formats.ts";

const cpu = capsOf("cpu"), cuda = capsOf("cuda");

type Types = Readonly<Record<"embed" | "q" | "down" | "head", StoredTensor["dtype"]>>;
const names = { embed: "model.embed_tokens.weight", q: "model.layers.0.self_attn.q_proj.weight", down: "model.layers.0.mlp.down_proj.weight", head: "lm_head.weight" } as const;
const norm = "model.norm.weight";

/** A checkpoint that nobody reads: four matrices of these types and a norm in f32. */
function checkpoint(types: Types, rows: number): WeightSource {
  const infos = new Map<string, StoredTensor>([[norm, { dtype: "F32", shape: [1024], bytes: 4096 }]]);
  for (const [key, name] of Object.entries(names)) infos.set(name, { dtype: types[key as keyof Types], shape: [rows, 1024], bytes: 0 });
  return { names: () => infos.keys(), info: (name) => infos.get(name), read: () => assert.fail("nothing is read"), close: () => {} };
}
const all = (dtype: StoredTensor["dtype"]): Types => ({ embed: dtype, q: dtype, down: dtype, head: dtype });
const files = {
  bf16: all("BF16"), f16: all("F16"), f32: all("F32"), "one f32 among bf16": { ...all("BF16"), q: "F32" }, "Q8_0": all("Q8_0"), "Q4_0": all("Q4_0"),
  "Q4_K_M": { embed: "Q4_K", q: "Q4_K", down: "Q6_K", head: "Q6_K" }, "Q5_K under bf16 tables": { embed: "BF16", q: "Q5_K", down: "Q5_1", head: "BF16" },
} as const satisfies Readonly<Record<string, Types>>;
/** Four matrices of 1024 columns: a million parameters, and 200M and a thousand more. */
const small = 256, justNotLarge = 48_828, large = 48_829;

/** A matrix's format, or one for each of embed, q, down and head. */
type Choice = WeightDType | readonly [WeightDType, WeightDType, WeightDType, WeightDType];
const int4 = ["int8", "uint4", "uint4", "int8"] as const;
const table: readonly (readonly [file: keyof typeof files, rows: number, quantization: Quantization, dtype: WeightDTypeOption, choice: Choice])[] = [
  ["bf16", small, "auto", "auto", "bf16"], ["bf16", justNotLarge, "auto", "auto", "bf16"], ["bf16", large, "auto", "auto", "int8"],
  ["bf16", large, "none", "auto", "bf16"], ["bf16", large, "auto", "bfloat16", "bf16"], ["bf16", large, "auto", "float32", "f32"], ["bf16", small, "none", "float32", "f32"],
  ["bf16", small, "int8", "auto", "int8"], ["bf16", small, "int4", "auto", int4], ["bf16", large, "int4", "auto", int4],
  ["f16", small, "auto", "auto", "f32"], ["f16", large, "auto", "auto", "int8"], ["f16", small, "auto", "bfloat16", "bf16"], ["f32", large, "auto", "auto", "int8"], ["f32", large, "none", "auto", "f32"],
  ["one f32 among bf16", small, "auto", "auto", "f32"], ["one f32 among bf16", small, "none", "bfloat16", "bf16"], ["one f32 among bf16", small, "int8", "auto", "int8"],
  ["Q8_0", small, "auto", "auto", "int8"], ["Q8_0", large, "auto", "auto", "int8"], ["Q8_0", small, "int8", "auto", "int8"], ["Q8_0", small, "int4", "auto", int4],
  ["Q8_0", small, "none", "auto", "f32"], ["Q8_0", large, "auto", "bfloat16", "bf16"],
  ["Q4_0", small, "auto", "auto", "int4"], ["Q4_0", small, "int4", "auto", "int4"], ["Q4_0", small, "int8", "auto", "int8"], ["Q4_0", large, "none", "auto", "f32"],
  ["Q4_K_M", small, "auto", "auto", ["uint4", "uint4", "int8", "int8"]], ["Q4_K_M", small, "int4", "auto", ["uint4", "uint4", "uint4", "int8"]], ["Q4_K_M", small, "int8", "auto", "int8"],
  ["Q5_K under bf16 tables", small, "auto", "auto", ["int8", "uint8", "uint8", "int8"]], ["Q5_K under bf16 tables", small, "int8", "auto", ["int8", "uint8", "uint8", "int8"]],
  ["Q5_K under bf16 tables", large, "int4", "auto", int4], ["Q5_K under bf16 tables", small, "auto", "float32", "f32"],
];

for (const [file, rows, quantization, dtype, choice] of table) {
  test(`${file}, ${rows * 4096} parameters, --quantization ${quantization} --dtype ${dtype}: ${choice}`, () => {
    const { weightDType, matrixDTypes } = chooseWeightFormats(checkpoint(files[file], rows), dtype, quantization, cpu);
    const wanted = typeof choice === "string" ? [choice, choice, choice, choice] : choice;
    assert.deepEqual(Object.values(names).map((name) => matrixDTypes?.get(name) ?? weightDType), wanted);
    assert.ok(wanted.includes(weightDType), "people are told a format that there is");
    assert.equal(matrixDTypes?.has(norm) ?? false, false, "norms stay as they are");
  });
}

test("people are told the most common format", () => {
  assert.equal(chooseWeightFormats(checkpoint({ ...all("Q4_K"), down: "Q6_K" }, small), "auto", "auto", cpu).weightDType, "uint4");
});

for (const dtype of ["float32", "bfloat16"] as const) for (const quantization of ["int8", "int4"] as const) {
  test(`--dtype ${dtype} beside --quantization ${quantization} is refused: they exclude each other`, () => {
    assert.throws(() => chooseWeightFormats(checkpoint(files.bf16, small), dtype, quantization, cpu), { name: "UsageError", message: new RegExp(`--dtype ${dtype} and --quantization ${quantization} exclude each other`) });
  });
}

test("a file without a matrix has formats all the same: the loader says what it lacks", () => {
  const empty: WeightSource = { names: () => [], info: () => undefined, read: () => assert.fail("nothing is read"), close: () => {} };
  assert.equal(chooseWeightFormats(empty, "auto", "int8", cpu).weightDType, "f32");
});

const onCuda: readonly (readonly [file: keyof typeof files, quantization: Quantization, dtype: WeightDTypeOption, choice: WeightDType, from: string | undefined])[] = [
  ["bf16", "auto", "auto", "bf16", undefined], ["f16", "auto", "auto", "f16", undefined], ["f32", "auto", "auto", "bf16", "F32"], ["one f32 among bf16", "none", "auto", "bf16", "F32"],
  ["bf16", "none", "float16", "f16", "BF16"], ["f16", "auto", "bfloat16", "bf16", "F16"], ["Q8_0", "auto", "auto", "bf16", "Q8_0"], ["Q4_K_M", "none", "float16", "f16", "Q4_K"],
];
for (const [file, quantization, dtype, choice, from] of onCuda) {
  test(`on cuda, ${file}, --quantization ${quantization} --dtype ${dtype}: ${choice}${from ? `, made of ${from}` : ""}`, () => {
    const source = checkpoint(files[file], large), formats = chooseWeightFormats(source, dtype, quantization, cuda);
    assert.deepEqual([formats, convertedFrom(source, formats)], [{ weightDType: choice }, from]);
  });
}

test("numbers that keep all their bits are not called converted, nor what is quantised", () => {
  for (const [file, formats] of [["bf16", { weightDType: "f32" }], ["f16", { weightDType: "f32" }], ["Q8_0", chooseWeightFormats(checkpoint(files.Q8_0, small), "auto", "auto", cpu)]] as const) {
    assert.equal(convertedFrom(checkpoint(files[file], small), formats), undefined);
  }
});

test("what a device's kernels do not read is refused by name, with what they do", () => {
  const refuse = (dtype: WeightDTypeOption, quantization: Quantization, caps: typeof cpu, message: RegExp): void =>
    assert.throws(() => chooseWeightFormats(checkpoint(files.bf16, small), dtype, quantization, caps), { name: "UsageError", message });
  refuse("float32", "auto", cuda, /dtype \(--dtype\) is float32, and device cuda keeps weights in bfloat16 or float16; ask for one of these, or leave it out/);
  refuse("float16", "auto", cpu, /dtype \(--dtype\) is float16, and device cpu keeps weights in float32 or bfloat16; ask for one/);
  for (const quantization of ["int8", "int4"] as const) {
    refuse("auto", quantization, cuda, new RegExp(`quantization \\(--quantization\\) is ${quantization}, and device cuda keeps weights in bfloat16 or float16, with no kernels for fewer bits; leave it out, or use --device cpu`));
  }
});
