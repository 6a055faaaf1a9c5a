/** What the docs say is so: links lead somewhere, docs/walk.md's files and functions are where it says, and examples print what is pasted. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";

const root = new URL("../", import.meta.url).pathname;
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const exists = (path: string): boolean => existsSync(join(root, path));

/** Links of a page to files that are not there. Those to other sites are not followed. */
function deadLinks(page: string, text: string): string[] {
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((m) => m[1]!.replace(/#.*$/, ""))
    .filter((target) => target !== "" && !/^[a-z]+:/.test(target) && !exists(normalize(join(dirname(page), target))))
    .map((target) => `${page} links to ${target}, which is not there`);
}

/** Whether `source` defines `name`: a function, a constant, a method of a class, object or interface, or a function of an emitted module. */
function defines(source: string, name: string): boolean {
  return [
    `(?:function\\*?|const) ${name}\\b`,
    `^ +(?:static |async |get |\\*)*${name}(?:<[^(]*>)?\\(.*\\)(?:: [^=]+)? \\{`,
    `^ +${name}(?:<[^(]*>)?\\(.*\\): .*;$`,
    `^ +${name}: (?:async )?\\(`,
    `(?:func|kernel)\\((?:m, )?"${name}"`,
  ].some((pattern) => new RegExp(pattern, "m").test(source));
}

/** From the class's or interface's opening line to the brace that closes it. */
function bodyOf(source: string, name: string): string | undefined {
  return new RegExp(`^(?:export )?(?:class|interface) ${name}\\b[\\s\\S]*?^\\}`, "m").exec(source)?.[0];
}

/** What a page quotes that is not so: paths in code spans, and `name()` or `Class.name()` in the source file linked last before it. */
function deadQuotes(page: string, text: string): string[] {
  const found: string[] = [];
  let file: string | undefined;
  const prose = text.replace(/^ *```[\s\S]*?^ *```/gm, "");
  for (const [, target, code] of prose.matchAll(/\]\(([^)\s]+)\)|`([^`]+)`/g)) {
    if (target?.endsWith(".ts")) file = normalize(join(dirname(page), target));
    else if (code && /^[\w./-]+(?:\.(?:ts|js|md)|\/)$/.test(code)) {
      if (!exists(code) && !exists(`src/${code}`)) found.push(`${page} names ${code}, which is not there`);
    } else {
      const [, owner, name] = /^(?:(\w+)\.)?(#?\w+)\(\)$/.exec(code ?? "") ?? [];
      if (name === undefined) continue;
      const source = file !== undefined && exists(file) ? read(file) : "";
      const place = owner === undefined ? source : bodyOf(source, owner);
      if (place === undefined || !defines(place, name)) found.push(`${page}: ${file} has no ${owner ? `${owner}.` : ""}${name}()`);
    }
  }
  return found;
}

const pages = ["README.md", "AGENTS.md", ...readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)];

test("every link of every page leads to a file that is there", () => {
  assert.deepEqual(pages.flatMap((page) => deadLinks(page, read(page))), []);
});

test("the walk names files and functions that exist", () => {
  const walk = read("docs/walk.md");
  assert.deepEqual(deadQuotes("docs/walk.md", walk), []);
  assert.ok([...walk.matchAll(/`(?:\w+\.)?#?\w+\(\)`/g)].length >= 50, "the walk quotes its functions as `name()`");
});

test("the README's table of the walk names files that exist", () => {
  const table = read("README.md").split("## The walk of a request")[1]!.split("\n").filter((line) => line.startsWith("| `"));
  const named = table.flatMap((line) => [...line.split("|")[1]!.matchAll(/`([^`]+)`/g)].map((m) => m[1]!));
  let folder = "";
  const missing = named.filter((name) => {
    // `server/schema.ts`, `chat.ts`: the second stands in the first one's folder.
    if (name.includes("/")) folder = dirname(name);
    return !exists(`src/${name}`) && !exists(`src/${folder}/${name}`);
  });
  assert.ok(named.length >= 10);
  assert.deepEqual(missing, []);
});

/** Tests that a page names, `file.test.ts` "beginning of its name", "another's", and that are not there. */
function lostTests(text: string): string[] {
  return [...text.matchAll(/`([\w./-]+\.test\.ts)`((?:,? "[^"]+")*)/g)].flatMap(([, file, names]) => {
    if (!exists(file!)) return [`${file} is not there`];
    const source = read(file!);
    return [...names!.matchAll(/"([^"]+)"/g)].flatMap(([, name]) => (source.includes(name!) ? [] : [`${file} has no test "${name}"`]));
  });
}

test("the page of faults names tests that exist", () => {
  const page = read("docs/faults.md");
  assert.deepEqual(lostTests(page), []);
  assert.ok([...page.matchAll(/^\| \d/gm)].length >= 20, "the table is there");
  assert.equal(lostTests('`tests/nowhere.test.ts`, `tests/layers.test.ts` "the map test sees", "no such name"').length, 2);
});

test("a page that lies is caught: a dead link, a lost file, a function that moved, a method of another class", () => {
  const llm = "[`llm.ts`](../src/llm.ts)";
  assert.equal(deadLinks("docs/x.md", "see [here](../src/nowhere.ts#part)").length, 1);
  assert.deepEqual(deadQuotes("docs/x.md", `${llm} \`LLM.check()\`, \`drawSeed()\`, \`core/queue.ts\``), []);
  assert.equal(deadQuotes("docs/x.md", "`core/nowhere.ts`").length, 1);
  assert.equal(deadQuotes("docs/x.md", "`check()` of no file").length, 1);
  assert.equal(deadQuotes("docs/x.md", `${llm} \`LLM.nothing()\``).length, 1);
  assert.equal(deadQuotes("docs/x.md", `${llm} \`Parts.check()\``).length, 1, "check is the LLM's");
  assert.equal(deadQuotes("docs/x.md", `${llm} \`startText()\``).length, 1, "a call is no definition");
});

test("docs/attention.md shows what the pipeline example prints, generated code included", () => {
  const printed = execFileSync(process.execPath, ["examples/attention-pipeline.ts"], { encoding: "utf8", cwd: root });
  assert.ok(printed.includes("--- emit"));
  assert.ok(read("docs/attention.md").includes(printed.trim()), "docs/attention.md differs from `node examples/attention-pipeline.ts`; paste its output there");
});
