/**
 * Which texts make the machine code of the fixed ops. A module is one file of kernels behind common.cu, and behind another that it shares with its like,
 * for one element type; its kernels are named `kernel_bf16` or `kernel_f16`, and no two modules have one of the same name. Knows no op.
 */
import { kernelText } from "#cuda-sources";
import type { KernelFunction } from "./device.ts";

/** The type of a model's weights, and of what is multiplied with them. */
export type Element = "bf16" | "f16";
export const elements: readonly Element[] = ["bf16", "f16"];

interface ModuleFiles {
  readonly file: string;
  /** What is defined for it beside the element. */
  readonly define?: string;
  /** A text that stands between common.cu and the file's. */
  readonly behind?: string;
}

/** The files of each kind of module. */
const files = {
  norm: { file: "norm" },
  rope: { file: "rope" },
  elementwise: { file: "elementwise" },
  skinny: { file: "linear-skinny" },
  fused: { file: "linear-skinny", define: "FUSED" },
  tiled: { file: "linear-tiled" },
  sample: { file: "sample", behind: "logits" },
  ruled: { file: "ruled", behind: "logits" },
  logprobs: { file: "logprobs", behind: "logits" },
} as const satisfies Readonly<Record<string, ModuleFiles>>;
export type ModuleKind = keyof typeof files;
export const moduleKinds = Object.keys(files) as readonly ModuleKind[];

export interface ModuleName {
  readonly kind: ModuleKind;
  readonly element: Element;
}

/** Finds a kernel of the modules that a command needs. `sharedBytes`: what its launch will ask for. */
export type FindKernel = (name: string, sharedBytes?: number) => KernelFunction;

/** A name for logs and keys: "norm_bf16". */
export const moduleLabel = ({ kind, element }: ModuleName): string => `${kind}_${element}`;

/** CUDA C++ of a module. */
export function moduleText({ kind, element }: ModuleName): string {
  const { file, define, behind }: ModuleFiles = files[kind];
  const defines = [`ELEMENT_${element.toUpperCase()}`, ...(define ? [define] : [])].map((name) => `#define ${name} 1`);
  return [...defines, kernelText("common"), ...(behind ? [kernelText(behind)] : []), kernelText(file)].join("\n");
}
