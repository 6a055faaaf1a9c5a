/** How keys and values are kept: the names people give the types, and which one a model gets when nobody says. Knows no memory and no kernels. */
import type { Caps, KvCacheFormat, WeightDType } from "../backend/backend.ts";
import { invariant, UsageError } from "../core/errors.ts";

/** vLLM's names. */
export type KvCacheDType = "auto" | "float32" | "bfloat16" | "float16";
export const kvCacheDTypes: readonly KvCacheDType[] = ["auto", "float32", "bfloat16", "float16"];

const formats: Readonly<Record<Exclude<KvCacheDType, "auto">, KvCacheFormat>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };
export const kvCacheDTypeOf: Readonly<Record<KvCacheFormat, Exclude<KvCacheDType, "auto">>> = { f32: "float32", bf16: "bfloat16", f16: "float16" };

/**
 * As asked for. "auto": f32 beside f32 weights; bf16 beside smaller ones, which moves every probability by less than those weights did
 * (docs/log.md), takes half the memory and is read in half the time. f16 is eight times finer, and several times slower to widen.
 * Where activations are of 16 bits, so are keys and values, and of their type.
 * @throws UsageError when the device cannot have what is asked for
 */
export function chooseKvFormat(asked: KvCacheDType, weights: WeightDType, { device, kvFormats }: Caps): KvCacheFormat {
  if (kvFormats === "activations") {
    invariant(weights === "bf16" || weights === "f16", `weights of ${weights} on a device of 16 bits`);
    if (asked === "auto" || formats[asked] === weights) return weights;
    throw new UsageError(`kvCacheDtype (--kv-cache-dtype) is ${asked}; device ${device} keeps keys and values in the type it computes in, ${kvCacheDTypeOf[weights]} here: leave it out${asked === "float32" ? "" : `, or pass --dtype ${asked} too`}`);
  }
  if (asked !== "auto") return formats[asked];
  return weights === "f32" ? "f32" : "bf16";
}
