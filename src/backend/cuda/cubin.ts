/** Which kernels are in machine code: a cubin is an ELF file, and its table of symbols marks them. Knows nothing else of it. */

/** Byte offsets in the header of an ELF file of 64 bits, in that of a section, and in a symbol. */
const file = { sections: 0x28, sectionBytes: 0x3a, numSections: 0x3c } as const;
const section = { type: 0x04, offset: 0x18, bytes: 0x20, link: 0x28 } as const;
const symbol = { name: 0, other: 5, bytes: 24 } as const;
const symbolTable = 2, isKernel = 0x10;

export function kernelsOf(cubin: Uint8Array): string[] {
  const view = new DataView(cubin.buffer, cubin.byteOffset, cubin.byteLength), u32 = (at: number): number => view.getUint32(at, true), u64 = (at: number): number => Number(view.getBigUint64(at, true));
  const textAt = (at: number): string => new TextDecoder().decode(cubin.subarray(at, cubin.indexOf(0, at)));
  const sectionAt = (index: number): number => u64(file.sections) + index * view.getUint16(file.sectionBytes, true);
  const found: string[] = [];
  for (let i = 0; i < view.getUint16(file.numSections, true); i++) {
    const table = sectionAt(i);
    if (u32(table + section.type) !== symbolTable) continue;
    const names = u64(sectionAt(u32(table + section.link)) + section.offset), first = u64(table + section.offset), end = first + u64(table + section.bytes);
    for (let at = first; at < end; at += symbol.bytes) if (view.getUint8(at + symbol.other) & isKernel) found.push(textAt(names + u32(at + symbol.name)));
  }
  return found;
}
