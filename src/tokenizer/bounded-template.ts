/**
 * The Jinja interpreter for chat templates, with bounds: on the steps of a rendering, and on the size of every value in it. A template comes
 * with a model, from anywhere; one that never ends, or that doubles its text until memory is gone, ends in an error instead.
 *
 * Every node of a template passes `evaluate`, so that is where steps are counted and values weighed. What one step may do by itself (a join,
 * a replace) is bounded by the sizes that go into it, and by the limits of the thread that this runs in (text.ts). Knows no chat.
 */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** Steps of one rendering: a few seconds of work, and many times what the longest chat takes. */
const defaultSteps = 3_000_000;
/** Characters and items in one value, however often a part of it is in it. */
const maxSize = 4 * 1024 * 1024;

/** What is used of the library's types, which its package says in files that are not found. */
interface Value {
  readonly type: string;
  readonly value: unknown;
}
interface Node {
  readonly type: string;
  /** Of a loop: what it goes over, `lhs` of it where there is a condition. */
  readonly iterable?: Node;
  readonly lhs?: Node;
}
interface Evaluator {
  evaluate(node: Node | undefined, environment: unknown): Value | undefined;
  run(program: unknown): Value;
}

class Bounded extends (Interpreter as new (environment: unknown) => Evaluator) {
  readonly #maxSteps: number;
  #steps = 0;
  /** What loops go over. */
  readonly #looped = new WeakSet<Node>();
  /** Sizes of lists and objects, which never change once they are made. */
  readonly #sizes = new WeakMap<Value, number>();

  constructor(environment: unknown, maxSteps: number) {
    super(environment);
    this.#maxSteps = maxSteps;
  }

  override evaluate(node: Node | undefined, environment: unknown): Value | undefined {
    this.#step(1);
    if (node?.type === "For") this.#looped.add(node.iterable!.lhs ?? node.iterable!);
    const value = super.evaluate(node, environment);
    // A filter of nothing ("first" of an empty list) gives undefined itself.
    if (value === undefined) return value;
    if (this.#size(value) > maxSize) throw new Error(`it makes a text or a list of more than ${maxSize} characters; send less`);
    // Each turn of a loop is a step, where its body has none too.
    if (node && this.#looped.has(node)) this.#step(Array.isArray(value.value) ? value.value.length : 1);
    return value;
  }

  #step(count: number): void {
    this.#steps += count;
    if (this.#steps > this.#maxSteps) throw new Error(`it takes more than ${this.#maxSteps} steps; send less`);
  }

  /** Of parts that were made here each is known already, so this goes no deeper than data from outside does. */
  #size(value: Value): number {
    const content = value.value;
    if (typeof content === "string") return content.length;
    // Written out, a function would show this program's source.
    if (typeof content === "function") content.toString = () => "<function>";
    // What a namespace holds changes, and was weighed as it came.
    if (typeof content !== "object" || content === null || value.type === "NamespaceValue") return 1;
    let size = this.#sizes.get(value);
    if (size === undefined) {
      size = 1;
      for (const part of (content as ReadonlyMap<string, Value> | readonly Value[]).values()) size += part === undefined ? 1 : this.#size(part);
      if (content instanceof Map) for (const key of content.keys()) size += (key as string).length;
      this.#sizes.set(value, size);
    }
    return size;
  }
}

/** Python's range, no longer than a value may be. */
function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  if (step === 0) throw new Error("range() step must not be zero");
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= maxSize)) throw new Error(`range() gives ${length} numbers, and at most ${maxSize} are taken`);
  return Array.from({ length }, (_, i) => from + i * step);
}

const two = (n: number): string => String(n).padStart(2, "0");
const month = (date: Date, style: "short" | "long"): string => date.toLocaleString("en", { month: style });
const dateParts: Readonly<Record<string, (date: Date) => string>> = {
  "%Y": (date) => String(date.getFullYear()), "%m": (date) => two(date.getMonth() + 1), "%d": (date) => two(date.getDate()), "%b": (date) => month(date, "short"), "%B": (date) => month(date, "long"),
  "%H": (date) => two(date.getHours()), "%M": (date) => two(date.getMinutes()), "%%": () => "%",
};

/** What templates find besides the variables that they are given. */
const globals: Readonly<Record<string, unknown>> = {
  true: true, false: false, none: null, True: true, False: false, None: null, range,
  raise_exception: (message: unknown) => {
    throw new Error(String(message));
  },
  strftime_now: (format: string) => format.replace(/%[YmdbBHM%]/g, (part) => dateParts[part]!(new Date())),
};

/** `source` as a function of its variables. Throws what the parser does; the function throws what the template raises, and where it goes beyond bounds. */
export function compileTemplate(source: string, maxSteps = defaultSteps): (variables: Readonly<Record<string, unknown>>) => string {
  const program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  return (variables) => {
    const environment = new Environment();
    for (const [name, value] of Object.entries({ ...globals, ...variables })) environment.set(name, value);
    return new Bounded(environment, maxSteps).run(program).value as string;
  };
}
