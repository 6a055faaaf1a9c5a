/**
 * Calls of functions the language has: this package's own, Math's, Number and Boolean. What they mean is JavaScript's; of numbers known now
 * it is JavaScript that computes them.
 */
import { UsageError } from "../core/errors.ts";
import { binary, unary } from "../ir/expr.ts";
import { packageFunctions, realFunctions, roundingFunctions } from "./language.ts";
import { ceilDiv, expression, floorDivI32, literal, numeric, power, quotient, toF32, toI32, truncDiv, truthy, unify, type Value } from "./values.ts";

/** How many arguments a builtin takes. */
const arity: Readonly<Record<string, readonly [number, number]>> = {
  floorDiv: [2, 2], floorMod: [2, 2], clamp: [3, 3], "Math.min": [1, Infinity], "Math.max": [1, Infinity], "Math.hypot": [1, Infinity], "Math.pow": [2, 2], "Math.imul": [2, 2],
};

/** The value of a call. @throws UsageError for a wrong number of arguments, or one that is no number. */
export function builtin(name: string, args: readonly Value[]): Value {
  const [least, most] = arity[name] ?? [1, 1];
  if (args.length < least || args.length > most) throw new UsageError(`${name} takes ${least === most ? least : `at least ${least}`} ${least === 1 ? "argument" : "arguments"}, not ${args.length}`);
  const [a, b, c] = args as [Value, Value, Value];
  if (name === "Boolean") return expression(truthy(a));
  if (args.every((x) => x.kind === "literal")) return literal(onNumbers(name, args.map((x) => (x as Extract<Value, { kind: "literal" }>).value)));
  if (name === "Number") return expression(numeric(a));
  if (name === "floorDiv" || name === "floorMod") {
    const [x, y] = unify(a, b);
    if (x.type === "i32") return expression(binary(name, x, y));
    const whole = unary("floor", binary("div", x, y));
    return expression(name === "floorDiv" ? whole : binary("sub", x, binary("mul", whole, y)));
  }
  const fold = (op: "min" | "max", x: Value, y: Value): Value => expression(binary(op, ...unify(x, y)));
  if (name === "clamp") return fold("min", fold("max", a, b), c);
  const key = name.slice("Math.".length);
  const real = realFunctions[key];
  if (real) return expression(unary(real, toF32(a)));
  const rounding = roundingFunctions[key];
  if (rounding) {
    const whole = rounding === "round" ? undefined : quotient(a, { floor: floorDivI32, trunc: truncDiv, ceil: ceilDiv }[rounding]);
    const x = whole ?? numeric(a);
    return expression(x.type === "i32" ? x : unary(rounding, x));
  }
  switch (key) {
    case "abs": case "sign": return expression(unary(key, numeric(a)));
    case "min": case "max": return args.length === 1 ? expression(numeric(a)) : args.reduce((x, y) => fold(key, x, y));
    case "hypot": return args.length === 1 ? expression(unary("abs", toF32(a))) : expression(args.map(toF32).reduce((x, y) => binary("hypot", x, y)));
    case "pow": return power(a, b);
    case "fround": return expression(toF32(a));
    case "imul": return expression(binary("mul", toI32(a), toI32(b)));
    default: throw new UsageError(`${name} is not in the language`);
  }
}

/** A builtin of numbers known now: JavaScript's own. */
function onNumbers(name: string, args: number[]): number {
  const own = packageFunctions[name];
  if (own) return own(...args);
  if (name === "Number") return args[0]!;
  return (Math as unknown as Record<string, (...args: number[]) => number>)[name.slice("Math.".length)]!(...args);
}
