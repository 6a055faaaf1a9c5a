/**
 * An assembler of WebAssembly modules: instructions are typed trees, written out twice: as bytes to run and as text to read.
 *
 *   const m = new Module();
 *   m.func("add", { a: "i32", b: "i32" }, "i32", ({ a, b }) => [i32.add(a, b)]);
 *   m.bytes(); m.text();
 *
 * An ill-typed instruction can not be built. The memory is imported as env.memory (shared); `m.memory("weights")` is another, or the same,
 * and an address in it is written `weights.at(address)`. It knows opcodes, not kernels.
 */
import { invariant } from "../../core/errors.ts";
import { Bytes } from "./bytes.ts";
import { opcodes, type Opcode } from "./opcodes.ts";

export type ValueType = "i32" | "i64" | "f32" | "f64" | "v128";

/** One instruction with its operands. `type` is what it leaves on the stack. */
export interface Node {
  readonly op: Opcode | "const" | "get" | "set" | "tee" | "call" | "call_indirect" | "block" | "loop" | "if" | "br" | "br_if" | "comment" | "at";
  readonly type: ValueType | "none";
  readonly operands: readonly Node[];
  readonly numbers?: readonly number[];
  readonly text?: string;
  readonly local?: Local;
  readonly label?: Label;
  readonly body?: readonly Node[];
  readonly otherwise?: readonly Node[];
  readonly signature?: Signature;
  /** Which memory a load or store means, where it is not the first. */
  readonly memory?: Memory;
}

/** A variable of a function. As an operand it means its value. */
export class Local {
  readonly type: ValueType;
  readonly name: string;
  index = -1;
  constructor(type: ValueType, name: string) {
    this.type = type;
    this.name = name;
  }
  get get(): Node {
    return { op: "get", type: this.type, operands: [], local: this };
  }
  set(value: Operand): Node {
    return { op: "set", type: "none", operands: [operand(value, this.type, this.name)], local: this };
  }
  tee(value: Operand): Node {
    return { op: "tee", type: this.type, operands: [operand(value, this.type, this.name)], local: this };
  }
}

export type Operand = Node | Local | number;

/** A memory beside the first, which it may also be: `Module.bytes` says. */
export class Memory {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
  /** An address in this memory: a load or store takes it as its address, nothing else does. */
  at(address: Operand): Node {
    return { op: "at", type: "i32", operands: [operand(address, "i32", this.name)], memory: this };
  }
}
/** Where a branch goes: the end of a block, the start of a loop. */
export interface Label { readonly name: string }
interface Signature { readonly params: readonly ValueType[]; readonly results: readonly ValueType[] }
/** A function of the module; `call(f, ...)` calls it. */
export interface Func { readonly name: string; readonly signature: Signature; index: number }

const letters: Readonly<Record<string, ValueType>> = { i: "i32", l: "i64", f: "f32", d: "f64", v: "v128" };
const typeBytes: Readonly<Record<ValueType, number>> = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b };

interface Shape {
  readonly params: readonly ValueType[];
  readonly result: ValueType | "none";
  readonly align: number;
  readonly lane: boolean;
  readonly shuffle: boolean;
  /** 0: the code stands alone, as one byte. */
  readonly prefix: number;
  readonly code: number;
}
const shapes = new Map<Node["op"], Shape>();
for (const [op, [code, signature]] of Object.entries(opcodes) as [Opcode, readonly [number | readonly [number, number], string]][]) {
  const [types, ...immediates] = signature.split(" ");
  const [params, result] = types!.split(">");
  const memory = immediates.find((i) => i.startsWith("m"));
  shapes.set(op, {
    params: [...params!].map((c) => letters[c]!), result: result ? letters[result]! : "none",
    align: memory ? Number(memory[1]) : -1, lane: immediates.includes("n"), shuffle: immediates.includes("s"),
    prefix: typeof code === "number" ? 0 : code[0], code: typeof code === "number" ? code : code[1],
  });
}

export function constant(type: ValueType, value: number): Node {
  return { op: "const", type, operands: [], numbers: [value] };
}

function operand(x: Operand, type: ValueType, where: string): Node {
  const node = typeof x === "number" ? constant(type, x) : x instanceof Local ? x.get : x;
  // Messages are made only where something is wrong: there are thousands of operands in a kernel.
  if (node.type !== type) invariant(false, `${where}: an operand is ${node.type}, ${type} expected`);
  if (node.op === "at") invariant(false, `${where}: an address in ${node.memory!.name} is no number to compute with`);
  return node;
}

const none: readonly number[] = [];

/**
 * An instruction. After the operands come the immediates: a byte offset for memory instructions (default 0), a lane number,
 * or the 16 lanes of a shuffle.
 */
export function instruction(op: Opcode, ...args: readonly (Operand | readonly number[])[]): Node {
  const shape = shapes.get(op)!;
  const place = args[0];
  if (shape.align >= 0 && typeof place === "object" && "op" in place && place.op === "at") {
    return { ...instruction(op, place.operands[0]!, ...args.slice(1)), memory: place.memory! };
  }
  const operands = shape.params.map((type, i) => operand(args[i] as Operand, type, op));
  if (shape.align < 0 && !shape.lane && !shape.shuffle && args.length === operands.length) return { op, type: shape.result, operands, numbers: none };
  let rest = args.slice(shape.params.length);
  const numbers: number[] = [];
  if (shape.shuffle) numbers.push(...(rest.shift() as readonly number[]));
  if (shape.align >= 0) {
    const wanted = shape.lane ? 2 : 1;
    if (rest.length < wanted) rest = shape.lane ? [rest[0]!, 0] : [0];
    numbers.push(rest[shape.lane ? 1 : 0] as number);
    if (shape.lane) numbers.push(rest[0] as number);
    rest = [];
  } else if (shape.lane) numbers.push(rest.shift() as number);
  if (rest.length > 0 || !numbers.every((n) => Number.isInteger(n) && n >= 0)) invariant(false, `${op}: wrong immediates`);
  return { op, type: shape.result, operands, numbers };
}

type Namespace<P extends string> = {
  readonly [K in Opcode as K extends `${P}.${infer Name}` ? Name : never]: (...args: readonly (Operand | readonly number[])[]) => Node;
};
function namespace<P extends string>(prefix: P): Namespace<P> {
  const members = (Object.keys(opcodes) as Opcode[]).filter((op) => op.startsWith(`${prefix}.`))
    .map((op) => [op.slice(prefix.length + 1), (...args: readonly (Operand | readonly number[])[]) => instruction(op, ...args)]);
  return Object.fromEntries(members) as Namespace<P>;
}

export const i32 = namespace("i32");
export const i64 = namespace("i64");
export const f32 = namespace("f32");
export const f64 = namespace("f64");
export const v128 = namespace("v128");
export const i8x16 = namespace("i8x16");
export const i16x8 = namespace("i16x8");
export const i32x4 = namespace("i32x4");
export const i64x2 = namespace("i64x2");
export const f32x4 = namespace("f32x4");
export const f64x2 = namespace("f64x2");
export const memory = namespace("memory");
export const drop = (x: Operand): Node => instruction("drop.i32", x);

/** A vector constant of four equal lanes. */
export const splat = {
  f32: (x: number): Node => ({ op: "const", type: "v128", operands: [], numbers: [x, x, x, x], text: "f32x4" }),
  i32: (x: number): Node => ({ op: "const", type: "v128", operands: [], numbers: [x, x, x, x], text: "i32x4" }),
  f64: (x: number): Node => ({ op: "const", type: "v128", operands: [], numbers: [x, x], text: "f64x2" }),
};
/** A vector constant of four i32 lanes. */
export const lanes = (...numbers: readonly [number, number, number, number]): Node => ({ op: "const", type: "v128", operands: [], numbers, text: "i32x4" });

export const comment = (text: string): Node => ({ op: "comment", type: "none", operands: [], text });
export const leave = (...value: readonly Node[]): Node => ({ op: "return", type: "none", operands: value });
export const call = (f: Func, ...args: readonly Operand[]): Node => {
  invariant(args.length === f.signature.params.length, `${f.name} takes ${f.signature.params.length} arguments`);
  return { op: "call", type: f.signature.results[0] ?? "none", operands: args.map((a, i) => operand(a, f.signature.params[i]!, f.name)), text: f.name };
};
export const callIndirect = (signature: Signature, index: Operand, ...args: readonly Operand[]): Node => ({
  op: "call_indirect", type: signature.results[0] ?? "none", signature,
  operands: [...args.map((a, i) => operand(a, signature.params[i]!, "call_indirect")), operand(index, "i32", "call_indirect")],
});
/** Instructions that a branch to the label leaves. */
export function block(name: string, body: (end: Label) => readonly Node[]): Node {
  const label: Label = { name };
  return { op: "block", type: "none", operands: [], label, body: body(label) };
}
/** Instructions that a branch to the label starts again. */
export function loop(name: string, body: (start: Label) => readonly Node[]): Node {
  const label: Label = { name };
  return { op: "loop", type: "none", operands: [], label, body: body(label) };
}
export const branch = (label: Label): Node => ({ op: "br", type: "none", operands: [], label });
export const branchIf = (label: Label, condition: Operand): Node => ({ op: "br_if", type: "none", operands: [operand(condition, "i32", "br_if")], label });
export const when = (condition: Operand, then: readonly Node[], otherwise?: readonly Node[]): Node => ({
  op: "if", type: "none", operands: [operand(condition, "i32", "if")], body: then, ...(otherwise ? { otherwise } : {}),
});

/** for (i = from; i < to; i += step) body. `to` and `step` are evaluated each time around: pass locals or constants. */
export function forRange(i: Local, from: Operand, to: Operand, step: Operand, body: readonly Node[]): Node {
  return block(`end_${i.name}`, (end) => [
    i.set(from),
    branchIf(end, i32.ge_s(i, to)),
    loop(`next_${i.name}`, (next) => [...body, branchIf(next, i32.lt_s(i.tee(i32.add(i, step)), to))]),
  ]);
}

interface Built { readonly func: Func; readonly params: readonly Local[]; readonly locals: readonly Local[]; readonly body: readonly Node[]; readonly exported: boolean }

/** A module in the making. */
export class Module {
  readonly #functions: Built[] = [];
  readonly #types: Signature[] = [];
  readonly #usesTable: boolean;
  readonly #memories: Memory[] = [];

  /** `table: true` imports env.table, for call_indirect. */
  constructor(options: { table?: boolean } = {}) {
    this.#usesTable = options.table ?? false;
  }

  /** Another memory: the same for the same name. */
  memory(name: string): Memory {
    const known = this.#memories.find((m) => m.name === name);
    if (known) return known;
    const memory = new Memory(name);
    this.#memories.push(memory);
    return memory;
  }

  /** Names of the memories beside the first. */
  get memories(): string[] {
    return this.#memories.map((m) => m.name);
  }

  /** Adds a function. `local(type, name)` makes a variable; a name used twice gets a number. Internal functions are not exported. */
  func<P extends Readonly<Record<string, ValueType>>>(
    name: string, params: P, result: ValueType | "none",
    build: (params: { readonly [K in keyof P]: Local }, local: (type: ValueType, name: string) => Local) => readonly Node[],
    options: { internal?: boolean } = {},
  ): Func {
    const func: Func = { name, signature: { params: Object.values(params), results: result === "none" ? [] : [result] }, index: -1 };
    const paramLocals = Object.fromEntries(Object.entries(params).map(([k, t]) => [k, new Local(t, k)])) as { [K in keyof P]: Local };
    const used = new Set(Object.keys(params));
    const locals: Local[] = [];
    const local = (type: ValueType, wanted: string): Local => {
      let unique = wanted;
      for (let n = 2; used.has(unique); n++) unique = `${wanted}_${n}`;
      used.add(unique);
      const made = new Local(type, unique);
      locals.push(made);
      return made;
    };
    const body = build(paramLocals, local);
    const ordered = [...Object.values<Local>(paramLocals), ...locals];
    ordered.forEach((l, i) => (l.index = i));
    func.index = this.#functions.length;
    this.#functions.push({ func, params: Object.values<Local>(paramLocals), locals, body, exported: !options.internal });
    return func;
  }

  /** Names of the exported functions, in order. */
  get exports(): string[] {
    return this.#functions.filter((f) => f.exported).map((f) => f.func.name);
  }

  /**
   * The module in WebAssembly's binary format. The memories in `apart` are imported, in that order, as env.<name>; the others are
   * the first memory, so that nothing is lost where one is enough (V8 keeps only the first memory's base in a register).
   */
  bytes(apart: readonly string[] = []): Uint8Array<ArrayBuffer> {
    invariant(apart.every((name) => this.memories.includes(name)), `memories ${apart.join(", ")}; the module has ${this.memories.join(", ")}`);
    const all = this.#functions.map((b) => b.func);
    for (const f of all) this.#typeIndex(f.signature);
    const out = new Bytes(), body = new Bytes(), code = new Bytes(), one = new Bytes();
    const indices = new Map(all.map((f) => [f.name, f.index]));
    // Writing functions may add types, so it comes before the type section.
    code.vector(this.#functions, (f) => code.sized(one, () => this.#encodeFunction(f, indices, apart, one)));
    const section = (id: number, write: () => void): void => {
      out.byte(id);
      out.sized(body, write);
    };
    const types = (list: readonly ValueType[]): void => body.vector(list, (type) => body.byte(typeBytes[type]));
    for (const byte of [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0]) out.byte(byte);
    section(1, () => body.vector(this.#types, (t) => {
      body.byte(0x60);
      types(t.params);
      types(t.results);
    }));
    section(2, () => {
      const entry = (name: string, ...rest: readonly number[]): void => {
        body.text("env");
        body.text(name);
        for (const n of rest) body.unsigned(n);
      };
      body.unsigned(1 + apart.length + Number(this.#usesTable));
      entry("memory", 0x02, 0x03, 1, 65536);
      for (const name of apart) entry(name, 0x02, 0x03, 0, 65536); // it may have no page yet
      if (this.#usesTable) entry("table", 0x01, 0x70, 0x00, 0);
    });
    section(3, () => body.vector(this.#functions, (f) => body.unsigned(this.#typeIndex(f.func.signature))));
    section(7, () => body.vector(this.#functions.filter((f) => f.exported), ({ func }) => {
      body.text(func.name);
      body.byte(0x00);
      body.unsigned(func.index);
    }));
    section(10, () => body.append(code));
    // Function names, so that traps and profiles name kernels.
    section(0, () => {
      body.text("name");
      body.byte(1);
      body.sized(one, () => one.vector(all, (f) => {
        one.unsigned(f.index);
        one.text(f.name);
      }));
    });
    invariant(all.every((f) => f.index >= 0), "every function has an index");
    return out.done();
  }

  /** The module as indented text, folded as in WebAssembly's text format, for people and snapshots. */
  text(): string {
    const out: string[] = [];
    for (const f of this.#functions) {
      const params = f.params.map((p) => `${p.name}: ${p.type}`).join(", ");
      const result = f.func.signature.results[0];
      out.push(`func ${f.func.name}(${params})${result ? `: ${result}` : ""} {`);
      const byType = new Map<ValueType, string[]>();
      for (const l of f.locals) byType.set(l.type, [...(byType.get(l.type) ?? []), l.name]);
      for (const [type, names] of byType) out.push(`  var ${names.join(", ")}: ${type}`);
      for (const node of f.body) print(node, 1, out);
      out.push("}", "");
    }
    return out.join("\n");
  }

  #typeIndex(signature: Signature): number {
    const same = (t: Signature): boolean => t.params.join() === signature.params.join() && t.results.join() === signature.results.join();
    const found = this.#types.findIndex(same);
    return found >= 0 ? found : this.#types.push(signature) - 1;
  }

  #encodeFunction(f: Built, functions: ReadonlyMap<string, number>, apart: readonly string[], out: Bytes): void {
    const runs: [ValueType, number][] = [];
    for (const l of f.locals) {
      const last = runs.at(-1);
      if (last && last[0] === l.type) last[1]++;
      else runs.push([l.type, 1]);
    }
    out.vector(runs, ([type, n]) => {
      out.unsigned(n);
      out.byte(typeBytes[type]);
    });
    const labels: Label[] = [];
    const depth = (label: Label): void => {
      const at = labels.lastIndexOf(label);
      invariant(at >= 0, `branch to ${label.name} from outside it`);
      out.unsigned(labels.length - 1 - at);
    };
    const inside = (label: Label, body: readonly Node[]): void => {
      labels.push(label);
      for (const n of body) write(n);
      labels.pop();
    };
    const withIndex = (code: number, index: number): void => {
      out.byte(code);
      out.unsigned(index);
    };
    const write = (n: Node): void => {
      for (const o of n.operands) write(o);
      const shape = shapes.get(n.op);
      if (shape) return writeInstruction(shape, n.numbers, n.memory ? 1 + apart.indexOf(n.memory.name) : 0, out);
      switch (n.op) {
        case "comment": break;
        case "const": writeConst(n, out); break;
        case "get": withIndex(0x20, n.local!.index); break;
        case "set": withIndex(0x21, n.local!.index); break;
        case "tee": withIndex(0x22, n.local!.index); break;
        case "call": withIndex(0x10, functions.get(n.text!)!); break;
        case "call_indirect": withIndex(0x11, this.#typeIndex(n.signature!)); out.byte(0x00); break;
        case "block": withIndex(0x02, 0x40); inside(n.label!, n.body!); out.byte(0x0b); break;
        case "loop": withIndex(0x03, 0x40); inside(n.label!, n.body!); out.byte(0x0b); break;
        case "if": {
          const anonymous: Label = { name: "if" };
          withIndex(0x04, 0x40);
          inside(anonymous, n.body!);
          if (n.otherwise) { out.byte(0x05); inside(anonymous, n.otherwise); }
          out.byte(0x0b);
          break;
        }
        case "br": out.byte(0x0c); depth(n.label!); break;
        case "br_if": out.byte(0x0d); depth(n.label!); break;
      }
    };
    for (const n of f.body) write(n);
    out.byte(0x0b);
  }
}

function writeInstruction({ prefix, code, align, lane, shuffle }: Shape, numbers: readonly number[] = [], memory: number, out: Bytes): void {
  if (prefix === 0) out.byte(code);
  else {
    out.byte(prefix);
    out.unsigned(code);
  }
  if (shuffle) for (const n of numbers) out.byte(n);
  else if (align >= 0) {
    if (memory === 0) out.byte(align);
    else {
      out.byte(align | 0x40); // bit 6: the memory's index follows
      out.unsigned(memory);
    }
    out.unsigned(numbers[0]!);
    if (lane) out.byte(numbers[1]!);
  } else if (lane) out.byte(numbers[0]!);
}

function writeConst({ type, text, numbers }: Node, out: Bytes): void {
  const value = numbers![0]!;
  switch (type) {
    case "i32": out.byte(0x41); return out.signed(value | 0);
    case "i64": out.byte(0x42); return out.signed64(BigInt(value));
    case "f32": out.byte(0x43); return out.f32(value);
    case "f64": out.byte(0x44); return out.f64(value);
    default:
      out.byte(0xfd);
      out.byte(0x0c);
      for (const x of numbers!) {
        if (text === "f64x2") out.f64(x);
        else if (text === "f32x4") out.f32(x);
        else out.i32(x);
      }
  }
}

const width = 118;
function inline(n: Node): string {
  switch (n.op) {
    case "get": return n.local!.name;
    case "const": return n.type === "v128" ? `${n.text}(${n.numbers!.every((x) => Object.is(x, n.numbers![0])) ? n.numbers![0] : n.numbers!.join(" ")})` : `${n.numbers![0]}${n.type === "f32" ? "f" : ""}`;
    case "set": return `${n.local!.name} = ${inline(n.operands[0]!)}`;
    case "tee": return `(${n.local!.name} := ${inline(n.operands[0]!)})`;
    case "call": return `${n.text}(${n.operands.map(inline).join(", ")})`;
    default: {
      const shape = shapes.get(n.op as Opcode);
      const numbers = n.numbers ?? [];
      const memoryOffset = shape && shape.align >= 0 && numbers[0] ? [`offset=${numbers[0]}`] : [];
      const rest = shape && shape.align >= 0 ? (shape.lane ? [`lane=${numbers[1]}`] : []) : numbers.length ? [numbers.join(" ")] : [];
      const [first, ...others] = n.operands.map(inline);
      const operands = first === undefined ? [] : [n.memory ? `${n.memory.name}[${first}]` : first, ...others];
      return `${n.op}(${[...operands, ...memoryOffset, ...rest].join(", ")})`;
    }
  }
}

function print(n: Node, depth: number, out: string[]): void {
  const pad = "  ".repeat(depth);
  switch (n.op) {
    case "comment": out.push(`${pad};; ${n.text}`); return;
    case "block": case "loop":
      out.push(`${pad}${n.op} ${n.label!.name} {`);
      for (const b of n.body!) print(b, depth + 1, out);
      out.push(`${pad}}`);
      return;
    case "if":
      out.push(`${pad}if ${inline(n.operands[0]!)} {`);
      for (const b of n.body!) print(b, depth + 1, out);
      if (n.otherwise) { out.push(`${pad}} else {`); for (const b of n.otherwise) print(b, depth + 1, out); }
      out.push(`${pad}}`);
      return;
    case "br": out.push(`${pad}br ${n.label!.name}`); return;
    case "br_if": out.push(`${pad}br_if ${n.label!.name}, ${inline(n.operands[0]!)}`); return;
    default: {
      const line = `${pad}${inline(n)}`;
      if (line.length <= width || n.operands.length === 0) { out.push(line); return; }
      // Too long for a line: one operand a line.
      const head = n.op === "set" ? `${n.local!.name} =` : n.op === "call" ? n.text! : n.op;
      out.push(`${pad}${head}(`);
      for (const o of n.operands) print(o, depth + 1, out);
      out.push(`${pad})${n.numbers?.length ? ` ${n.numbers.join(" ")}` : ""}${n.memory ? ` in ${n.memory.name}` : ""}`);
    }
  }
}
