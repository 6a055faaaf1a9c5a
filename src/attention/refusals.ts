/**
 * What is outside the language of mods: what each piece of syntax and each telling name is called, and what to write instead.
 */

/** What a piece of syntax outside the language is called, and what to write instead. */
export const refusals: Readonly<Record<string, string>> = {
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
  AssignmentPattern: "a default value is not in the language; every argument is given",
  ArrayPattern: "taking apart an array is not in the language; use one variable each",
  ObjectPattern: "taking apart an object is not in the language, but for the captures and Math; use one variable each",
  RestElement: "'...' is not in the language; name each one",
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

/** Names that are free in a mod and have a better explanation than a forgotten capture. */
const known: readonly (readonly [RegExp, string])[] = [
  [/^console$/, "console is not in the language; call the mod as a plain function to print from it"],
  [/^arguments$/, "'arguments' is not in the language; name each parameter"],
  [/^undefined$/, "'undefined' is not in the language; a mod computes with numbers and booleans"],
  [/^(cov_|__cov)/, "'$' counts coverage in a way that is not known here; exclude files with mods from coverage instrumentation"],
  [/^__(awaiter|generator|asyncGenerator|await|read|spread|spreadArray|values|assign|rest)$/, "'$' is a helper that TypeScript puts in for an older language; compile files with mods for ES2022 or later"],
  [/^_(async_?to_?generator|sliced_?to_?array|to_?consumable_?array|object_?without_?properties|object_?spread)/i, "'$' is a helper of a compiler for an older language; compile files with mods for ES2022 or later"],
  [/^(floorDiv|floorMod|clamp)[$_]?\d+$/, "'$' is a function of this package that a bundler renamed; pass it as a capture, whose name is kept: ({ floorDiv }) => ..., { floorDiv }"],
  [/^_?_?(vite|import|webpack|turbopack|interop|helpers)_/i, "'$' was put in by a bundler; a mod must reach its constructor as it was written"],
];

/** Why a name that is free may be so; undefined for one that was only not passed. */
export function explainName(name: string): string | undefined {
  return known.find(([pattern]) => pattern.test(name))?.[1].replace("$", () => name);
}
