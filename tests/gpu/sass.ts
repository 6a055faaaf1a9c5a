/**
 * The machine code of kernels, counted: reads a cubin's ELF, and tells how often each instruction that matters stands in a kernel. Needs no tool of CUDA's.
 *
 * An instruction of Volta and later (sm_70 to sm_90) has 16 bytes; its lowest 9 bits are the operation, the three above them say where operands come from.
 * The numbers are NVIDIA's, and written down nowhere: sass.test.ts finds each again in a kernel that must have it. Counts are of the code as it lies there,
 * not of what runs: a loop's body counts once. Knows no kernel.
 */
import { invariant } from "../../src/core/errors.ts";

/** Operations by name; those of several numbers are counted together. */
export const opcodes = {
  FFMA: [0x023], HMMA: [0x03c], MUFU: [0x108], LDSM: [0x03b], LDG: [0x181], LDGSTS: [0x1ae], STG: [0x186], BAR: [0x11d], BRA: [0x147],
} as const satisfies Readonly<Record<string, readonly number[]>>;
export type Opcode = keyof typeof opcodes;

export interface KernelCode {
  readonly kernel: string;
  /** Of machine code, the padding at its end included. */
  readonly bytes: number;
  readonly counts: Readonly<Record<Opcode, number>>;
  /** Every operation by its 9 bits. */
  readonly histogram: ReadonlyMap<number, number>;
}

/** Of an ELF file of 64 bits: where its header says what, and of a section's header. */
const header = { sections: 0x28, numSections: 0x3c, names: 0x3e } as const, section = { bytes: 64, name: 0, offset: 24, size: 32 } as const;
const instructionBytes = 16, operationMask = 0x1ff;
/** A kernel's code is in a section of its own. */
const codePrefix = ".text.";

/** Sections of a cubin, by name. */
export function sectionsOf(cubin: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(cubin.buffer, cubin.byteOffset, cubin.byteLength);
  invariant(cubin.length > 64 && view.getUint32(0) === 0x7f454c46 && cubin[4] === 2, "a cubin is an ELF file of 64 bits");
  const first = Number(view.getBigUint64(header.sections, true)), count = view.getUint16(header.numSections, true);
  const at = (i: number) => {
    const base = first + section.bytes * i;
    return { name: view.getUint32(base + section.name, true), offset: Number(view.getBigUint64(base + section.offset, true)), size: Number(view.getBigUint64(base + section.size, true)) };
  };
  const names = at(view.getUint16(header.names, true)).offset;
  return new Map(Array.from({ length: count }, (_, i) => {
    const { name, offset, size } = at(i), from = names + name;
    return [new TextDecoder().decode(cubin.subarray(from, cubin.indexOf(0, from))), cubin.subarray(offset, offset + size)];
  }));
}

/** Every kernel of a cubin, in the order of their names. */
export function codeOf(cubin: Uint8Array): readonly KernelCode[] {
  const kernels = [...sectionsOf(cubin)].filter(([name]) => name.startsWith(codePrefix)).map(([name, code]): KernelCode => {
    invariant(code.length > 0 && code.length % instructionBytes === 0, `${name} has ${code.length} bytes, no whole number of instructions`);
    const view = new DataView(code.buffer, code.byteOffset, code.byteLength), histogram = new Map<number, number>();
    for (let at = 0; at < code.length; at += instructionBytes) {
      const operation = view.getUint16(at, true) & operationMask;
      histogram.set(operation, (histogram.get(operation) ?? 0) + 1);
    }
    const counts = Object.fromEntries(Object.entries(opcodes).map(([opcode, numbers]) => [opcode, numbers.reduce((sum: number, n) => sum + (histogram.get(n) ?? 0), 0)]));
    return { kernel: name.slice(codePrefix.length), bytes: code.length, counts: counts as Record<Opcode, number>, histogram };
  });
  return kernels.toSorted((a, b) => (a.kernel < b.kernel ? -1 : 1));
}

/** "linear8_bf16               9.3 KiB   HMMA 64 ..." */
export function lineOf({ kernel, bytes, counts }: KernelCode): string {
  return `${kernel.padEnd(26)} ${(bytes / 1024).toFixed(1).padStart(6)} KiB   ${Object.entries(counts).map(([opcode, n]) => `${opcode} ${String(n).padEnd(5)}`).join(" ").trimEnd()}`;
}
