/**
 * The body of a mod's function, from syntax tree to expression, by running it on symbolic values.
 *
 * Variables hold values, not places: an `if` runs both branches and joins what they assigned with `select`; an early return
 * makes the rest of the body the other side of a choice; a loop with known bounds is run through. It knows where each
 * construct stands, so that what it refuses is refused by line and column.
 */
import type {
  AnyNode, AssignmentExpression, BlockStatement, CallExpression, Expression, ForStatement, IfStatement, LogicalExpression, MemberExpression, ObjectPattern, Pattern,
  SequenceExpression, Statement, UpdateExpression, VariableDeclaration,
} from "acorn";
import { UsageError } from "../core/errors.ts";
import { binary, constant, type Expr, extent, load, uniform, unary } from "../ir/expr.ts";
import { type Captures, type CaptureSlots, inlineKey } from "./captures.ts";
import { imported, isCounter, keptFunction, namesFunction } from "./altered.ts";
import { builtin } from "./builtins.ts";
import { mathConstants, mathRemedies, otherFunctions, packageFunctions, realFunctions, roundingFunctions } from "./language.ts";
import { ModError } from "./mod-error.ts";
import { type Flow, joinFlows, never } from "./flow.ts";
import { explainName, refusals } from "./refusals.ts";
import {
  and, arithmeticOp, asExpr, choose, comparisonOp, describe, expression, type FunctionNode, type Inlinable, isThere, literal, not, numeric, or, quotient, Scope, type Source,
  toI32, toIndex, truncDiv, truthy, type Value, type Variable,
} from "./values.ts";

/** Iterations of all loops of a mod together, helpers and inlined mods each counted for themselves. */
const maxIterations = 1024;

export class Lowering {
  readonly #source: Source;
  readonly #slots: CaptureSlots;
  /** Assignments since the innermost branch began, with the values before. */
  #journal: Map<Variable, Value | undefined> | undefined;
  /** The calls being run, innermost last: each function, and when it has returned already. */
  readonly #calls: { readonly f: FunctionNode; returned: Expr }[] = [];
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
    if (pattern.type === "Identifier") scope.declare(pattern.name, { value: { kind: "captures", captures }, assignable: false, is: "the captures" });
    else if (pattern.type === "ObjectPattern") this.#takeApart(pattern, { kind: "captures", captures }, scope);
    else this.fail(pattern, "the captures come as one object: ({ size }) => ...");
  }

  /** `{ size, cap: c }` of the captures, or of Math. */
  #takeApart(pattern: ObjectPattern, from: Value, scope: Scope): void {
    for (const property of pattern.properties) {
      if (property.type === "RestElement") this.fail(property, "'...' is not in the language; name each capture");
      if (property.computed || property.key.type !== "Identifier") this.fail(property, "a capture is named plainly: ({ size }) => ...");
      if (property.value.type !== "Identifier") this.fail(property.value, "a capture has no default and no parts; pass its value with the captures");
      scope.declare(property.value.name, { value: this.#part(property, from, property.key.name), assignable: false, is: "a capture" });
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
    if (this.#calls.some((call) => call.f === f)) this.fail(at, "a function that calls itself is not in the language; write a for loop with known bounds");
    const own = { f, returned: constant("bool", 0) };
    this.#calls.push(own);
    const inner = new Scope(scope, true);
    f.params.forEach((param, i) => {
      if (param.type !== "Identifier") return this.#refuse(param);
      inner.declare(param.name, { value: args[i], assignable: true, is: "a parameter", call: own });
    });
    const result = f.body.type === "BlockStatement" ? this.#body(f.body, inner, condition) : this.#value(f.body, inner, condition);
    this.#calls.pop();
    return result;
  }

  #body(block: BlockStatement, scope: Scope, condition: boolean): Value {
    const flow = this.statements(block.body, scope, condition);
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
      if (s.type === "VariableDeclaration" && s.kind === "var") for (const d of s.declarations) if (d.id.type === "Identifier") this.#declareVar(d.id.name, scope);
    }
    return this.#inTurn(body.values(), (s) => this.#statement(s, scope, condition));
  }

  /** The flow of steps one after another. While they run, the call knows when it has returned already. */
  #inTurn<Step extends { readonly start: number }>(steps: Iterable<Step>, run: (step: Step) => Flow): Flow {
    const call = this.#calls.at(-1), before = call?.returned;
    const earlier: Extract<Flow, { returns: "maybe" }>[] = [];
    let rest: Value | undefined, at: Step | undefined;
    for (const step of steps) {
      const flow = run(at = step);
      if (flow.returns === "maybe") {
        earlier.push(flow);
        if (call) call.returned = or(call.returned, flow.when);
      }
      if (flow.returns === "always") {
        rest = flow.value;
        break;
      }
    }
    if (call) call.returned = before!;
    const always = rest !== undefined;
    if (!always && earlier.length === 0) return never;
    const when = always ? undefined : earlier.map((f) => f.when).reduce(or);
    rest ??= earlier.pop()!.value;
    const value = earlier.reduceRight((later, f) => this.#at(at!, () => choose(f.when, f.value, later)), rest);
    return when ? { returns: "maybe", when, value } : { returns: "always", value };
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
      case "WhileStatement": return this.#for({ ...s, type: "ForStatement" }, scope, condition);
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
    const call = this.#calls.at(-1);
    for (const d of s.declarations) {
      const value = d.init ? this.expression(d.init, scope) : undefined;
      if (d.id.type === "ObjectPattern" && (value?.kind === "captures" || value?.kind === "math")) this.#takeApart(d.id, value, scope);
      else if (d.id.type !== "Identifier") this.#refuse(d.id);
      else if (s.kind === "var") {
        this.#declareVar(d.id.name, scope);
        if (value) this.#assign(d, d.id.name, scope, () => value, true);
      } else scope.declare(d.id.name, { value, assignable: s.kind === "let", is: "a constant", call });
    }
  }

  #declareVar(name: string, scope: Scope): void {
    scope.declareVar(name, { value: undefined, assignable: true, is: "a variable", call: this.#calls.at(-1) });
  }

  /** A statement that is an expression: an assignment, or several under conditions as minifiers write them. */
  #effect(node: Expression, scope: Scope): void {
    switch (node.type) {
      case "Literal": return; // a directive
      case "ParenthesizedExpression": return this.#effect(node.expression, scope);
      case "UpdateExpression": case "AssignmentExpression": this.#assignment(node, scope); return;
      case "SequenceExpression": for (const part of node.expressions) this.#effect(part, scope); return;
      case "ConditionalExpression": this.#either(node, this.condition(node.test, scope), () => this.#effect(node.consequent, scope), () => this.#effect(node.alternate, scope)); return;
      case "LogicalExpression": {
        const run = (): void => this.#effect(node.right, scope), nothing = (): void => {};
        const c = node.operator === "??" ? this.#refuseNullish(node) : this.condition(node.left, scope);
        this.#either(node, c, ...(node.operator === "&&" ? [run, nothing] as const : [nothing, run] as const));
        return;
      }
      default:
        if (keptFunction(node, scope)) return;
        if (node.type === "CallExpression") this.expression(node, scope); // names what is wrong with it
        this.fail(node, "this does nothing: a mod has no effects, it only returns a value");
    }
  }

  #refuseNullish(node: { readonly start: number }): never {
    return this.fail(node, "'??' is only for a load, t[i] ?? 0; other numbers are always there");
  }

  /** Assigns; returns the value that the assignment has as an expression. A coverage counter is nothing. */
  #assignment(node: UpdateExpression | AssignmentExpression, scope: Scope): Value {
    if (isCounter(node)) return literal(0);
    if (node.type === "UpdateExpression") {
      if (node.argument.type !== "Identifier") return this.fail(node, "only local variables can be assigned");
      let before: Value | undefined;
      const after = this.#assign(node, node.argument.name, scope, (old) => arithmeticOp(node.operator === "++" ? "+" : "-", before = old, literal(1)));
      return node.prefix ? after : before!;
    }
    const target = node.left;
    if (target.type !== "Identifier") return this.fail(target, "a mod cannot write to a capture or an array; it only returns a value");
    const { operator } = node;
    if (operator === "&&=" || operator === "||=" || operator === "??=") return this.fail(node, `'${operator}' is not in the language; use if`);
    return this.#assign(node, target.name, scope, (old) => {
      const value = this.expression(node.right, scope);
      return operator === "=" ? value : arithmeticOp(operator.slice(0, -1), old, value);
    }, operator === "=");
  }

  #assign(node: { readonly start: number }, name: string, scope: Scope, next: (old: Value) => Value, fresh = false): Value {
    const variable = scope.find(name);
    if (!variable) return this.fail(node, `'${name}' is not a local variable; a mod cannot change what is outside it`);
    if (!variable.assignable) return this.fail(node, `'${name}' is ${variable.is} and cannot be assigned; copy it: let x = ${name}`);
    const old = variable.value;
    if (!old && !fresh) return this.fail(node, `'${name}' has no value yet`);
    const value = this.#at(node, () => next(old ?? literal(NaN)));
    // Calls made since the variable's own assign to it only if they have not returned.
    const own = this.#calls.findLastIndex((call) => call === variable.call);
    const returned = this.#calls.slice(own + 1).map((call) => call.returned).reduce(or, constant("bool", 0));
    this.#set(variable, returned.kind === "const" && !returned.value ? value : old && this.#at(node, () => choose(returned, old, value)));
    return value;
  }

  #set(variable: Variable, value: Value | undefined): void {
    if (this.#journal && !this.#journal.has(variable)) this.#journal.set(variable, variable.value);
    variable.value = value;
  }

  /** Runs a branch, takes its assignments back, and says what they were. */
  #branch<T>(run: () => T): { readonly result: T; readonly after: ReadonlyMap<Variable, Value | undefined> } {
    const outer = this.#journal;
    const journal = new Map<Variable, Value | undefined>();
    this.#journal = journal;
    const result = run();
    this.#journal = outer;
    const after = new Map<Variable, Value | undefined>();
    for (const [variable, before] of journal) {
      after.set(variable, variable.value);
      variable.value = before;
    }
    return { result, after };
  }

  /** Runs what happens if `c` and what happens if not, and joins what they assign. What is known now is run alone. */
  #either<T>(at: { readonly start: number }, c: Expr, then: () => T, otherwise: () => T, ends: (result: T) => boolean = () => false): readonly [T | undefined, T | undefined] {
    if (c.kind === "const") return c.value ? [then(), undefined] : [undefined, otherwise()];
    const a = this.#branch(then), b = this.#branch(otherwise);
    for (const variable of new Set([...a.after.keys(), ...b.after.keys()])) {
      const before = variable.value;
      const inA = a.after.has(variable) ? a.after.get(variable) : before, inB = b.after.has(variable) ? b.after.get(variable) : before;
      // Nothing comes after a branch that ends the function: the other's values go on. But a caller's variable sees both.
      const local = variable.call === this.#calls.at(-1);
      const joined = local && ends(a.result) ? inB : local && ends(b.result) ? inA : inA && inB ? this.#at(at, () => choose(c, inA, inB)) : undefined;
      this.#set(variable, joined);
    }
    return [a.result, b.result];
  }

  #if(s: IfStatement, scope: Scope, condition: boolean): Flow {
    const c = this.condition(s.test, scope);
    const then = (): Flow => this.#statement(s.consequent, new Scope(scope), condition);
    const otherwise = (): Flow => (s.alternate ? this.#statement(s.alternate, new Scope(scope), condition) : never);
    const [a, b] = this.#either(s, c, then, otherwise, (flow) => flow.returns === "always");
    return a && b ? this.#at(s, () => joinFlows(c, a, b)) : (a ?? b)!;
  }

  #for(s: ForStatement, scope: Scope, condition: boolean): Flow {
    const own = new Scope(scope);
    if (s.init?.type === "VariableDeclaration") this.#declare(s.init, own);
    else if (s.init) this.#effect(s.init, own);
    return this.#inTurn(this.#iterate(s, own), () => this.#statement(s.body, new Scope(own), condition));
  }

  /** Once for each iteration; steps on when asked for the next. */
  *#iterate(s: ForStatement, scope: Scope): Generator<ForStatement> {
    for (;;) {
      const test = s.test ? this.condition(s.test, scope) : constant("bool", 1);
      if (test.kind !== "const") {
        this.fail(s.test ?? s, "the bounds of a loop must be known when it is compiled: use numbers, or a capture made with fixed(n)");
      }
      if (!test.value) return;
      if (++this.#iterations > maxIterations) this.fail(s, `the loops run more than ${maxIterations} times in all; they are unrolled, so use smaller bounds`);
      yield s;
      if (s.update) this.#effect(s.update, scope);
    }
  }

  /** An expression in a place that asks for true or false. */
  condition(node: Expression, scope: Scope): Expr {
    if (node.type === "LogicalExpression" && node.operator !== "??") {
      const a = this.condition(node.left, scope);
      if (a.kind === "const" && Boolean(a.value) === (node.operator === "||")) return a;
      const b = this.#further(node, a, () => this.condition(node.right, scope));
      return node.operator === "&&" ? and(a, b) : or(a, b);
    }
    if (node.type === "UnaryExpression" && node.operator === "!") return not(this.condition(node.argument, scope));
    if (node.type === "ParenthesizedExpression") return this.condition(node.expression, scope);
    if (node.type === "ConditionalExpression") {
      const c = this.condition(node.test, scope);
      const [a, b] = this.#either(node, c, () => this.condition(node.consequent, scope), () => this.condition(node.alternate, scope));
      return a && b ? asExpr(choose(c, expression(a), expression(b))) : (a ?? b)!;
    }
    if (node.type === "SequenceExpression") return this.#afterEffects(node, scope, (last) => this.condition(last, scope));
    const v = this.expression(node, scope);
    return this.#at(node, () => truthy(v));
  }

  /** A number; what is none is refused where it stands. */
  #operand(node: Expression, scope: Scope): Value {
    const value = this.expression(node, scope);
    return value.kind === "literal" ? value : expression(this.#at(node, () => asExpr(value)));
  }

  /** The right side of `a && b` or `a || b`, which runs if the left one says so. */
  #further<T>(node: LogicalExpression, left: Expr, right: () => T): T {
    const [a, b] = node.operator === "&&" ? this.#either<T | undefined>(node, left, right, () => undefined) : this.#either<T | undefined>(node, left, () => undefined, right);
    return (a ?? b)!;
  }

  /** `a, b, c`: effects, then the value of the last. */
  #afterEffects<T>({ expressions }: SequenceExpression, scope: Scope, value: (last: Expression) => T): T {
    for (const effect of expressions.slice(0, -1)) this.#effect(effect, scope);
    return value(expressions.at(-1)!);
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
        const a = this.#operand(node.left, scope), b = this.#operand(node.right, scope);
        return this.#at(node, () => comparisonOp(node.operator, a, b) ?? arithmeticOp(node.operator, a, b));
      }
      case "LogicalExpression": return this.#logical(node, scope);
      case "ConditionalExpression": {
        const c = this.condition(node.test, scope);
        const [a, b] = this.#either(node, c, () => this.expression(node.consequent, scope), () => this.expression(node.alternate, scope));
        return a && b ? this.#at(node, () => choose(c, a, b)) : (a ?? b)!;
      }
      case "SequenceExpression": return this.#afterEffects(node, scope, (last) => this.expression(last, scope));
      case "MemberExpression": return this.#member(node, scope);
      case "CallExpression": return this.#call(node, scope);
      case "ArrowFunctionExpression": case "FunctionExpression": return { kind: "function", node, scope };
      case "AssignmentExpression": case "UpdateExpression": return this.#assignment(node, scope);
      default: return this.#refuse(node);
    }
  }

  #name(node: { readonly start: number }, name: string, scope: Scope): Value {
    const variable = scope.find(name);
    if (variable) return variable.value ?? this.fail(node, variable.is === "a parameter" ? `'${name}' gets no value in this call` : `'${name}' has no value yet`);
    if (name === "Math") return { kind: "math" };
    if (name === "Infinity" || name === "NaN") return literal(name === "NaN" ? NaN : Infinity);
    if (Object.hasOwn(packageFunctions, name) || name === "Number" || name === "Boolean") return { kind: "builtin", name };
    const reason = explainName(name);
    if (reason) return this.fail(node, reason);
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

  /** && and || as values: one of the two operands. t[i] ?? x: the element where there is one. */
  #logical(node: Extract<Expression, { type: "LogicalExpression" }>, scope: Scope): Value {
    const a = this.expression(node.left, scope);
    if (node.operator === "??") {
      const inside = isThere(a) ?? this.#refuseNullish(node);
      const [, b] = this.#either(node, inside, () => undefined, () => this.expression(node.right, scope));
      return b ? this.#at(node, () => choose(inside, a, b)) : a;
    }
    const c = this.#at(node.left, () => truthy(a));
    if (c.kind === "const") return Boolean(c.value) === (node.operator === "&&") ? this.expression(node.right, scope) : a;
    const b = this.#further(node, c, () => this.expression(node.right, scope));
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
    if (object.kind === "captures" || object.kind === "math") return this.#part(node, object, key);
    if (object.kind !== "table") return this.fail(node, `${describe(object)} has no parts; only captured arrays are indexed`);
    if (key === "length") return expression(extent(object.name, object.indices.length));
    if (key !== undefined) return this.fail(node, `.${key} is not in the language; a captured array has only [i] and .length`);
    const i = this.expression(node.property as Expression, scope);
    return this.#at(node.property, () => {
      const indices = [...object.indices, toIndex(i)];
      return indices.length === object.rank ? expression(load(object.type, object.name, indices)) : { ...object, indices };
    });
  }

  /** A capture, or what Math has, by its name; `key` is undefined where it is computed. */
  #part(node: { readonly start: number }, object: Value, key: string | undefined): Value {
    if (object.kind === "captures") {
      if (key === undefined) return this.fail(node, "a capture is named plainly: c.size");
      return this.capture(node, object.captures, key);
    }
    if (key !== undefined && Object.hasOwn(mathConstants, key)) return literal(mathConstants[key]!);
    if (key !== undefined && (Object.hasOwn(realFunctions, key) || Object.hasOwn(roundingFunctions, key) || otherFunctions.has(key))) return { kind: "builtin", name: `Math.${key}` };
    const remedy = key === undefined ? undefined : mathRemedies[key];
    return this.fail(node, `Math.${key ?? "[...]"} is not in the language${remedy ? `; write ${remedy}` : ""}`);
  }

  #knows(name: string, scope: Scope): boolean {
    return scope.find(name) !== undefined || Object.hasOwn(packageFunctions, name) || name === "Number" || name === "Boolean" || explainName(name) !== undefined;
  }

  #refuseCall(node: CallExpression, name: string): never {
    if (namesFunction(node)) this.fail(node, `'${name}' looks like a bundler's helper that keeps names (esbuild's keepNames); turn that off for files with mods`);
    const { kind, params } = this.#source;
    this.fail(node, `'${name}' is not a function of the language. Write it inside as an arrow function, or capture it as a mod; if a minifier renamed floorDiv, floorMod or clamp, capture that: ${kind}Mod(({ floorDiv }) => (${params}) => ..., { floorDiv })`);
  }

  #call(node: CallExpression, scope: Scope): Value {
    if (node.callee.type === "Super") return this.fail(node, "classes are not in the language");
    const kept = keptFunction(node, scope);
    if (kept) return this.expression(kept, scope);
    if (node.callee.type === "Identifier" && !this.#knows(node.callee.name, scope)) this.#refuseCall(node, node.callee.name);
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
