/**
 * The body of a mod's function, from syntax tree to expression, by running it on symbolic values.
 *
 * Variables hold values, not places: an `if` runs both branches and joins what they assigned with `select`; an early return
 * makes the rest of the body the other side of a choice; a loop with known bounds is run through. It knows where each
 * construct stands, so that what it refuses is refused by line and column.
 */
import type { AnyNode, BlockStatement, CallExpression, Expression, ForStatement, IfStatement, MemberExpression, Pattern, Statement, VariableDeclaration } from "acorn";
import { UsageError } from "../core/errors.ts";
import { binary, constant, type Expr, extent, load, uniform, unary } from "../ir/expr.ts";
import { type Captures, type CaptureSlots, inlineKey } from "./captures.ts";
import { mathConstants, mathRemedies, otherFunctions, packageFunctions, realFunctions, roundingFunctions } from "./language.ts";
import { ModError } from "./mod-error.ts";
import {
  and, arithmeticOp, asExpr, ceilDiv, choose, comparisonOp, describe, expression, floorDivI32, type FunctionNode, type Inlinable, literal, not, numeric, or, power,
  quotient, Scope, type Source, toF32, toI32, toIndex, truncDiv, truthy, unify, type Value, type Variable,
} from "./values.ts";

/** Iterations of all loops of a mod together, helpers and inlined mods each counted for themselves. */
const maxIterations = 1024;

/** What a stretch of statements does: it returns never, always, or when a condition holds. */
type Flow = { readonly returns: "never" } | { readonly returns: "always"; readonly value: Value } | { readonly returns: "maybe"; readonly when: Expr; readonly value: Value };
const never: Flow = { returns: "never" };

/** What a piece of syntax outside the language is called, and what to write instead. */
const refusals: Readonly<Record<string, string>> = {
  AwaitExpression: "'await' is not in the language; compute the value before and capture it",
  YieldExpression: "'yield' is not in the language",
  ThisExpression: "'this' is not in the language; pass what it holds as a capture",
  NewExpression: "'new' is not in the language; make the object outside and capture its numbers or typed arrays",
  TemplateLiteral: "a template string is not in the language; a mod computes numbers",
  TaggedTemplateExpression: "a template string is not in the language; a mod computes numbers",
  ArrayExpression: "an array is not in the language; capture a typed array",
  ObjectExpression: "an object is not in the language; use local variables",
  ClassExpression: "a class is not in the language",
  ClassDeclaration: "a class is not in the language",
  ChainExpression: "'?.' is not in the language; captures are always there",
  ImportExpression: "import() is not in the language",
  SequenceExpression: "the comma operator is not in the language; write two statements",
  WhileStatement: "a while loop is not in the language; write a for loop with bounds known when compiled",
  DoWhileStatement: "a do loop is not in the language; write a for loop with bounds known when compiled",
  ForOfStatement: "for...of is not in the language; write for (let i = 0; i < n; i++)",
  ForInStatement: "for...in is not in the language; write for (let i = 0; i < n; i++)",
  SwitchStatement: "'switch' is not in the language; write if and else",
  TryStatement: "'try' is not in the language; nothing in a mod throws",
  ThrowStatement: "'throw' is not in the language; check before you create the mod",
  BreakStatement: "'break' is not in the language; put the condition around what it skips",
  ContinueStatement: "'continue' is not in the language; put the condition around what it skips",
  LabeledStatement: "a label is not in the language",
};

/** Free names that tools put into a function's text, and what to do about them. */
const altered: readonly (readonly [RegExp, string])[] = [
  [/^__name$/, "the source was altered by a bundler that keeps names (esbuild's keepNames); turn that off for files with mods"],
  [/^cov_|^__cov/, "the source was altered to count coverage; exclude files with mods from coverage instrumentation"],
  [/^_?_?(vite|import|webpack|turbopack|interop|helpers)_/i, "the source was altered by a bundler; a mod must reach maskMod or scoreMod as it was written"],
];

export class Lowering {
  readonly #source: Source;
  readonly #slots: CaptureSlots;
  /** Assignments since the innermost branch began, with the values before. */
  #journal: Map<Variable, Value | undefined> | undefined;
  readonly #calls: FunctionNode[] = [];
  #iterations = 0;

  constructor(source: Source, slots: CaptureSlots) {
    this.#source = source;
    this.#slots = slots;
  }

  fail(node: { readonly start: number }, message: string): never {
    throw new ModError(message, this.#source.text, node.start, this.#source.site);
  }

  /** Runs `f`, giving its type errors the place of `node`. */
  #at<T>(node: { readonly start: number }, f: () => T): T {
    try {
      return f();
    } catch (error) {
      if (error instanceof UsageError && !(error instanceof ModError)) this.fail(node, error.message);
      throw error;
    }
  }

  /** Binds the captures that an outer function's parameter names. */
  bindCaptures(pattern: Pattern, captures: Captures, scope: Scope): void {
    if (pattern.type === "Identifier") {
      scope.declare(pattern.name, { value: { kind: "captures", captures }, assignable: false, is: "the captures" });
      return;
    }
    if (pattern.type !== "ObjectPattern") this.fail(pattern, "the captures come as one object: ({ size }) => ...");
    for (const property of pattern.properties) {
      if (property.type === "RestElement") this.fail(property, "'...' is not in the language; name each capture");
      if (property.computed || property.key.type !== "Identifier") this.fail(property, "a capture is named plainly: ({ size }) => ...");
      if (property.value.type !== "Identifier") this.fail(property.value, "a capture has no default and no parts; pass its value with the captures");
      const value = this.capture(property, captures, property.key.name);
      scope.declare(property.value.name, { value, assignable: false, is: "a capture" });
    }
  }

  /** A capture as a value. */
  capture(node: { readonly start: number }, captures: Captures, key: string): Value {
    if (!Object.hasOwn(captures, key)) {
      this.fail(node, `'${key}' is not among the captures (${Object.keys(captures).join(", ") || "there are none"}). Pass it: ${this.#source.kind}Mod(({ ${key} }) => ..., { ${key} })`);
    }
    const type = this.#slots.look(captures, key);
    switch (type.kind) {
      case "fixed": return literal(type.value);
      case "uniform": {
        const u = uniform(type.type, this.#slots.slotName(captures, key, type));
        return expression(type.boolean ? binary("ne", u, constant("i32", 0)) : u);
      }
      case "table": return { kind: "table", name: this.#slots.slotName(captures, key, type), type: type.type, rank: type.rank, indices: [] };
      case "function": {
        const f = captures[key] as (...args: never) => unknown;
        if (inlineKey in f) return { kind: "mod", mod: f[inlineKey] as Inlinable };
        const known = Object.entries(packageFunctions).find(([, g]) => g === f);
        if (known) return { kind: "builtin", name: known[0] };
        return this.fail(node, `the capture '${key}' is a plain function; make it a mod with maskMod or scoreMod, or write it inside as a local arrow function`);
      }
      case "refused": return this.fail(node, `the capture '${key}' is ${type.found}; ${type.remedy}`);
      default: return type satisfies never;
    }
  }

  /** The value of a call of `f` with these arguments; as a condition (bool) where `condition` says so. */
  call(at: { readonly start: number }, f: FunctionNode, scope: Scope, args: readonly Value[], condition: boolean): Value {
    if (f.async) this.fail(f, "an async function is not in the language; a mod computes at once");
    if (f.generator) this.fail(f, "a generator is not in the language");
    if (this.#calls.includes(f)) this.fail(at, "a function that calls itself is not in the language; write a for loop with known bounds");
    this.#calls.push(f);
    const inner = new Scope(scope);
    f.params.forEach((param, i) => {
      if (param.type !== "Identifier") this.fail(param, "a parameter is one plain name");
      inner.declare(param.name, { value: args[i], assignable: true, is: "a parameter" });
    });
    const result = f.body.type === "BlockStatement" ? this.#body(f.body, inner, condition) : this.#value(f.body, inner, condition);
    this.#calls.pop();
    return result;
  }

  #body(block: BlockStatement, scope: Scope, condition: boolean): Value {
    const flow = this.statements(block.body, new Scope(scope), condition);
    if (flow.returns === "never") this.fail(block, "the function returns nothing; every path must return a value");
    if (flow.returns === "maybe") this.fail({ start: block.end - 1 }, "not every path returns a value; add a return before this brace");
    return flow.value;
  }

  /** An expression for its value, or as a condition. */
  #value(node: Expression, scope: Scope, condition: boolean): Value {
    return condition ? expression(this.condition(node, scope)) : this.expression(node, scope);
  }

  /** Statements in order. `condition`: what they return is a condition. */
  statements(body: readonly Statement[], scope: Scope, condition: boolean): Flow {
    for (const s of body) {
      if (s.type === "FunctionDeclaration") scope.declare(s.id.name, { value: { kind: "function", node: s, scope }, assignable: false, is: "a function" });
    }
    const earlier: Extract<Flow, { returns: "maybe" }>[] = [];
    for (const s of body) {
      const flow = this.#statement(s, scope, condition);
      if (flow.returns === "maybe") earlier.push(flow);
      if (flow.returns === "always") {
        return { returns: "always", value: earlier.reduceRight((rest, f) => this.#at(s, () => choose(f.when, f.value, rest)), flow.value) };
      }
    }
    if (earlier.length === 0) return never;
    const last = earlier.at(-1)!;
    const value = earlier.slice(0, -1).reduceRight((rest, f) => choose(f.when, f.value, rest), last.value);
    return { returns: "maybe", when: earlier.map((f) => f.when).reduce(or), value };
  }

  #statement(s: Statement, scope: Scope, condition: boolean): Flow {
    switch (s.type) {
      case "ReturnStatement":
        if (!s.argument) this.fail(s, "a return needs a value");
        return { returns: "always", value: this.#value(s.argument, scope, condition) };
      case "BlockStatement": return this.statements(s.body, new Scope(scope), condition);
      case "VariableDeclaration": this.#declare(s, scope); return never;
      case "IfStatement": return this.#if(s, scope, condition);
      case "ForStatement": return this.#for(s, scope, condition);
      case "ExpressionStatement": this.#effect(s.expression, scope); return never;
      case "FunctionDeclaration": case "EmptyStatement": return never;
      default: return this.#refuse(s);
    }
  }

  #refuse(node: AnyNode): never {
    return this.fail(node, refusals[node.type] ?? `${node.type} is not in the language`);
  }

  #declare(s: VariableDeclaration, scope: Scope): void {
    if (s.kind !== "let" && s.kind !== "const" && s.kind !== "var") this.fail(s, `'${s.kind}' is not in the language; use let or const`);
    for (const d of s.declarations) {
      if (d.id.type !== "Identifier") this.fail(d.id, "taking apart an object or array is not in the language; use one variable each");
      const value = d.init ? this.expression(d.init, scope) : undefined;
      scope.declare(d.id.name, { value, assignable: s.kind !== "const", is: "a constant" });
    }
  }

  /** A statement that is an expression: an assignment. */
  #effect(node: Expression, scope: Scope): void {
    if (node.type === "Literal") return; // a directive
    if (node.type === "UpdateExpression") {
      if (node.argument.type !== "Identifier") this.fail(node, "only local variables can be assigned");
      return this.#assign(node, node.argument.name, scope, (old) => arithmeticOp(node.operator === "++" ? "+" : "-", old, literal(1)));
    }
    if (node.type !== "AssignmentExpression") {
      if (node.type === "CallExpression") this.expression(node, scope); // names what is wrong with it
      this.fail(node, "this does nothing: a mod has no effects, it only returns a value");
    }
    const target = node.left;
    if (target.type !== "Identifier") this.fail(target, "a mod cannot write to a capture or an array; it only returns a value");
    const { operator } = node;
    if (operator === "&&=" || operator === "||=" || operator === "??=") this.fail(node, `'${operator}' is not in the language; use if`);
    this.#assign(node, target.name, scope, (old) => {
      const value = this.expression(node.right, scope);
      return operator === "=" ? value : arithmeticOp(operator.slice(0, -1), old, value);
    }, operator === "=");
  }

  #assign(node: { readonly start: number }, name: string, scope: Scope, next: (old: Value) => Value, fresh = false): void {
    const variable = scope.find(name);
    if (!variable) this.fail(node, `'${name}' is not a local variable; a mod cannot change what is outside it`);
    if (!variable.assignable) this.fail(node, `'${name}' is ${variable.is} and cannot be assigned; copy it: let x = ${name}`);
    const old = variable.value;
    if (!old && !fresh) this.fail(node, `'${name}' has no value yet`);
    const value = this.#at(node, () => next(old ?? literal(NaN)));
    if (this.#journal && !this.#journal.has(variable)) this.#journal.set(variable, old);
    variable.value = value;
  }

  /** Runs a branch, takes its assignments back, and says what they were. */
  #branch(run: () => Flow): { readonly flow: Flow; readonly after: ReadonlyMap<Variable, Value | undefined> } {
    const outer = this.#journal;
    const journal = new Map<Variable, Value | undefined>();
    this.#journal = journal;
    const flow = run();
    this.#journal = outer;
    const after = new Map<Variable, Value | undefined>();
    for (const [variable, before] of journal) {
      after.set(variable, variable.value);
      variable.value = before;
    }
    return { flow, after };
  }

  #if(s: IfStatement, scope: Scope, condition: boolean): Flow {
    const c = this.condition(s.test, scope);
    const then = (): Flow => this.#statement(s.consequent, new Scope(scope), condition);
    const otherwise = (): Flow => (s.alternate ? this.#statement(s.alternate, new Scope(scope), condition) : never);
    if (c.kind === "const") return c.value ? then() : otherwise();
    const a = this.#branch(then), b = this.#branch(otherwise);
    for (const variable of new Set([...a.after.keys(), ...b.after.keys()])) {
      const before = variable.value;
      const inA = a.after.has(variable) ? a.after.get(variable) : before, inB = b.after.has(variable) ? b.after.get(variable) : before;
      const joined = a.flow.returns === "always" ? inB : b.flow.returns === "always" ? inA : inA && inB ? this.#at(s, () => choose(c, inA, inB)) : undefined;
      if (this.#journal && !this.#journal.has(variable)) this.#journal.set(variable, before);
      variable.value = joined;
    }
    return this.#at(s, () => joinFlows(c, a.flow, b.flow));
  }

  #for(s: ForStatement, scope: Scope, condition: boolean): Flow {
    const own = new Scope(scope);
    if (s.init?.type === "VariableDeclaration") this.#declare(s.init, own);
    else if (s.init) this.#effect(s.init, own);
    const earlier: Extract<Flow, { returns: "maybe" }>[] = [];
    const rest = (last: Value): Value => earlier.reduceRight((value, f) => this.#at(s, () => choose(f.when, f.value, value)), last);
    for (;;) {
      const test = s.test ? this.condition(s.test, own) : constant("bool", 1);
      if (test.kind !== "const") {
        this.fail(s.test ?? s, "the bounds of a loop must be known when it is compiled: use numbers, or a capture made with fixed(n)");
      }
      if (!test.value) break;
      if (++this.#iterations > maxIterations) this.fail(s, `the loops run more than ${maxIterations} times in all; they are unrolled, so use smaller bounds`);
      const flow = this.#statement(s.body, new Scope(own), condition);
      if (flow.returns === "always") return { returns: "always", value: rest(flow.value) };
      if (flow.returns === "maybe") earlier.push(flow);
      if (s.update) this.#effect(s.update, own);
    }
    if (earlier.length === 0) return never;
    const last = earlier.pop()!;
    return { returns: "maybe", when: [...earlier, last].map((f) => f.when).reduce(or), value: rest(last.value) };
  }

  /** An expression in a place that asks for true or false. */
  condition(node: Expression, scope: Scope): Expr {
    if (node.type === "LogicalExpression" && node.operator !== "??") {
      const a = this.condition(node.left, scope);
      if (a.kind === "const" && Boolean(a.value) === (node.operator === "||")) return a;
      const b = this.condition(node.right, scope);
      return node.operator === "&&" ? and(a, b) : or(a, b);
    }
    if (node.type === "UnaryExpression" && node.operator === "!") return not(this.condition(node.argument, scope));
    if (node.type === "ParenthesizedExpression") return this.condition(node.expression, scope);
    if (node.type === "ConditionalExpression") {
      const c = this.condition(node.test, scope);
      if (c.kind === "const") return this.condition(c.value ? node.consequent : node.alternate, scope);
      return asExpr(choose(c, expression(this.condition(node.consequent, scope)), expression(this.condition(node.alternate, scope))));
    }
    const v = this.expression(node, scope);
    return this.#at(node, () => truthy(v));
  }

  expression(node: Expression, scope: Scope): Value {
    switch (node.type) {
      case "Literal":
        if (typeof node.value === "number") return literal(node.value);
        if (typeof node.value === "boolean") return expression(constant("bool", node.value ? 1 : 0));
        return this.fail(node, `${node.raw ?? "this literal"} is not in the language; a mod computes with numbers and booleans`);
      case "Identifier": return this.#name(node, node.name, scope);
      case "ParenthesizedExpression": return this.expression(node.expression, scope);
      case "UnaryExpression": return this.#unary(node, scope);
      case "BinaryExpression": {
        if (node.left.type === "PrivateIdentifier") return this.fail(node, "a private name is not in the language");
        const a = this.expression(node.left, scope), b = this.expression(node.right, scope);
        return this.#at(node, () => comparisonOp(node.operator, a, b) ?? arithmeticOp(node.operator, a, b));
      }
      case "LogicalExpression": return this.#logical(node, scope);
      case "ConditionalExpression": {
        const c = this.condition(node.test, scope);
        if (c.kind === "const") return this.expression(c.value ? node.consequent : node.alternate, scope);
        const a = this.expression(node.consequent, scope), b = this.expression(node.alternate, scope);
        return this.#at(node, () => choose(c, a, b));
      }
      case "MemberExpression": return this.#member(node, scope);
      case "CallExpression": return this.#call(node, scope);
      case "ArrowFunctionExpression": case "FunctionExpression": return { kind: "function", node, scope };
      case "AssignmentExpression": case "UpdateExpression": return this.fail(node, "an assignment is a statement of its own in a mod");
      default: return this.#refuse(node);
    }
  }

  #name(node: { readonly start: number }, name: string, scope: Scope): Value {
    const variable = scope.find(name);
    if (variable) return variable.value ?? this.fail(node, variable.is === "a parameter" ? `'${name}' gets no value in this call` : `'${name}' has no value yet`);
    if (name === "Math") return { kind: "math" };
    if (name === "Infinity" || name === "NaN") return literal(name === "NaN" ? NaN : Infinity);
    if (Object.hasOwn(packageFunctions, name) || name === "Number" || name === "Boolean") return { kind: "builtin", name };
    if (name === "console") this.fail(node, "console is not in the language; call the mod as a plain function to print from it");
    for (const [pattern, remedy] of altered) if (pattern.test(name)) this.fail(node, `'${name}' is not a parameter: ${remedy}`);
    const { kind, params } = this.#source;
    return this.fail(node, `'${name}' is not a parameter. Pass it as a capture: ${kind}Mod(({ ${name} }) => (${params}) => ..., { ${name} })`);
  }

  #unary(node: Extract<Expression, { type: "UnaryExpression" }>, scope: Scope): Value {
    if (node.operator === "!") return expression(this.condition(node, scope));
    const v = this.expression(node.argument, scope);
    return this.#at(node, () => {
      switch (node.operator) {
        case "-": return v.kind === "literal" ? literal(-v.value) : expression(unary("neg", numeric(v)));
        case "+": return v.kind === "literal" ? v : expression(numeric(v));
        case "~": {
          if (v.kind === "literal") return literal(~v.value);
          const twice = v.kind === "expr" && v.expr.kind === "unary" && v.expr.op === "bitNot" ? v.expr.x : undefined;
          return expression(twice ?? unary("bitNot", quotient(v, truncDiv) ?? toI32(v)));
        }
        default: throw new UsageError(`'${node.operator}' is not in the language`);
      }
    });
  }

  /** && and || as values: one of the two operands. */
  #logical(node: Extract<Expression, { type: "LogicalExpression" }>, scope: Scope): Value {
    if (node.operator === "??") this.fail(node, "'??' is not in the language; numbers are always there");
    const a = this.expression(node.left, scope);
    const c = this.#at(node.left, () => truthy(a));
    if (c.kind === "const") return Boolean(c.value) === (node.operator === "&&") ? this.expression(node.right, scope) : a;
    const b = this.expression(node.right, scope);
    return this.#at(node, () => {
      const x = asExpr(a), y = asExpr(b);
      if (x.type === "bool" && y.type === "bool") return expression(node.operator === "&&" ? and(x, y) : or(x, y));
      return node.operator === "&&" ? choose(c, b, a) : choose(c, a, b);
    });
  }

  #member(node: MemberExpression, scope: Scope): Value {
    if (node.object.type === "Super" || node.property.type === "PrivateIdentifier") return this.fail(node, "classes are not in the language");
    const object = this.expression(node.object, scope);
    const key = !node.computed && node.property.type === "Identifier" ? node.property.name : undefined;
    if (object.kind === "captures") {
      if (key === undefined) return this.fail(node, "a capture is named plainly: c.size");
      return this.capture(node, object.captures, key);
    }
    if (object.kind === "math") {
      if (key !== undefined && Object.hasOwn(mathConstants, key)) return literal(mathConstants[key]!);
      if (key !== undefined && (Object.hasOwn(realFunctions, key) || Object.hasOwn(roundingFunctions, key) || otherFunctions.has(key))) return { kind: "builtin", name: `Math.${key}` };
      const remedy = key === undefined ? undefined : mathRemedies[key];
      return this.fail(node, `Math.${key ?? "[...]"} is not in the language${remedy ? `; write ${remedy}` : ""}`);
    }
    if (object.kind !== "table") return this.fail(node, `${describe(object)} has no parts; only captured arrays are indexed`);
    if (key === "length") return expression(extent(object.name, object.indices.length));
    if (key !== undefined) return this.fail(node, `.${key} is not in the language; a captured array has only [i] and .length`);
    const i = this.expression(node.property as Expression, scope);
    return this.#at(node.property, () => {
      const indices = [...object.indices, toIndex(i)];
      return indices.length === object.rank ? expression(load(object.type, object.name, indices)) : { ...object, indices };
    });
  }

  #call(node: CallExpression, scope: Scope): Value {
    if (node.callee.type === "Super") return this.fail(node, "classes are not in the language");
    const f = imported(node.callee, scope) ?? this.expression(node.callee, scope);
    const args = node.arguments.map((arg) => {
      if (arg.type === "SpreadElement") return this.fail(arg, "'...' is not in the language; write each argument");
      return this.expression(arg, scope);
    });
    if (f.kind === "function") return this.call(node, f.node, f.scope, args, false);
    if (f.kind === "mod") return this.#at(node, () => f.mod.inline(this.#slots, args));
    if (f.kind === "builtin") return this.#at(node, () => builtin(f.name, args));
    return this.fail(node, `${describe(f)} cannot be called`);
  }
}

/** This package's functions as bundlers and namespace imports write them: `x.floorDiv(...)` and `(0, x.floorDiv)(...)`. */
function imported(callee: Expression, scope: Scope): Value | undefined {
  const inner = callee.type === "ParenthesizedExpression" ? callee.expression : callee;
  const member = inner.type === "SequenceExpression" ? inner.expressions.at(-1)! : inner;
  if (member.type !== "MemberExpression" || member.computed || member.object.type !== "Identifier" || member.property.type !== "Identifier") return undefined;
  const { name } = member.property;
  return Object.hasOwn(packageFunctions, name) && !scope.find(member.object.name) ? { kind: "builtin", name } : undefined;
}

/** The flow of `if (c) a else b`. */
function joinFlows(c: Expr, a: Flow, b: Flow): Flow {
  if (a.returns === "never" && b.returns === "never") return never;
  if (a.returns === "always" && b.returns === "always") return { returns: "always", value: choose(c, a.value, b.value) };
  const whenA = a.returns === "always" ? c : a.returns === "maybe" ? and(c, a.when) : undefined;
  const whenB = b.returns === "always" ? not(c) : b.returns === "maybe" ? and(not(c), b.when) : undefined;
  if (a.returns === "never") return { returns: "maybe", when: whenB!, value: (b as Exclude<Flow, { returns: "never" }>).value };
  if (b.returns === "never") return { returns: "maybe", when: whenA!, value: a.value };
  return { returns: "maybe", when: or(whenA!, whenB!), value: choose(c, a.value, b.value) };
}

/** How many arguments a builtin takes. */
const arity: Readonly<Record<string, readonly [number, number]>> = {
  floorDiv: [2, 2], floorMod: [2, 2], clamp: [3, 3], "Math.min": [1, Infinity], "Math.max": [1, Infinity], "Math.hypot": [1, Infinity], "Math.pow": [2, 2], "Math.imul": [2, 2],
};

function builtin(name: string, args: readonly Value[]): Value {
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
