/**
 * In which formats a model's matrices are kept in memory: chosen from what the checkpoint has and what was asked for, before
 * anything is loaded. Knows no bytes and no backend.
 */
import type { Caps, WeightDType } from "../backend/backend.ts";
import { isQuantized, quantizedFormats, type QuantizedDType } from "../backend/quantized.ts";
import { bytesPerElement } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { type BlockType } from "../weights/block-formats.ts";
import { packedAs } from "../weights/packed-blocks.ts";
import type { WeightSource } from "../weights/source.ts";
import type { ModelConfig } from "./config.ts";

/** `--dtype`: how matrices that are not quantised are kept. */
export const weightDTypeOptions = ["auto", "float32", "bfloat16", "float16"] as const;
export type WeightDTypeOption = (typeof weightDTypeOptions)[number];
const floats: Readonly<Record<Exclude<WeightDTypeOption, "auto">, "f32" | "bf16" | "f16">> = { float32: "f32", bfloat16: "bf16", float16: "f16" };
/** The names of `--dtype` for what a checkpoint has. */
const floatOf: Readonly<Record<string, "f32" | "bf16" | "f16">> = { F32: "f32", BF16: "bf16", F16: "f16" };
/** `--quantization`. "auto": as the checkpoint has them, and int8 where it has none quantised and the model is large. What "int4" is: `rounded`. */
export const quantizationOptions = ["auto", "none", "int8", "int4"] as const;
export type Quantization = (typeof quantizationOptions)[number];

/** `--load-format`, of vLLM's: the checkpoint's weights, or random ones of its shapes (dummy.ts). */
export const loadFormats = ["auto", "dummy"] as const;
export type LoadFormat = (typeof loadFormats)[number];

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

/**
 * @param caps of the device that the model is for
 * @throws UsageError when a dtype is asked for together with a quantisation, or the device cannot have what is asked for
 */
export function chooseWeightFormats(source: WeightSource, dtype: WeightDTypeOption, quantization: Quantization, caps: Caps): WeightFormats {
  checkDevice(dtype, quantization, caps);
  const matrices = [...source.names()].map((name) => ({ name, ...source.info(name)! })).filter(({ shape }) => shape.length >= 2);
  const kept = (type: string): QuantizedDType | undefined => packedAs[type as BlockType];
  const every = (type: string): boolean => matrices.every((matrix) => matrix.dtype === type);
  // Where activations are of 16 bits, all matrices are of one such type: float16 where the checkpoint is, else the one of wider range.
  if (caps.activationBits === 16) return { weightDType: dtype !== "auto" ? floats[dtype] : matrices.length > 0 && every("F16") ? "f16" : "bf16" };
  const anyQuantized = matrices.some(({ dtype: type }) => kept(type) !== undefined);
  const parameters = matrices.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const chosen = quantization !== "auto" ? quantization : dtype !== "auto" ? "none" : anyQuantized ? "kept" : parameters > largeModel ? "int8" : "none";
  if (chosen === "none") {
    return { weightDType: dtype !== "auto" ? floats[dtype] : every("BF16") ? "bf16" : "f32" };
  }
  if (dtype !== "auto") throw new UsageError(`--dtype ${dtype} and --quantization ${quantization} exclude each other: quantised matrices are multiplied with int8 activations; leave one of them out`);
  const formats = new Map(matrices.map(({ name, dtype: type }): [string, WeightDType] => {
    const own = kept(type);
    // Matrices that the file has in a float type are kept in the widest quantised one.
    if (chosen === "kept") return [name, own ?? "int8"];
    const wanted = rounded[chosen](name), bits = [wanted, chosen].map((format) => quantizedFormats[format].bits);
    return [name, own && bits.includes(quantizedFormats[own].bits) ? own : wanted];
  }));
  const counts = new Map<WeightDType, number>();
  for (const format of formats.values()) counts.set(format, (counts.get(format) ?? 0) + 1);
  return { weightDType: mostCommon(counts) ?? "f32", matrixDTypes: formats };
}

/** @throws UsageError when the device's kernels do not read what is asked for */
function checkDevice(dtype: WeightDTypeOption, quantization: Quantization, { device, weightDTypes }: Caps): void {
  const has = Object.entries(floats).flatMap(([name, format]) => (weightDTypes.includes(format) ? [name] : [])).join(" or ");
  if (dtype !== "auto" && !weightDTypes.includes(floats[dtype])) throw new UsageError(`dtype (--dtype) is ${dtype}, and device ${device} keeps weights in ${has}; ask for one of these, or leave it out`);
  if ((quantization === "int8" || quantization === "int4") && !weightDTypes.some(isQuantized)) {
    throw new UsageError(`quantization (--quantization) is ${quantization}, and device ${device} keeps weights in ${has}, with no kernels for fewer bits; leave it out, or use --device cpu`);
  }
}

/**
 * The type in which the checkpoint has most of the matrices that are kept as other floats: 8 or 4 bits that were widened, or floats that lost bits.
 * undefined where there are none. f16 and bf16 that became f32 are what they were.
 */
export function convertedFrom(source: WeightSource, { weightDType, matrixDTypes }: WeightFormats): string | undefined {
  if (matrixDTypes || isQuantized(weightDType)) return undefined;
  const counts = new Map<string, number>();
  for (const name of source.names()) {
    const { dtype, shape } = source.info(name)!, float = floatOf[dtype];
    const kept = float === weightDType || (float !== undefined && bytesPerElement[float] < bytesPerElement[weightDType]);
    if (shape.length >= 2 && !kept) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
  }
  return mostCommon(counts);
}

/** Whether any matrix is kept in a quantised format that is not the file's own. */
export function isRoundedOnLoad(source: WeightSource, { matrixDTypes }: Pick<ModelConfig, "matrixDTypes">): boolean {
  return [...(matrixDTypes ?? [])].some(([name, dtype]) => packedAs[source.info(name)!.dtype as BlockType] !== dtype);
}

/** The first of those that there are most of: what people are told a model is in. */
function mostCommon<T>(counts: ReadonlyMap<T, number>): T | undefined {
  return [...counts].reduce<readonly [T | undefined, number]>((best, next) => (next[1] > best[1] ? next : best), [undefined, 0])[0];
}
