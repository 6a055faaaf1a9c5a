/** How keys and values are kept: the names people give the types, and which one a model gets when nobody says. Knows no memory and no kernels. */
import type { KvCacheFormat } from "../backend/backend.ts";

/** vLLM's names. */
export type KvCacheDType = "auto" | "float32" | "bfloat16" | "float16";
export const kvCacheDTypes: readonly KvCacheDType[] = ["auto", "float32", "bfloat16", "float16"];

const formats: Readonly<Record<Exclude<KvCacheDType, "auto">, KvCacheFormat>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };
export const kvCacheDTypeOf: Readonly<Record<KvCacheFormat, Exclude<KvCacheDType, "auto">>> = { f32: "float32", bf16: "bfloat16", f16: "float16" };

/** As asked for. "auto": f32 beside f32 weights; where weights are smaller than that, f32 as well until a 16-bit type is measured. */
export function chooseKvFormat(asked: KvCacheDType): KvCacheFormat {
  return asked === "auto" ? "f32" : formats[asked];
}
