/**
 * In which formats a model's matrices are kept in memory: chosen from what the checkpoint has and what was asked for, before
 * anything is loaded. Knows no bytes and no backend.
 */
import type { WeightDType } from "../backend/backend.ts";
import { quantizedFormats, type QuantizedDType } from "../backend/quantized.ts";
import { UsageError } from "../core/errors.ts";
import { type BlockType } from "../weights/block-formats.ts";
import { packedAs } from "../weights/packed-blocks.ts";
import type { WeightSource } from "../weights/source.ts";
import type { ModelConfig } from "./config.ts";

/** `--dtype`: how matrices that are not quantised are kept. */
export type WeightDTypeOption = "auto" | "float32" | "bfloat16";
/** `--quantization`. "auto": as the checkpoint has them, and int8 where it has none quantised and the model is large. What "int4" is: `rounded`. */
export const quantizationOptions = ["auto", "none", "int8", "int4"] as const;
export type Quantization = (typeof quantizationOptions)[number];

/** From this many parameters on, "auto" quantises: reading weights is then what a token waits for. */
const largeModel = 200e6;

/**
 * What matrices are rounded to. Measured (docs/performance.md, Quality): 4 bits with a minimum cost two thirds of the divergence of 4 bits without, and the
 * embedding and the head in 4 bits alone make two fifths of it.
 */
const rounded: Readonly<Record<"int8" | "int4", (name: string) => QuantizedDType>> = {
  int8: () => "int8",
  int4: (name) => (name === "model.embed_tokens.weight" || name === "lm_head.weight" ? "int8" : "uint4"),
};

export interface WeightFormats extends Pick<ModelConfig, "weightDType"> {
  readonly matrixDTypes?: ReadonlyMap<string, WeightDType>;
}

/** @throws UsageError when a dtype is asked for together with a quantisation */
export function chooseWeightFormats(source: WeightSource, dtype: WeightDTypeOption, quantization: Quantization): WeightFormats {
  const matrices = [...source.names()].map((name) => ({ name, ...source.info(name)! })).filter(({ shape }) => shape.length >= 2);
  const kept = (type: string): QuantizedDType | undefined => packedAs[type as BlockType];
  const anyQuantized = matrices.some(({ dtype: type }) => kept(type) !== undefined);
  const parameters = matrices.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const chosen = quantization !== "auto" ? quantization : dtype !== "auto" ? "none" : anyQuantized ? "kept" : parameters > largeModel ? "int8" : "none";
  if (chosen === "none") {
    if (dtype !== "auto") return { weightDType: dtype === "float32" ? "f32" : "bf16" };
    return { weightDType: matrices.every(({ dtype: type }) => type === "BF16") ? "bf16" : "f32" };
  }
  if (dtype !== "auto") throw new UsageError(`--dtype ${dtype} and --quantization ${quantization} exclude each other: quantised matrices are multiplied with int8 activations; leave one of them out`);
  const formats = new Map(matrices.map(({ name, dtype: type }): [string, WeightDType] => {
    const own = kept(type);
    // Matrices that the file has in a float type are kept in the widest quantised one.
    if (chosen === "kept") return [name, own ?? "int8"];
    const wanted = rounded[chosen](name), bits = [wanted, chosen].map((format) => quantizedFormats[format].bits);
    return [name, own && bits.includes(quantizedFormats[own].bits) ? own : wanted];
  }));
  return { weightDType: mostCommon([...formats.values()]), matrixDTypes: formats };
}

/** Whether any matrix is kept in a quantised format that is not the file's own. */
export function isRoundedOnLoad(source: WeightSource, { matrixDTypes }: Pick<ModelConfig, "matrixDTypes">): boolean {
  return [...(matrixDTypes ?? [])].some(([name, dtype]) => packedAs[source.info(name)!.dtype as BlockType] !== dtype);
}

/** What people are told a model is in. */
function mostCommon(dtypes: readonly WeightDType[]): WeightDType {
  const counts = new Map<WeightDType, number>();
  for (const dtype of dtypes) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
  return [...counts].reduce<readonly [WeightDType, number]>((best, next) => (next[1] > best[1] ? next : best), ["f32", 0])[0];
}
