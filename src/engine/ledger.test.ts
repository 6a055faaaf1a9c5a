import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { defaultSampling } from "../sampling/params.ts";
import { clearTokens, type Entry, Ledger } from "./ledger.ts";

const entry = (id: string): Entry => ({ id, prompt: Int32Array.of(1), params: defaultSampling, standing: {}, output: [], numRead: 1, handedOver: false, numDeaths: 0, numBefore: 0 });
const ids = (entries: readonly Entry[]) => entries.map(({ id }) => id).join("");
function ledgerOf(names: string) {
  const ledger = new Ledger<Entry>();
  for (const id of names) ledger.add(entry(id));
  return ledger;
}
const tell = (ledger: Ledger<Entry>, id: string, count: number) => ledger.told(ledger.get(id)!, { id, tokens: Array<number>(count).fill(5) });

test("after one death all go to the next engine at once; after two, one by one, and the others when all have come further", () => {
  const ledger = ledgerOf("abc");
  assert.equal(ids(ledger.next()), "abc");
  assert.equal(ids(ledger.next()), "");
  assert.equal(ledger.lost(8), undefined);
  assert.equal(ids(ledger.next()), "abc");
  tell(ledger, "b", clearTokens);
  assert.equal(ledger.lost(8), undefined);
  ledger.add(entry("d"));
  assert.equal(ids(ledger.next()), "a", "b has shown that it is no engine's death");
  assert.equal(tell(ledger, "a", clearTokens - 1), false);
  assert.equal(ids(ledger.next()), "");
  assert.equal(tell(ledger, "a", 1), true);
  assert.equal(ids(ledger.next()), "c");
  ledger.remove("c");
  assert.equal(ids(ledger.next()), "bd");
});

test("whoever is being tried when an engine dies is to blame, and whoever is alone in it twice", () => {
  const ledger = ledgerOf("ab");
  for (let i = 0; i < 2; i++) {
    ledger.next();
    assert.equal(ledger.lost(8), undefined);
  }
  ledger.next();
  assert.equal(ledger.lost(8)!.id, "a");
  assert.equal(ids(ledger.all()), "b");
  const alone = ledgerOf("a");
  alone.next();
  assert.equal(alone.lost(8), undefined);
  alone.next();
  assert.equal(alone.lost(8)!.id, "a");
  assert.equal(alone.size, 0);
});

test("those whom the engine can not have worked on are no suspects", () => {
  const ledger = ledgerOf("abcdef");
  for (let i = 0; i < 2; i++) {
    ledger.next();
    tell(ledger, "f", 1);
    ledger.lost(2);
  }
  assert.deepEqual(ledger.all().map(({ numDeaths }) => numDeaths), [2, 2, 0, 0, 0, 2]);
});

test("whatever kills engines, it is found in three deaths, and everybody else ends", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = stream(seed), int = (n: number) => Math.floor(random() * n);
    const ledger = new Ledger<Entry>();
    const count = 1 + int(12), poison = String(int(count)), fatalAt = int(40), ends = new Set<string>();
    for (let i = 0; i < count; i++) ledger.add(entry(String(i)));
    let deaths = 0, blamed: string | undefined;
    for (let turns = 0; ledger.size > 0; turns++) {
      assert.ok(turns < 10_000, "never done");
      ledger.next();
      const inEngine = ledger.all().filter(({ handedOver }) => handedOver).slice(0, 4);
      assert.ok(inEngine.length > 0, "somebody is always in an engine");
      if (inEngine.some(({ id, output }) => id === poison && output.length >= fatalAt)) {
        deaths++;
        const found = ledger.lost(4);
        if (found) blamed = found.id;
        continue;
      }
      for (const { id, output } of inEngine) {
        if (int(3) === 0) continue;
        tell(ledger, id, 1 + int(3));
        if (output.length < 60) continue;
        ledger.remove(id);
        ends.add(id);
      }
    }
    assert.equal(blamed, poison);
    assert.equal(ends.size, count - 1);
    assert.ok(deaths <= 3, `${deaths} deaths`);
  }
});
