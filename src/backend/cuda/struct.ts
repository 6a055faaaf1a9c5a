/**
 * A kernel's parameters: one list of members, from which both the C++ struct and its bytes are made, so that they cannot differ.
 *
 * Members of 8 bytes come before those of 4, so there is no padding but at the end. Knows no kernel.
 */
import { invariant } from "../../core/errors.ts";

export interface Field {
  readonly name: string;
  readonly type: "pointer" | "i64" | "i32" | "f32";
  /** What a pointer points to: "const float". */
  readonly to?: string;
}

const cType: Readonly<Record<Exclude<Field["type"], "pointer">, string>> = { i64: "long long", i32: "int", f32: "float" };
const bytesOf = (field: Field): number => (field.type === "pointer" || field.type === "i64" ? 8 : 4);

export class Struct {
  /** `struct Params { ... };` */
  readonly text: string;
  readonly bytes: number;
  readonly #fields: readonly Field[];

  constructor(fields: readonly Field[]) {
    this.#fields = fields.toSorted((a, b) => bytesOf(b) - bytesOf(a));
    const members = this.#fields.map((f) => `  ${f.type === "pointer" ? `${f.to!}*` : cType[f.type]} ${f.name};`);
    this.text = ["struct Params {", ...members, "};"].join("\n");
    this.bytes = Math.ceil(fields.reduce((sum, f) => sum + bytesOf(f), 0) / 8) * 8;
  }

  /** The bytes of one launch; every member must be given, by name. Pointers are device addresses, 0 for none. */
  pack(values: Readonly<Record<string, number>>): Uint8Array {
    const view = new DataView(new ArrayBuffer(this.bytes));
    let at = 0;
    for (const field of this.#fields) {
      const value = values[field.name];
      invariant(value !== undefined, `parameter ${field.name} is not given`);
      if (field.type === "i32") view.setInt32(at, value, true);
      else if (field.type === "f32") view.setFloat32(at, value, true);
      else view.setBigInt64(at, BigInt(value), true);
      at += bytesOf(field);
    }
    return new Uint8Array(view.buffer);
  }
}
