/** Random programs in the language: what the compiler makes of a function's text is what JavaScript does with it, whatever is assigned and returned where. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ModError, scoreMod } from "../../src/attention/index.ts";
import { stream } from "../../src/core/random.ts";
import { evaluator } from "../../src/ir/interpret.ts";
import { print } from "../../src/ir/print.ts";

/** The text of a function of small integers, which 32 bits hold: lets and vars, branches, early returns, loops, helpers that assign outside themselves, assignments in expressions. */
function program(seed: number): string {
  const random = stream(seed);
  const below = (n: number): number => Math.floor(random() * n);
  const pick = <T>(...of: readonly T[]): T => of[below(of.length)]!;
  let names = 0, size = 0;

  /** An integer; sometimes assigns to one of `own` on the way. */
  const number = (vars: readonly string[], own: readonly string[], helpers: readonly string[], depth: number): string => {
    size++;
    if (depth <= 0 || size > 90) return pick(...vars, String(below(9)));
    const next = (): string => number(vars, own, helpers, depth - 1);
    switch (below(own.length > 0 ? 12 : 8)) {
      case 0: case 1: return pick(...vars);
      case 2: return `((${next()} ${pick("+", "-")} ${next()}) & 1023)`;
      case 3: return `(${next()} ${pick("&", "|", "^")} ${next()})`;
      case 4: return `(${condition(vars, own, helpers, depth - 1)} ? ${next()} : ${next()})`;
      case 5: return helpers.length > 0 ? `${pick(...helpers)}(${next()})` : `(0 - ${next()})`;
      case 6: return `Math.${pick("min", "max")}(${next()}, ${next()})`;
      case 7: return `(${next()} ${pick("&&", "||")} ${next()})`;
      case 8: return pick(`(${pick(...own)} = ${next()})`, `(${pick(...own)} ${pick("+=", "-=")} (${next()} & 7))`);
      case 9: return pick(`${pick(...own)}++`, `--${pick(...own)}`);
      case 10: return `(${pick(...own)} = ${next()}, ${next()})`;
      default: return `(${next()} & 7)`;
    }
  };
  const condition = (vars: readonly string[], own: readonly string[], helpers: readonly string[], depth: number): string => {
    const n = (): string => number(vars, own, helpers, depth - 1), c = (): string => condition(vars, own, helpers, depth - 1);
    if (depth <= 0) return `${pick(...vars)} ${pick("<", ">=", "===")} ${pick(...vars)}`;
    return pick(() => `${n()} ${pick("<", "<=", ">", "===", "!==")} ${n()}`, () => `(${c()} ${pick("&&", "||")} ${c()})`, () => `!(${c()})`, () => `(${n()} & 1)`)();
  };
  const block = (outer: readonly string[], owned: readonly string[], known: readonly string[], depth: number, mayReturn: boolean): string[] => {
    const vars = [...outer], own = [...owned], helpers = [...known], lines: string[] = [];
    for (let n = 1 + below(4); n > 0; n--) {
      const nested = (more: readonly string[] = []): string => `{ ${block([...vars, ...more], own, helpers, depth - 1, mayReturn).join(" ")} }`;
      switch (depth <= 0 || size > 90 ? below(3) : below(9)) {
        case 0: case 1: {
          const name = `v${names++}`;
          lines.push(`${pick("let", "var")} ${name} = ${number(vars, own, helpers, 2)};`);
          vars.push(name);
          own.push(name);
          break;
        }
        case 2: if (own.length > 0) lines.push(`${pick(...own)} ${pick("=", "+=")} ${number(vars, own, helpers, 2)} & 255;`); break;
        case 3: lines.push(`if (${condition(vars, own, helpers, 2)}) ${nested()}${pick("", ` else ${nested()}`)}`); break;
        case 4: if (mayReturn) lines.push(`if (${condition(vars, own, helpers, 2)}) return ${number(vars, own, helpers, 2)};`); break;
        case 5: {
          const i = `i${names++}`;
          lines.push(pick(`for (let ${i} = 0; ${i} < 3; ${i}++) ${nested([i])}`, `{ let ${i} = 2; while (${i}-- > 0) ${nested([i])} }`));
          break;
        }
        case 6: {
          const f = `f${names++}`, x = `x${names++}`;
          lines.push(`const ${f} = (${x}) => { ${block([...vars, x], [...own, x], helpers, depth - 1, true).join(" ")} if (${condition([...vars, x], [], [], 1)}) return ${x}; ${block([...vars, x], own, helpers, 0, true).join(" ")} return ${number([...vars, x], own, helpers, 1)}; };`);
          helpers.push(f);
          const result = `v${names++}`;
          lines.push(`let ${result} = ${f}(${number(vars, own, helpers, 1)});`);
          vars.push(result);
          own.push(result);
          break;
        }
        case 7: if (own.length > 0) lines.push(`${condition(vars, own, helpers, 1)} ${pick("&&", "||")} (${pick(...own)} = ${number(vars, own, helpers, 1)});`); break;
        default: if (own.length > 0) lines.push(`${condition(vars, own, helpers, 1)} ? ${pick(...own)}++ : (${pick(...own)} -= 2, ${pick(...own)} ^= 1);`);
      }
    }
    return lines;
  };
  const inputs = ["b", "h", "q", "kv"];
  const body = block(inputs, [], [], 3, true);
  return `(score, b, h, q, kv) => { ${body.join(" ")} return ${number(inputs, [], [], 2)}; }`;
}

test("random programs mean what JavaScript says", () => {
  let compiled = 0, branching = 0;
  for (let seed = 0; seed < 1500; seed++) {
    const text = program(seed);
    const f = new Function(`return ${text};`)() as (...args: number[]) => number;
    let run: ReturnType<typeof evaluator>, ir: string;
    try {
      const expr = scoreMod(f as never).expr();
      ir = print(expr);
      if (ir.length > 50_000) continue;
      run = evaluator(expr);
    } catch (error) {
      // What may be refused here: a var that has a value on some paths only, loops that are too long, chains that are too deep.
      assert.ok(error instanceof ModError && /has no value yet|more than 1024 times|operations deep/.test(error.message), `${String(error)}\n${text}`);
      continue;
    }
    compiled++;
    if (ir.includes("?")) branching++;
    for (let n = 0; n < 40; n++) {
      const [b, h, q, kv] = [n % 3, (n >> 1) % 4, (n * 7) % 11, (n * 5) % 13];
      const want = f(0.5, b!, h!, q!, kv!), got = run({ b: b!, h: h!, q: q!, kv: kv!, score: 0.5, uniforms: {}, tables: {} });
      assert.equal(got, Number(want) + 0, `seed ${seed}, b ${b} h ${h} q ${q} kv ${kv}\n${text}\n${ir}`);
    }
  }
  assert.ok(compiled > 900 && branching > 400, `${compiled} of 1500 programs compiled, ${branching} with branches: too few to show much`);
});
