/** Which parts of an expression load, and which of them are asked for for certain: what an emitter needs to guard loads. It knows no machine. */
import { children, type Expr } from "./expr.ts";

/** Remembers what it has found of expressions, which share parts. */
export class Loads {
  readonly #holds = new Map<Expr, boolean>();
  readonly #demands = new Map<Expr, ReadonlySet<Expr>>();

  /** Whether any load is in `e`. */
  holds(e: Expr): boolean {
    let known = this.#holds.get(e);
    if (known === undefined) this.#holds.set(e, (known = e.kind === "load" || children(e).some((c) => this.holds(c))));
    return known;
  }

  /** The parts holding loads that are asked for whichever of two sides is: an emitter writes them once, before both, and not once for each way through. */
  ofBoth(a: Expr, b: Expr): Expr[] {
    const other = this.#demanded(b);
    return [...this.#demanded(a)].filter((node) => other.has(node));
  }

  /** The parts holding loads that are asked for wherever `e` is; operands before what uses them. */
  #demanded(e: Expr): ReadonlySet<Expr> {
    const known = this.#demands.get(e);
    if (known) return known;
    const made = new Set<Expr>();
    if (this.holds(e)) {
      const certain = e.kind === "select" ? [e.condition] : e.kind === "binary" && (e.op === "and" || e.op === "or") ? [e.a] : children(e);
      for (const part of certain) for (const node of this.#demanded(part)) made.add(node);
      if (e.kind === "select") for (const node of this.ofBoth(e.a, e.b)) made.add(node);
      made.add(e);
    }
    this.#demands.set(e, made);
    return made;
  }
}
